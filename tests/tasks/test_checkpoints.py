import hashlib
import uuid
from dataclasses import asdict, replace

import pytest

from tasks import checkpoints
from tasks.errors import StoreError
from tasks.lease import LeaseLostError
from tasks.store import Store, open_store

RUN = "night"
LOG = f"runs/{RUN}/checkpoints/log"
NEW = ("kept", "step", "batch", "attempt")  # what entries of the first version do not have


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path) -> Store:
    where = str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    return open_store(where)


def commit(
    store: Store, epoch: int, *, is_best: bool, is_kept: bool = False, attempt: int = 0
) -> checkpoints.Pointer:
    saved = checkpoints.Saved(
        epoch=epoch,
        is_best=is_best,
        best_fitness=epoch / 10,
        is_kept=is_kept,
        step=10 * (epoch + 1),
        attempt=attempt,
    )
    return checkpoints.commit(store, RUN, f"state of epoch {epoch}".encode(), saved)


def states(store: Store) -> list[bytes]:
    """Contents of the checkpoints that are kept."""
    keys = store.keys(f"runs/{RUN}/checkpoints")
    return [store.read_bytes(key) for key in keys if key.endswith(".pt")]


def test_there_is_no_pointer_before_the_first_checkpoint(store):
    assert checkpoints.newest(store, RUN) is None


def test_the_newest_checkpoint_is_what_was_committed_last(store):
    commit(store, 0, is_best=True)
    pointer = commit(store, 1, is_best=True)
    assert checkpoints.newest(store, RUN) == pointer
    assert pointer.last == pointer.best
    assert store.read_bytes(pointer.last.key) == b"state of epoch 1"
    assert (pointer.epoch, pointer.best_fitness) == (1, 0.1)


def test_the_best_stays_while_later_ones_are_worse(store):
    best = commit(store, 0, is_best=True).best
    for epoch in (1, 2, 3):
        assert commit(store, epoch, is_best=False).best == best
    assert store.read_bytes(best.key) == b"state of epoch 0"


def test_only_what_the_last_two_entries_name_is_kept(store):
    for epoch in range(5):
        commit(store, epoch, is_best=epoch == 1)
    assert states(store) == [b"state of epoch 1", b"state of epoch 3", b"state of epoch 4"]


def test_a_first_checkpoint_that_is_not_the_best_leaves_no_best(store):
    assert commit(store, 0, is_best=False).best is None


def test_committing_an_epoch_again_is_safe(store):
    """A retried task may have stored the object and lost the answer."""
    commit(store, 0, is_best=True)
    commit(store, 1, is_best=False)
    pointer = commit(store, 1, is_best=False)
    assert checkpoints.newest(store, RUN) == pointer
    assert store.read_bytes(pointer.last.key) == b"state of epoch 1"
    assert store.read_bytes(pointer.best.key) == b"state of epoch 0"


def test_an_entry_that_was_cut_short_falls_back_to_the_one_before(store):
    before = commit(store, 0, is_best=True)
    commit(store, 1, is_best=True)
    store.put_bytes(b'{"epoch": 1, "la', f"runs/{RUN}/checkpoints/log/00000002.json")
    assert checkpoints.newest(store, RUN) == before
    assert store.read_bytes(before.last.key) == b"state of epoch 0"


def test_what_is_kept_stays_under_its_epoch_and_is_in_every_later_entry(store):
    for epoch in range(6):
        pointer = commit(store, epoch, is_best=False, is_kept=epoch % 2 == 1)
    assert [artifact.key for artifact in pointer.kept] == [
        f"runs/{RUN}/weights/epoch{epoch}.pt" for epoch in (1, 3, 5)
    ]
    for artifact, epoch in zip(pointer.kept, (1, 3, 5), strict=True):
        content = store.read_bytes(artifact.key)
        assert content == f"state of epoch {epoch}".encode()
        assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    assert checkpoints.newest(store, RUN) == pointer
    assert states(store) == [b"state of epoch 4", b"state of epoch 5"]


def test_keeping_an_epoch_again_names_it_once(store):
    commit(store, 0, is_best=True, is_kept=True)
    pointer = commit(store, 0, is_best=True, is_kept=True)
    assert [artifact.key for artifact in pointer.kept] == [f"runs/{RUN}/weights/epoch0.pt"]


def test_an_entry_of_the_first_version_keeps_nothing(store):
    now = commit(store, 0, is_best=True)
    first = {key: value for key, value in asdict(now).items() if key not in NEW}
    store.append_pointer(LOG, first)
    found = checkpoints.newest(store, RUN)
    assert found == replace(now, step=0)
    assert (found.kept, found.batch, found.attempt) == ((), 0, 0)


