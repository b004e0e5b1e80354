"""Finalize stage: the run's checkpoints and results under their final names, stripped.

New objects are made; the checkpoints they come from stay as they are, so a run can still be
resumed.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task

from tasks.records import Artifact, RunInfo, StageRecord
from tasks.stage import StageContext, run_stage
from tasks.store import open_store
from tasks.task_options import RETRIED
from tasks.transfers import in_parallel
from yolov5_core import checkpoint
from yolov5_core.results import result_suffix

log = logging.getLogger(__name__)


@task(name="finalize", task_run_name="finalize", **RETRIED)
def finalize_run(info: RunInfo, trained: StageRecord) -> StageRecord:
    """The finalize stage as a Prefect task."""
    return finalize_stage(info, trained)


def finalize_stage(info: RunInfo, trained: StageRecord) -> StageRecord:
    """Makes last<n>.pt, best<n>.pt and results<n>.txt.

    Raises:
        CheckpointError: A checkpoint is damaged, or a stripped one cannot be written.
        StoreError: The store failed.

    Source: spec D.9; design, Run semantics.
    """
    suffix = result_suffix(info.config.name)
    sources = {
        kind: Artifact(**trained.result[kind])
        for kind in ("last", "best")
        if trained.result[kind] is not None
    }
    inputs = {
        "suffix": suffix,
        "sources": {kind: artifact.sha256 for kind, artifact in sources.items()},
    }

    def work(context: StageContext) -> Mapping[str, Any]:
        local = dict(zip(sources, in_parallel(context.fetch, sources.values()), strict=True))
        weights = [_stripped(context, path, f"{kind}{suffix}.pt") for kind, path in local.items()]
        last = checkpoint.load(local["last"])
        results = context.scratch / f"results{suffix}.txt"
        results.write_text(last["training_results"], "ascii")
        files = {f"weights/{path.name}": path for path in weights}
        context.publish_all({**files, results.name: results})
        return {"weights": list(files), "results": results.name}

    return run_stage(open_store(info.config.store), info.run, "finalize", inputs, work)


def _stripped(context: StageContext, source: Path, name: str) -> Path:
    local = context.scratch / name
    size = checkpoint.strip(source, local)
    checkpoint.build_detector(checkpoint.load(local), name)  # what is shipped must load
    log.info("optimizer stripped from %s, %.1f MB", name, size / 1e6)
    return local
