import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.crc32c import crc32c


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # these three: RFC 3720, appendix B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_checksums_are_the_published_ones(data, crc):
    assert crc32c(data) == crc


@given(st.binary(max_size=100))
def test_checksums_are_googles(data):
    assert crc32c(data) == google_crc32c.value(data)