def test_a_checkpoint_that_cannot_be_stored_leaves_the_log_as_it_was(tmp_path):
    store = open_store(str(tmp_path / "store"))
    before = commit(store, 0, is_best=True)
    (tmp_path / "store/runs/night/checkpoints/step-00000020-000002-0000.pt").mkdir()  # in the way
    with pytest.raises(StoreError, match="cannot write"):
        commit(store, 1, is_best=True)
    assert checkpoints.newest(store, RUN) == before


def test_a_checkpoint_inside_an_epoch_tells_its_step_and_batch(store):
    saved = checkpoints.Saved(epoch=-1, is_best=False, best_fitness=0, step=7, batch=7, attempt=1)
    pointer = checkpoints.commit(store, RUN, b"half an epoch", saved)
    assert checkpoints.newest(store, RUN) == pointer
    assert (pointer.epoch, pointer.step, pointer.batch, pointer.attempt) == (-1, 7, 7, 1)
    assert pointer.last.key == f"runs/{RUN}/checkpoints/step-00000007-000001-0001.pt"


def test_nothing_to_resume_is_none_and_leaves_no_entry(store):
    assert checkpoints.resume(store, RUN, 1) is None
    assert store.keys(LOG) == []


def test_an_attempt_that_resumed_shuts_out_the_one_before(store):
    first = commit(store, 0, is_best=True, attempt=1)
    resumed = checkpoints.resume(store, RUN, 2)
    assert resumed == replace(first, attempt=2)
    with pytest.raises(LeaseLostError, match=r"attempt 2 has gone on .* attempt 1 stops"):
        commit(store, 1, is_best=True, attempt=1)
    with pytest.raises(LeaseLostError):
        checkpoints.resume(store, RUN, 1)
    assert checkpoints.newest(store, RUN) == resumed
    assert checkpoints.resume(store, RUN, 2) == resumed  # again: nothing more to write
    assert len(store.keys(LOG)) == 2


def test_a_commit_that_is_overtaken_right_before_its_entry_adds_none(store, monkeypatch):
    first = commit(store, 0, is_best=True, attempt=1)
    put_bytes = Store.put_bytes

    def paused(*args):  # while the object of epoch 1 is on its way
        monkeypatch.setattr(Store, "put_bytes", put_bytes)
        stored = put_bytes(*args)
        checkpoints.resume(store, RUN, 2)
        commit(store, 1, is_best=False, attempt=2)
        return stored

    monkeypatch.setattr(Store, "put_bytes", paused)
    with pytest.raises(LeaseLostError):
        commit(store, 1, is_best=True, attempt=1)
    newest = checkpoints.newest(store, RUN)
    assert (newest.attempt, newest.best) == (2, first.best)
    assert store.holds(newest.last)
    assert store.holds(newest.best)


def test_a_late_attempt_never_removes_what_a_newer_one_stored(store, monkeypatch):
    """The newer one's object is there and its entry not yet, when the late one tidies up."""
    commit(store, 0, is_best=True, attempt=1)
    keys = Store.keys
    theirs = f"runs/{RUN}/checkpoints/step-00000020-000009-0002.pt"

    def paused(*args):
        store.put_bytes(b"of attempt 2", theirs)
        return keys(*args)

    monkeypatch.setattr(Store, "keys", paused)
    for epoch in (1, 2, 3):
        commit(store, epoch, is_best=False, attempt=1)
    assert store.exists(theirs)


def test_the_best_of_an_entry_that_was_not_resumed_from_is_not_taken_over(store):
    """The newer attempt found no checkpoint and began anew; the late one then saved one."""
    commit(store, 0, is_best=True, is_kept=True, attempt=1)
    pointer = commit(store, 0, is_best=False, attempt=2)
    assert (pointer.best, pointer.kept) == (None, ())


@pytest.mark.parametrize("damage", [None, b"state of epoch X"])
def test_a_run_goes_on_from_the_checkpoint_before_if_the_newest_is_damaged(store, caplog, damage):
    before = commit(store, 0, is_best=True, attempt=1)
    newest = commit(store, 1, is_best=True, attempt=1)
    if damage is None:
        store.delete(newest.last.key)
    else:
        store.put_bytes(damage, newest.last.key)
    assert checkpoints.resume(store, RUN, 2) == replace(before, attempt=2)
    assert checkpoints.newest(store, RUN) == replace(before, attempt=2)
    assert "step-00000020-000002-0001.pt is gone or changed" in caplog.text


def test_without_any_whole_checkpoint_the_newest_is_what_is_tried(store):
    newest = commit(store, 0, is_best=True, attempt=1)
    store.delete(newest.last.key)
    assert checkpoints.resume(store, RUN, 2) == replace(newest, attempt=2)
