"""The folder that a command writes its answer to: a new or an empty one, never a user's data."""

from collections.abc import Sequence
from pathlib import Path

from yolov5_core.config import ConfigError


def new_folder(folder: Path, given: Sequence[str], *, numbered: bool) -> Path:
    """A folder to write to, which is there and empty.

    Args:
        folder: The wish.
        given: Words that name the pictures, as find_sources takes them.
        numbered: Take folder2, folder3 ... where the wish has something in it.

    Raises:
        ConfigError: It has something in it, or lies in a folder that is a source.
    """
    wish, number = folder.expanduser().absolute(), 1
    chosen = wish
    while chosen.exists() and (not chosen.is_dir() or any(chosen.iterdir())):
        if not numbered:
            raise ConfigError(
                f"--out {folder}: there is something already, and nothing is ever overwritten; "
                "give a new or an empty folder"
            )
        number += 1
        chosen = wish.with_name(f"{wish.name}{number}")
    for word in given:
        root = Path(word.removeprefix("file://").partition("**")[0]).expanduser()
        if root.is_dir() and chosen.resolve().is_relative_to(root.resolve()):
            raise ConfigError(
                f"--out {chosen}: lies in {root}, whose pictures are the source, and nothing is "
                "written there; give a folder elsewhere"
            )
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen
