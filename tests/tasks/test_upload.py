import hashlib
import uuid
from pathlib import Path

import pytest

from tasks.errors import DamagedObjectError
from tasks.records import Artifact
from tasks.store import Store, open_store
from tasks.upload import bucket_key, publish_results, upload_stage


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def bucket(tmp_path) -> str:
    return str(tmp_path / "bucket")


def finished(store: Store, suffix: str) -> list[Artifact]:
    """What finalize leaves in the store for a name with this suffix."""
    contents = {
        f"weights/last{suffix}.pt": b"last",
        f"weights/best{suffix}.pt": b"best!",
        f"results{suffix}.txt": b"rows\n",
    }
    return [store.put_bytes(data, f"runs/r/{name}") for name, data in contents.items()]


def contents(bucket: str) -> dict[str, bytes]:
    root = Path(bucket)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("name", "suffix"), [("street", "_street"), ("7", "7")])
def test_weights_carry_the_suffix_and_results_the_raw_name(store, bucket, name, suffix):
    published = upload_stage(store, "r", bucket, name, finished(store, suffix))
    assert contents(bucket) == {
        f"weights/last{suffix}.pt": b"last",
        f"weights/best{suffix}.pt": b"best!",
        f"results/results{name}.txt": b"rows\n",
    }
    assert [p.url for p in published] == [
        f"{bucket}/weights/last{suffix}.pt",
        f"{bucket}/weights/best{suffix}.pt",
        f"{bucket}/results/results{name}.txt",
    ]
    assert published[1].sha256 == hashlib.sha256(b"best!").hexdigest()


def test_without_a_name_only_the_weights_are_published(store, bucket):
    upload_stage(store, "r", bucket, "", finished(store, ""))
    assert sorted(contents(bucket)) == ["weights/best.pt", "weights/last.pt"]


def test_without_a_bucket_nothing_happens(store):
    files = finished(store, "")
    before = store.keys("")
    assert upload_stage(store, "r", "", "street", files) == ()
    assert store.keys("") == before


def test_a_second_upload_writes_nothing(store, bucket):
    files = finished(store, "_a")
    first = upload_stage(store, "r", bucket, "a", files)
    stamps = {p: p.stat().st_mtime_ns for p in Path(bucket).rglob("*")}
    assert upload_stage(store, "r", bucket, "a", files) == first
    assert stamps == {p: p.stat().st_mtime_ns for p in Path(bucket).rglob("*")}


def test_what_somebody_removed_from_the_bucket_is_published_again(store, bucket):
    files = finished(store, "_a")
    upload_stage(store, "r", bucket, "a", files)
    (Path(bucket) / "weights/best_a.pt").unlink()
    upload_stage(store, "r", bucket, "a", files)
    assert contents(bucket)["weights/best_a.pt"] == b"best!"


def test_weights_that_are_not_what_was_finished_are_never_published(store, bucket):
    files = finished(store, "_a")
    store.put_bytes(b"last?", files[0].key)
    with pytest.raises(DamagedObjectError):
        upload_stage(store, "r", bucket, "a", files)
    assert not Path(bucket).exists()


def test_the_results_so_far_are_published_under_the_raw_name(bucket, tmp_path):
    results = tmp_path / "results.txt"
    results.write_bytes(b"epoch 0\n")
    target = open_store(bucket)
    assert publish_results(target, "", results) is None
    results.write_bytes(b"epoch 0\nepoch 1\n")
    assert publish_results(target, "street", results).key == "results/resultsstreet.txt"
    assert contents(bucket) == {"results/resultsstreet.txt": b"epoch 0\nepoch 1\n"}


def test_only_pt_files_are_weights():
    artifact = Artifact(key="runs/r/results_a.txt", size=1, sha256="")
    assert bucket_key(artifact, "a") == "results/resultsa.txt"
    assert bucket_key(artifact, "") == ""


@pytest.mark.gcs
def test_a_bucket_service_holds_the_same_objects(store):
    url = f"gs://models/{uuid.uuid4().hex}"
    published = upload_stage(store, "r", url, "street", finished(store, "_street"))
    bucket = open_store(url)
    assert bucket.keys("") == sorted(p.key for p in published)
    assert bucket.read_bytes("weights/best_street.pt") == b"best!"
