"""What the last preparation of a source found, so that the next one reads only what changed."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np

from tasks.errors import DamagedObjectError, MissingObjectError
from tasks.records import Artifact
from tasks.store import Store
from yolov5_core.faults import Fault
from yolov5_core.limits import MAX_ARRAYS_BYTES
from yolov5_core.shards import CHECK_VERSION
from yolov5_core.sources import Item
from yolov5_core.zips import open_zip

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Known:
    """One preparation of a source, picture by picture."""

    digest: str  # of the data set it made
    class_names: tuple[str, ...]
    names: np.ndarray  # uint8, UTF-8 of "<split> <name>" of all pictures, each ended by 0
    stamps: np.ndarray  # (n,) uint64, see stamps_of
    rows: np.ndarray  # (n,) int64 rows of the index, -1 for a picture left out
    faults: tuple[tuple[int, Fault], ...]  # with the number of the picture

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Numbers of the pictures by key_of."""
        keys = self.names.tobytes().decode().split("\0")[:-1]
        return dict(zip(keys, range(len(keys)), strict=True))


def key_of(item: Item) -> str:
    """What stays the same while a picture changes."""
    return f"{item.split} {item.name}"


def stamps_of(items: Sequence[Item]) -> np.ndarray:
    """A 64-bit digest of each item's stamp: (n,) uint64."""
    digests = (hashlib.blake2b(i.stamp.encode(), digest_size=8).digest() for i in items)
    return np.frombuffer(b"".join(digests), "<u8")


def load_known(store: Store, source: str) -> Known | None:
    """What the newest preparation of a source found; None without one that can still be used."""
    found = store.newest_pointer(f"{source_key(source)}/checked")
    if found is None or found[1].get("check_version") != CHECK_VERSION:
        return None
    doc = found[1]
    try:
        data = store.read_artifact(Artifact(**doc["object"]))
        open_zip(BytesIO(data), MAX_ARRAYS_BYTES).close()
        with np.load(BytesIO(data), allow_pickle=False) as arrays:
            faults = json.loads(arrays["faults"].tobytes())
            return Known(
                digest=doc["digest"],
                class_names=tuple(doc["class_names"]),
                names=arrays["names"],
                stamps=arrays["stamps"],
                rows=arrays["rows"],
                faults=tuple((number, Fault(**fault)) for number, fault in faults),
            )
    except (DamagedObjectError, MissingObjectError, KeyError, TypeError, ValueError) as error:
        log.warning("what is known of %s cannot be read (%s): reading all of it", source, error)
        return None


def save_known(store: Store, source: str, known: Known) -> None:
    """Makes it the newest."""
    buffer = BytesIO()
    faults = json.dumps([(number, asdict(fault)) for number, fault in known.faults])
    np.savez(
        buffer,
        names=known.names,
        stamps=known.stamps,
        rows=known.rows,
        faults=np.frombuffer(faults.encode(), np.uint8),
    )
    data = buffer.getvalue()
    name = hashlib.sha256(data).hexdigest()[:16]
    before = store.newest_pointer(f"{source_key(source)}/checked")
    artifact = store.put_bytes(data, f"{source_key(source)}/{name}.npz")
    doc = {
        "source": source,
        "digest": known.digest,
        "class_names": list(known.class_names),
        "check_version": CHECK_VERSION,
        "object": asdict(artifact),
    }
    store.append_pointer(f"{source_key(source)}/checked", doc)
    if before and before[1]["object"]["key"] != artifact.key:  # it saves time, it is no record
        store.delete(before[1]["object"]["key"])


def last_accepted(store: Store, source: str) -> Mapping[str, Any] | None:
    """The entry of the newest data set of a source that was accepted: run, digest, profile."""
    found = store.newest_pointer(f"{source_key(source)}/accepted")
    return found[1] if found else None


def accept(store: Store, source: str, entry: Mapping[str, Any]) -> None:
    """Enters a data set that passed its gates."""
    store.append_pointer(f"{source_key(source)}/accepted", entry)


def source_key(source: str) -> str:
    """Where a source is remembered."""
    return f"datasets/sources/{hashlib.sha256(source.encode()).hexdigest()[:16]}"
