"""A read brings all of an object or fails, also where the file system does not notice."""

import os
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tasks.errors import StoreUnavailableError
from tasks.store import open_store


class CuttingFileSystem(MemoryFileSystem):
    """A store whose reads lose the last byte, and whose copies do."""

    protocol = "cutting"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def cat_file(self, path, start=None, end=None, **kwargs):
        return super().cat_file(path, start, end, **kwargs)[:-1]

    def get_file(self, rpath, lpath, **kwargs):
        super().get_file(rpath, lpath, **kwargs)
        os.truncate(lpath, self.info(rpath)["size"] - 1)


@pytest.mark.parametrize(
    "read",
    [
        lambda store, _: store.read_bytes("doc.json"),
        lambda store, _: store.read_json("doc.json"),
        lambda store, _: store.read_range("doc.json", 2, 5),
        lambda store, copy: store.get_file("doc.json", copy),
        lambda store, _: store.newest_pointer("log"),
    ],
)
def test_any_store_that_loses_bytes_is_found_out(tmp_path, read):
    fsspec.register_implementation("cutting", CuttingFileSystem, clobber=True)
    store = open_store("cutting://store")
    store.put_bytes(b'{"epoch": 1} ', "doc.json")
    store.put_bytes(b'{"epoch": 1} ', "log/00000001.json")
    with pytest.raises(StoreUnavailableError, match="bytes came instead of"):
        read(store, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
