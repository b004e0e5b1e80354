"""Upload stage: the finished weights and results under their fixed names in the bucket."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact

from tasks.records import Artifact, Published, StageRecord
from tasks.stage import StageContext, run_stage
from tasks.store import Store, open_store
from tasks.task_options import RETRIED
from tasks.transfers import in_parallel

log = logging.getLogger(__name__)


@task(name="upload", task_run_name="upload", **RETRIED)
def upload_files(
    store: str, run: str, bucket: str, name: str, files: Sequence[Artifact]
) -> tuple[Published, ...]:
    """The upload stage of a run as a Prefect task, with its objects as an artifact."""
    published = upload_stage(open_store(store), run, bucket, name, files)
    if published:
        rows = [{"where": p.url, "bytes": p.size, "sha256": p.sha256} for p in published]
        create_table_artifact(rows, key="published", description="Objects in the bucket")
    return published


def upload_stage(
    store: Store, run: str, bucket: str, name: str, files: Sequence[Artifact]
) -> tuple[Published, ...]:
    """Publishes the finished files of a run; nothing without a bucket.

    Args:
        store: Where the run lives.
        run: Run id.
        bucket: URL or folder, "" for none.
        name: The run's name; without one the results are not published.
        files: The finished last<n>.pt, best<n>.pt and results<n>.txt, as finalize recorded them.

    Raises:
        DamagedObjectError: A file is not the recorded one.
        StoreError: Store or bucket failed.

    Source: spec D.9, F.4.
    """
    if not bucket:
        return ()
    target = open_store(bucket)
    planned = [(artifact, key) for artifact in files if (key := bucket_key(artifact, name))]

    def work(context: StageContext) -> dict[str, Any]:
        local = in_parallel(context.fetch, [artifact for artifact, _ in planned])  # all or nothing
        pairs = zip(local, [key for _, key in planned], strict=True)
        done = in_parallel(lambda pair: _put(target, *pair), pairs)
        for published in done:
            log.info("published %s, %.1f MB", published.url, published.size / 1e6)
        return {"published": [asdict(published) for published in done]}

    def still_good(record: StageRecord) -> bool:
        published = record.result["published"]
        sizes = in_parallel(lambda p: target.size(p["key"]), published)
        return sizes == [p["size"] for p in published]

    inputs = {
        "bucket": target.shown,
        "files": [asdict(artifact) | {"to": key} for artifact, key in planned],
    }
    record = run_stage(store, run, "upload", inputs, work, still_good)
    return tuple(Published(**published) for published in record.result["published"])


def publish_results(bucket: Store, name: str, results: Path) -> Published | None:
    """Puts results.txt, so far, where the finished one will be; nothing without a name.

    Raises:
        StoreError: The bucket failed.
    """
    return _put(bucket, results, f"results/results{name}.txt") if name else None


def bucket_key(artifact: Artifact, name: str) -> str:
    """Where a finished file goes in the bucket, "" for nowhere.

    Weights keep their file name, which has the run's suffix; results take the raw name.
    """
    file_name = PurePosixPath(artifact.key).name
    if file_name.endswith(".pt"):
        return f"weights/{file_name}"
    return f"results/results{name}.txt" if name else ""


def _put(bucket: Store, local: Path, key: str) -> Published:
    artifact = bucket.put_file(local, key)
    return Published(key=key, url=bucket.url(key), size=artifact.size, sha256=artifact.sha256)
