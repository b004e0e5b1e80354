"""Pictures inside a page, small enough that the page opens at once."""

import base64

import cv2
import numpy as np

_MAX_BYTES = 330_000  # of one; five of them as base64 leave the page below 3 MB
# Widths in pixels and JPEG qualities: the first that keeps a picture below its share.
_SHOWN_AS = ((1600, 85), (1280, 80), (1000, 75), (800, 70), (600, 60), (400, 50))


def as_data_uri(picture: bytes) -> str:
    """A picture as it is where it is small, else as a JPEG that is; "" if it is none."""
    for start, kind in ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg")):
        if picture.startswith(start) and len(picture) <= _MAX_BYTES:
            return _uri(picture, kind)
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) if picture else None
    if image is None:
        return ""
    for width, quality in _SHOWN_AS:
        scale = min(1.0, width / image.shape[1])
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if data.nbytes <= _MAX_BYTES:
            return _uri(data.tobytes(), "jpeg")
    return ""


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
