"""Small numbers that describe a picture: brightness, and a hash that look-alikes share."""

import cv2
import numpy as np

_COLUMNS, _ROWS = 9, 8  # 8 differences a row, 64 bits in all
_FLAT = 1  # grey levels; less is noise of the compression


def features(image: np.ndarray) -> tuple[float, int]:
    """Brightness and difference hash of a picture.

    Args:
        image: (H, W, 3) uint8 BGR.

    Returns:
        Mean grey level, 0 to 255; 64 bits, one for each pair of horizontal neighbours in a 9 x 8
        thumbnail, set where the right one is clearly brighter. Re-encoded or resized copies differ
        in few bits.

    Source: dHash, N. Krawetz, "Kind of Like That", 2013.
    """
    height, width = image.shape[:2]
    step = max(1, min(height // (8 * _ROWS), width // (8 * _COLUMNS)))  # 64 pixels a cell suffice
    thumbnail = cv2.resize(
        np.ascontiguousarray(image[::step, ::step]), (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA
    )
    grey = thumbnail.astype(np.float32) @ np.array([0.114, 0.587, 0.299], np.float32)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1] + _FLAT)
    return float(grey.mean()), int.from_bytes(bits.tobytes(), "little")
