"""Encoded pictures: what decodes, what is refused and as what kind of fault."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from yolov5_core.decode import PictureError, decode, verify
from yolov5_core.faults import KINDS


def encoded(
    kind: str = "JPEG", size_wh: tuple[int, int] = (40, 30), mode: str = "RGB", **options: Any
) -> bytes:
    """A picture of noise in one of PIL's formats."""
    noise = np.random.default_rng(0).integers(0, 255, (size_wh[1], size_wh[0], 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(out, kind, **options)
    return out.getvalue()


def refusal(data: bytes) -> tuple[str, str]:
    with pytest.raises(PictureError) as caught:
        verify(data)
    assert KINDS[caught.value.kind].effect == "picture left out"
    return caught.value.kind, str(caught.value)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds ten bytes of it."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(10))),
        (b"IEND", b""),
    ]
    body = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "MPO"])
def test_pictures_of_the_usual_formats_are_whole(kind: str) -> None:
    image, remark = verify(encoded(kind))
    assert image.shape == (30, 40, 3)
    assert image.dtype == np.uint8
    assert remark == ""


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in ("L", "RGBA", "P", "1", "I;16")),
        *(("JPEG", mode) for mode in ("L", "CMYK")),
        *(("TIFF", "CMYK"), ("BMP", "1")),
    ],
)
def test_pictures_of_any_colour_model_decode_to_three_channels(kind: str, mode: str) -> None:
    image, _ = verify(encoded(kind, mode=mode))
    assert image.shape == (30, 40, 3)
    assert image.dtype == np.uint8


def test_the_channels_are_blue_green_red() -> None:
    data = cv2.imencode(".png", np.full((12, 12, 3), (10, 20, 30), np.uint8))[1].tobytes()
    assert decode(data)[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(("orientation", "size_wh"), [(1, (40, 30)), (3, (40, 30)), (6, (30, 40))])
def test_the_size_is_that_after_the_exif_orientation(
    orientation: int, size_wh: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, _ = verify(encoded(exif=exif))
    assert image.shape == (size_wh[1], size_wh[0], 3)


@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
def test_a_jpeg_can_be_decoded_smaller(reduce: int) -> None:
    image = decode(encoded(size_wh=(41, 30)), reduce)
    assert image.shape == (-(-30 // reduce), -(-41 // reduce), 3)


def test_an_empty_file_is_named_so() -> None:
    assert refusal(b"") == ("image-empty", "the file is empty")


@pytest.mark.parametrize("kept", [0.02, 0.1, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_a_cut_picture_of_any_format_is_refused(kind: str, kept: float) -> None:
    data = encoded(kind)
    assert refusal(data[: int(len(data) * kept)])[0] in ("image-truncated", "image-undecodable")


def test_a_jpeg_cut_in_its_data_is_called_truncated() -> None:
    data = encoded()
    kind, reason = refusal(data[: len(data) // 2])
    assert kind == "image-truncated"
    assert "truncated" in reason


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_in_the_data_of_a_png_is_found_by_its_checksum(place: float) -> None:
    data = bytearray(encoded("PNG"))
    data[int(len(data) * place)] ^= 1
    assert refusal(bytes(data))[0] == "image-undecodable"


@pytest.mark.parametrize("stray", [b"stray", b"\n", bytes(1000)])
def test_a_jpeg_with_stray_bytes_behind_it_is_used_with_a_remark(stray: bytes) -> None:
    data = encoded()
    image, remark = verify(data + stray)
    np.testing.assert_array_equal(image, decode(data))
    assert remark == "bytes after the end of the JPEG data; the picture is complete"


@pytest.mark.parametrize("size_wh", [(1, 1), (9, 100), (100, 9)])
def test_a_picture_with_a_side_under_ten_pixels_is_refused(size_wh: tuple[int, int]) -> None:
    reason = f"{size_wh[0]}x{size_wh[1]} pixels; both sides must be at least 10"
    assert refusal(encoded(size_wh=size_wh)) == ("image-too-small", reason)


@pytest.mark.parametrize("side", [9_500, 14_000, 60_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    kind, reason = refusal(png_header(side, side))
    assert kind == "image-too-large"
    assert "pixels" in reason


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (encoded("GIF"), "gif"),
        (encoded("PPM"), "ppm"),
        (encoded("ICO"), "ico"),
        (encoded("PDF"), "pdf"),
        (encoded("AVIF"), "avif"),
        (encoded("JPEG2000"), "jpeg2000"),
        (b"Pf\n20 20\n-1.0\n" + bytes(1600), "pfm"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "heic"),
        (b"<!DOCTYPE html><html>404 Not Found</html>", "text with markup (HTML, SVG)"),
    ],
)
def test_a_format_we_do_not_read_is_named_with_those_we_do(data: bytes, named: str) -> None:
    reason = f"format {named}; use JPEG, PNG, BMP, TIFF or WebP"
    assert refusal(data) == ("image-format", reason)


@pytest.mark.parametrize("data", [b"not a picture", b"\0" * 100, b"\xff\xd8\xff\xd9", b"\xff\xd8"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    assert refusal(data)[0] == "image-undecodable"


def with_byte(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


FOUND = {  # by the fuzzer: PIL 13 raises NotImplementedError, RuntimeError, TypeError
    "a DDS of an unknown pixel format": with_byte(encoded("DDS"), 80, 0),
    "an AVIF without its picture": with_byte(encoded("AVIF"), 81, 0x8F),
    "a TIFF whose rows per strip are a fraction": with_byte(encoded("TIFF"), 72, 10),
}


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damage_that_makes_pil_raise_what_it_does_not_document_is_refused(name: str) -> None:
    refusal(FOUND[name])


@pytest.mark.parametrize("data", [b"", b"not a picture"])
def test_decoding_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(PictureError, match="OpenCV cannot decode it"):
        decode(data)
