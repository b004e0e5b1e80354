"""Encoded pictures to arrays, and the check that a picture is whole."""

import io

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from yolov5_core.limits import MAX_PIXELS, MAX_SIDE

SHORTEST_SIDE = 10  # pixels, spec C.3
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")  # to PIL, MPO is a JPEG and DNG a TIFF
_REFUSED = {  # what people have in data sets all the same, by how the file begins
    b"GIF8": "gif",
    b"%PDF": "pdf",
    b"<": "text with markup (HTML, SVG)",
    b"\0\0\0\x0cjP": "jpeg2000",
    b"\0\0\1\0": "ico",
    b"P5": "ppm",
    b"P6": "ppm",
    b"PF": "pfm",
    b"Pf": "pfm",
}
_REFUSED_BOXED = {b"heic": "heic", b"heix": "heic", b"mif1": "heic", b"avif": "avif"}
_JPEG_FORMATS = ("JPEG", "MPO")
_JPEG_END = b"\xff\xd9"
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class PictureError(ValueError):
    """Bytes that are no usable picture; `kind` is one of faults.KINDS."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        super().__init__(reason)


def decode(data: bytes, reduce: int = 1) -> np.ndarray:
    """Decodes one picture, EXIF orientation applied.

    Args:
        data: A whole image file.
        reduce: 1, 2, 4 or 8: a JPEG comes out that many times smaller, sides rounded up, and is
            decoded faster.

    Returns:
        (H, W, 3) uint8 BGR.

    Raises:
        PictureError: OpenCV cannot decode it.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[reduce])
    except cv2.error as error:  # no bytes at all, or more pixels than OpenCV allows
        raise PictureError("image-undecodable", f"OpenCV cannot decode it: {error}") from error
    if image is None:
        raise PictureError("image-undecodable", "OpenCV cannot decode it")
    return image


def verify(data: bytes) -> tuple[np.ndarray, str]:
    """Decodes a picture and makes sure that it is whole and of a usable kind.

    Returns:
        (H, W, 3) uint8 BGR, and a remark about a picture that is used all the same, or "".

    Raises:
        PictureError: Empty, damaged, cut, of a wrong format, too small or too large.

    Source: spec C.3.
    """
    if not data:
        raise PictureError("image-empty", "the file is empty")
    try:
        remark = _inspect(data)
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("image-too-large", str(error)) from error
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except Exception as error:  # PIL promises nothing about what damaged files make it raise
        kind = "image-truncated" if "truncated" in str(error).lower() else "image-undecodable"
        raise PictureError(kind, str(error) or type(error).__name__) from error
    image = decode(data)
    height, width = image.shape[:2]
    if min(height, width) < SHORTEST_SIDE:
        reason = f"{width}x{height} pixels; both sides must be at least {SHORTEST_SIDE}"
        raise PictureError("image-too-small", reason)
    return image, remark


def _inspect(data: bytes) -> str:
    """Reads the header, and all of the file where OpenCV would say nothing of damage."""
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        image_format = image.format
        if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
            raise PictureError("image-too-large", f"{image.width}x{image.height} pixels")
        if image_format == "PNG":
            image.verify()  # checksums: finds cut and flipped bytes
    if image_format in _JPEG_FORMATS and data.endswith(_JPEG_END):
        return ""
    if image_format == "PNG":
        return ""
    _load_fully(data)  # a JPEG's missing part comes out grey; the rare formats verify nothing
    is_jpeg = image_format in _JPEG_FORMATS
    return "bytes after the end of the JPEG data; the picture is complete" if is_jpeg else ""


def _unidentified(data: bytes) -> PictureError:
    named = next((name for start, name in _REFUSED.items() if data.startswith(start)), None)
    if named is None and data[4:8] == b"ftyp":
        named = _REFUSED_BOXED.get(data[8:12])
    if named is None:
        return PictureError("image-undecodable", "cannot identify it as an image")
    return PictureError("image-format", f"format {named}; use JPEG, PNG, BMP, TIFF or WebP")


def _load_fully(data: bytes) -> None:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        image.load()
