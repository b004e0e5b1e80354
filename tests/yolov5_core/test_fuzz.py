"""Whatever is in a file: it is read into something sane, or refused with a documented error.

A short run; `python -m benchmarks.fuzz` is the long one.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import mutated, randomness, targets

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")


@pytest.mark.parametrize("name", targets())
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_file_is_read_or_refused(name: str, data: st.DataObject) -> None:
    target = targets()[name]
    target.check(data.draw(target.inputs))


@pytest.mark.parametrize("name", targets())
def test_damaged_files_are_read_or_refused(name: str) -> None:
    rng, target = randomness(0), targets()[name]
    was_read = [target.check(mutated(rng, target)) for _ in range(300)]
    assert any(was_read)  # or the check has nothing to look at
    assert not all(was_read)


@pytest.mark.parametrize("name", targets())
def test_the_files_that_are_damaged_are_good(name: str) -> None:
    target = targets()[name]
    good = [target.check(seed) for seed in target.seeds]
    assert sum(good) >= len(good) - 1  # one picture is a GIF


FOUND = {  # what longer runs found once: they raised other errors, or wrote half characters
    "a date that is none": ("data.yaml", b"names: 2001-13-01"),
    "a truth that is none": ("data.yaml", b"names: !!bool x"),
    "a time that is none": ("data.yaml", b"names: !!timestamp x"),
    "half a character in a path": ("data.yaml", b'train: images\nval: "\\ud800"\nnames: [a]'),
    "half a character in a name": ("data.yaml", b'train: images\nval: images\nnames: ["\\ud800"]'),
    "lists in place of names": ("data.yaml", b"train: images\nval: images\nnames: &a [*a]"),
    "a number too long to be written": (
        "data.yaml",
        b"train: images\nval: images\nnc: 0x" + b"9" * 5000 + b"\nnames: [a]",
    ),
    "a codec that is no encoding": ("VOC", b'<?xml version="1.0" encoding="hex"?><annotation/>'),
    "a codec that warns": ("VOC", b'<?xml version="1.0" encoding="unicode_escape"?><annotation/>'),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_refused(name: str) -> None:
    target, data = FOUND[name]
    assert not targets()[target].check(data)
