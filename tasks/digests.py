"""Digests of files: sha256 for our records, crc32c as Google Cloud Storage states it."""

import base64
import hashlib
from pathlib import Path

import google_crc32c

_CHUNK = 1 << 20  # bytes


def file_sha256(path: Path) -> str:
    """Sha256 of a local file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_crc32c(path: Path) -> str:
    """CRC-32C of a local file, big-endian in base64."""
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = google_crc32c.extend(checksum, chunk)
    return _written(checksum)


def crc32c(data: bytes) -> str:
    """CRC-32C of bytes, big-endian in base64."""
    return _written(google_crc32c.value(data))


def _written(checksum: int) -> str:
    return base64.b64encode(checksum.to_bytes(4, "big")).decode()
