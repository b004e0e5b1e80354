"""Nothing that this program needs is under the GPL or AGPL, and every licence is known."""

import re
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PERMISSIVE = re.compile(
    r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Unlicense|Zlib|HPND|MIT-CMU|Historical "
    r"Permission|CC0|Public Domain|0BSD|Zope Public|Blue Oak|BlueOak|MPL|Mozilla Public)",
    re.IGNORECASE,
)
COPYLEFT = re.compile(r"\bA?GPL|Affero|General Public", re.IGNORECASE)
LESSER = re.compile(r"\bLGPL|Lesser General", re.IGNORECASE)
# Looked up by hand, where the metadata says nothing or too much: name to what it is, and why it may
# stay.
KNOWN = {
    "text-unidecode": "Artistic License or GPL, as the user likes; we take the first",
    "pycocotools": "FreeBSD, which its source files call Simplified BSD",
}


def locked() -> list[str]:
    names = set()
    for lock in ("requirements.lock", "requirements-dev.lock"):
        for line in (ROOT / lock).read_text("utf-8").splitlines():
            if match := re.match(r"([A-Za-z0-9._-]+)==", line):
                names.add(match[1])
    return sorted(names)


def licence(name: str) -> str:
    """All that a package says of its licence, in one text."""
    said = metadata.metadata(name)
    classifiers = [c for c in said.get_all("Classifier") or [] if c.startswith("License")]
    expression = said.get("License-Expression") or ""
    text = (said.get("License") or "").strip()
    return " | ".join(filter(None, [expression, *classifiers, text[:200]]))


@pytest.mark.parametrize("name", locked())
def test_a_package_is_under_a_licence_that_lets_people_use_us(name: str):
    try:
        said = licence(name)
    except metadata.PackageNotFoundError:
        pytest.skip("for another platform")
    if name in KNOWN:
        return
    assert not LESSER.search(said), said
    assert not COPYLEFT.search(said), said
    assert PERMISSIVE.search(said), f"{name} says {said!r}: look it up and enter it in KNOWN"


def test_what_was_looked_up_is_still_needed():
    assert set(KNOWN) <= set(locked())
