"""YAML as plain values of bounded size: the only way that any YAML file is read.

No object is ever made (PyYAML's safe loader), and what makes a small file large or slow is refused:
aliases, deep nesting, endless numbers.
"""

import os
import stat
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import Node, ScalarNode

from yolov5_core.limits import (
    MAX_YAML_BYTES,
    MAX_YAML_DEPTH,
    MAX_YAML_NUMBER,
    MAX_YAML_VALUES,
)

_LONGEST = 500  # characters of PyYAML's message
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class YamlError(ValueError):
    """A text that is no YAML, or refused; the message names line and fix, the caller the file."""


def load_yaml_file(path: Path) -> Any:
    """The content of a local YAML file as plain values.

    Raises:
        YamlError: It cannot be read, is too large, no UTF-8, no YAML, or refused.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # reading a pipe may never end
            raise YamlError("a folder, pipe or device; give a YAML file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(MAX_YAML_BYTES + 1)
    except OSError as error:
        raise YamlError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a 0 byte in the name
        raise YamlError(f"cannot be read: {error}") from error
    return load_yaml(data, max(size, len(data)))


def load_yaml(data: bytes, size: int = 0) -> Any:
    """The content of a YAML text as plain values.

    Args:
        data: The text in UTF-8, with or without a byte order mark.
        size: Bytes of the whole file, if `data` is only its beginning.

    Raises:
        YamlError: Too large, no UTF-8, no YAML, or refused.
    """
    if (size := max(size, len(data))) > MAX_YAML_BYTES:
        raise YamlError(
            f"{size} bytes, a YAML file has at most {MAX_YAML_BYTES}; give the right one"
        )
    try:
        return yaml.load(data.decode("utf-8-sig"), _StrictLoader)  # noqa: S506  a safe loader
    except YamlError:
        raise
    except Exception as error:  # PyYAML: a date of month 13 or `!!bool x` is no YAMLError to it
        raise YamlError(f"not YAML: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."  # it may quote a whole line


class _StrictLoader(yaml.SafeLoader):
    """Counts while the nodes are made, so that nothing is made of a file that is refused."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """See yaml.composer.Composer."""
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()  # type: ignore[no-untyped-call]
            raise _refused(alias, f"the alias *{alias.anchor}", "write the value out")
        self._depth += 1
        self._values += 1
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self._depth > MAX_YAML_DEPTH:
            what = f"more than {MAX_YAML_DEPTH} lists or mappings within each other"
            raise _refused(event, what, "give the right file")
        if self._values > MAX_YAML_VALUES:
            what = f"more than {MAX_YAML_VALUES} values"
            raise _refused(event, what, "name long lists in files of their own")
        node = super().compose_node(parent, index)
        self._depth -= 1
        text = node.value if isinstance(node, ScalarNode) and node.tag in _NUMBERS else ""
        if len(text) > MAX_YAML_NUMBER:
            raise _refused(event, f"a number of {len(text)} characters", "quote a text")
        return node


def _refused(event: Any, what: str, fix: str) -> YamlError:
    return YamlError(f"line {event.start_mark.line + 1}: {what}; {fix}")
