import hashlib
import uuid
from dataclasses import asdict
from pathlib import Path

import pytest

from tasks import checkpoints
from tasks.errors import StoreError
from tasks.store import Store, open_store

RUN = "night"


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path) -> Store:
    where = str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    return open_store(where)


@pytest.fixture
def local(tmp_path) -> Path:
    return tmp_path / "checkpoint.pt"


def commit(
    store: Store, local: Path, epoch: int, *, is_best: bool, is_kept: bool = False
) -> checkpoints.Pointer:
    local.write_bytes(f"state of epoch {epoch}".encode())
    saved = checkpoints.Saved(
        epoch=epoch, is_best=is_best, best_fitness=epoch / 10, is_kept=is_kept
    )
    return checkpoints.commit(store, RUN, local, saved)


def states(store: Store) -> list[bytes]:
    """Contents of the checkpoints that are kept."""
    keys = store.keys(f"runs/{RUN}/checkpoints")
    return [store.read_bytes(key) for key in keys if key.endswith(".pt")]


def test_there_is_no_pointer_before_the_first_checkpoint(store):
    assert checkpoints.newest(store, RUN) is None


def test_the_newest_checkpoint_is_what_was_committed_last(store, local):
    commit(store, local, 0, is_best=True)
    pointer = commit(store, local, 1, is_best=True)
    assert checkpoints.newest(store, RUN) == pointer
    assert pointer.last == pointer.best
    assert store.read_bytes(pointer.last.key) == b"state of epoch 1"
    assert (pointer.epoch, pointer.best_fitness) == (1, 0.1)


def test_the_best_stays_while_later_ones_are_worse(store, local):
    best = commit(store, local, 0, is_best=True).best
    for epoch in (1, 2, 3):
        assert commit(store, local, epoch, is_best=False).best == best
    assert store.read_bytes(best.key) == b"state of epoch 0"


def test_only_what_the_last_two_entries_name_is_kept(store, local):
    for epoch in range(5):
        commit(store, local, epoch, is_best=epoch == 1)
    assert states(store) == [b"state of epoch 1", b"state of epoch 3", b"state of epoch 4"]


def test_a_first_checkpoint_that_is_not_the_best_leaves_no_best(store, local):
    assert commit(store, local, 0, is_best=False).best is None


def test_committing_an_epoch_again_is_safe(store, local):
    """A retried task may have stored the object and lost the answer."""
    commit(store, local, 0, is_best=True)
    commit(store, local, 1, is_best=False)
    pointer = commit(store, local, 1, is_best=False)
    assert checkpoints.newest(store, RUN) == pointer
    assert store.read_bytes(pointer.last.key) == b"state of epoch 1"
    assert store.read_bytes(pointer.best.key) == b"state of epoch 0"


def test_an_entry_that_was_cut_short_falls_back_to_the_one_before(store, local):
    before = commit(store, local, 0, is_best=True)
    commit(store, local, 1, is_best=True)
    store.put_bytes(b'{"epoch": 1, "la', f"runs/{RUN}/checkpoints/log/00000002.json")
    assert checkpoints.newest(store, RUN) == before
    assert store.read_bytes(before.last.key) == b"state of epoch 0"


def test_what_is_kept_stays_under_its_epoch_and_is_in_every_later_entry(store, local):
    for epoch in range(6):
        pointer = commit(store, local, epoch, is_best=False, is_kept=epoch % 2 == 1)
    assert [artifact.key for artifact in pointer.kept] == [
        f"runs/{RUN}/weights/epoch{epoch}.pt" for epoch in (1, 3, 5)
    ]
    for artifact, epoch in zip(pointer.kept, (1, 3, 5), strict=True):
        content = store.read_bytes(artifact.key)
        assert content == f"state of epoch {epoch}".encode()
        assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    assert checkpoints.newest(store, RUN) == pointer
    assert states(store) == [b"state of epoch 4", b"state of epoch 5"]


def test_keeping_an_epoch_again_names_it_once(store, local):
    commit(store, local, 0, is_best=True, is_kept=True)
    pointer = commit(store, local, 0, is_best=True, is_kept=True)
    assert [artifact.key for artifact in pointer.kept] == [f"runs/{RUN}/weights/epoch0.pt"]


def test_an_entry_of_the_first_version_keeps_nothing(store, local):
    now = commit(store, local, 0, is_best=True)
    first = {key: value for key, value in asdict(now).items() if key != "kept"}
    store.append_pointer(f"runs/{RUN}/checkpoints/log", first)
    assert checkpoints.newest(store, RUN) == now
    assert now.kept == ()


def test_a_checkpoint_that_cannot_be_stored_leaves_the_log_as_it_was(local, tmp_path):
    store = open_store(str(tmp_path / "store"))
    before = commit(store, local, 0, is_best=True)
    (tmp_path / "store/runs/night/checkpoints/epoch-0001-000002.pt").mkdir()  # in the way
    with pytest.raises(StoreError, match="cannot write"):
        commit(store, local, 1, is_best=True)
    assert checkpoints.newest(store, RUN) == before
