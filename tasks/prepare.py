"""Prepare stage: the run's data set checked, packed and named, its report, and its gates.

What it makes is in the store before the gates are asked: a stop costs no work, and tonight's report
says what to correct.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from tasks.datasets import cache_folder, open_dataset
from tasks.known import accept, last_accepted
from tasks.packing import Packed, pack
from tasks.progress import progress_bar
from tasks.records import Prepared, prepared_from
from tasks.settings import SAMPLE, RetrainConfig
from tasks.stage import StageContext, run_stage
from tasks.store import Store, open_store
from tasks.task_options import RETRIED
from yolov5_core.data_report import data_report, verdict
from yolov5_core.data_yaml import whole_path
from yolov5_core.dataset import DataError
from yolov5_core.index import SPLITS
from yolov5_core.report_html import report_html
from yolov5_core.report_markdown import report_markdown
from yolov5_core.report_samples import sample_pictures
from yolov5_core.sources import Sources
from yolov5_core.synthetic import draw_dataset

log = logging.getLogger(__name__)

SAMPLE_TRAIN, SAMPLE_VAL = 480, 120  # pictures
REPORT = "data/report.html"  # of a run
_SAMPLE_SEED = 0  # the run's seed varies the training, not the data
_SAMPLE_LARGEST = 640  # pixels; larger pictures take minutes to draw and show nothing more
_LISTED = 50  # faults in the record and the UI; the report has all
_GATES = ("max_rejected", "max_leakage", "max_drift")

Progress = Callable[[int, int], None]


@task(name="prepare", task_run_name="prepare", **RETRIED)
def prepare_data(run: str, config: RetrainConfig) -> Prepared:
    """The prepare stage of a run as a Prefect task, with its report as artifacts."""
    store = open_store(config.store)
    shown = create_progress_artifact(0.0, key="preparing", description="Pictures checked")
    percent = 0

    def advance(done: int, total: int) -> None:
        nonlocal percent
        if (now := 100 * done // max(total, 1)) >= percent + 5 or now == 100:
            percent = now
            update_progress_artifact(shown, float(percent))  # type: ignore[arg-type]

    try:
        prepared = prepare_stage(store, run, config, advance)
    finally:
        text = store.exists(_report_key(run, "md")) and store.read_bytes(_report_key(run, "md"))
        if text:
            create_markdown_artifact(
                text.decode(), key="data-report", description=f"Data of run {run}"
            )
    counts = [{"split": split, **row} for split, row in prepared.counts.items()]
    create_table_artifact(counts, key="data-set", description=f"Data set {prepared.digest[:12]}")
    return prepared


def prepare_stage(
    store: Store, run: str, config: RetrainConfig, progress: Progress = lambda *_: None
) -> Prepared:
    """Prepares the data of a run, once.

    Raises:
        DataError: The data cannot be used, or a gate stops the run.
        StoreError: The store failed.
    """
    size = min(config.image_size, _SAMPLE_LARGEST)
    gates = {gate: float(getattr(config, gate)) for gate in _GATES}

    def work(context: StageContext) -> Mapping[str, Any]:
        data = str(draw_sample(store, size)) if config.data == SAMPLE else config.data
        with progress_bar("checking pictures") as bar:

            def advance(done: int, total: int) -> None:
                bar(done, total)
                progress(done, total)

            packed = pack(store, data, advance, config.dask)
        return asdict(_report(context, data, packed, gates))

    inputs: dict[str, Any] = {"data": config.data, "gates": gates}
    if config.data == SAMPLE:
        inputs["image_size"] = size
    return prepared_from(run_stage(store, run, "prepare", inputs, work).result)


def draw_sample(store: Store, image_size: int) -> Path:
    """Draws the sample data set beside a local store, else in the user's cache folder.

    Returns:
        The path of its data.yaml.
    """
    folder = (store.folder or cache_folder()) / SAMPLE / f"{image_size}px"
    with progress_bar("drawing pictures") as progress:
        return draw_dataset(
            folder,
            train=SAMPLE_TRAIN,
            val=SAMPLE_VAL,
            image_size=image_size,
            seed=_SAMPLE_SEED,
            progress=progress,
        )


def _report(
    context: StageContext, data: str, packed: Packed, gates: Mapping[str, float]
) -> Prepared:
    """Writes the data report, then lets the gates decide."""
    store, source, names = context.store, whole_path(data), packed.sources.names
    accepted = last_accepted(store, source)
    report = data_report(
        index=packed.index,
        class_names=names,
        faults=packed.faults,
        checked=_checked(packed),
        previous=accepted["profile"] if accepted else None,
        new_rows=packed.new_rows,
        removed=packed.removed,
        thresholds=gates,
        source=source,
        understood=packed.sources.understood,
    )
    counts = _counts(packed)
    prepared = Prepared(
        digest=packed.digest,
        names=names,
        counts=counts,
        rejected=tuple(
            {**asdict(fault), "effect": fault.effect, "action": fault.action}
            for fault in packed.faults[:_LISTED]
        ),
        report=context.key(REPORT),
        verdict=verdict(report)[0],
        category_ids=_category_ids(packed.sources),
    )
    _publish_report(context, report, prepared)
    for split, row in counts.items():
        log.info("%s: %s", split, ", ".join(f"{n} {what}" for what, n in row.items()))
    kinds = Counter(fault.kind for fault in packed.faults)
    if kinds:
        log.warning(
            "%d faults (%s), all of them in %s",
            len(packed.faults),
            ", ".join(f"{kind} {n}" for kind, n in kinds.most_common()),
            store.url(context.key(REPORT)),
        )
    decision, message = verdict(report)
    if decision == "stop":
        raise DataError(f"{message}\nthe report is {store.url(context.key(REPORT))}")
    if decision == "warn":
        log.warning("%s", message)
    accept(
        store,
        source,
        {"run": context.run, "digest": packed.digest, "profile": report["profile"]},
    )
    return prepared


def _publish_report(context: StageContext, report: Mapping[str, Any], prepared: Prepared) -> None:
    dataset = open_dataset(context.store, prepared)
    records = [dataset.splits[split] for split in SPLITS]
    samples = [
        sample for split in records for sample in sample_pictures(split, prepared.names, seed=0)
    ]
    texts = {
        "html": report_html(report, samples),
        "json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False),
        "md": report_markdown(report),
    }
    files = {f"data/report.{suffix}": context.scratch / f"report.{suffix}" for suffix in texts}
    for path, text in zip(files.values(), texts.values(), strict=True):
        path.write_text(text, "utf-8")
    context.publish_all(files)


def _report_key(run: str, suffix: str) -> str:
    return f"runs/{run}/data/report.{suffix}"


def _checked(packed: Packed) -> int:
    """Pictures looked at, with those a COCO file describes so badly that they became no items."""
    names = {item.name for item in packed.sources.items}
    left_out = {f.image for f in packed.sources.faults if f.effect == "picture left out"}
    return len(names | left_out)


def _category_ids(sources: Sources) -> tuple[int, ...]:
    """The COCO category id of each class, if every COCO file says the same one."""
    pairs = {(c, i) for ids in sources.categories.values() for i, c in ids.items()}
    id_of = dict(sorted(pairs))
    if len(pairs) != len(id_of) or id_of.keys() != set(range(len(sources.names))):
        return ()
    return tuple(id_of.values())


def _counts(packed: Packed) -> dict[str, dict[str, int]]:
    """Pictures, labels and faults of each split."""
    index, counts = packed.index, {}
    blamed = {fault.image for fault in packed.faults}
    splits = {(i.name, i.split) for i in packed.sources.items if i.name in blamed}
    boxes = Counter(f.image for f in packed.faults if f.effect == "box left out")
    left_out = {f.image for f in packed.faults if f.effect == "picture left out"}
    per_picture = np.diff(index.images["label_end"], prepend=0)
    for number, split in enumerate(SPLITS):
        rows = slice(*index.rows(split))
        names = [name for name, of_split in splits if of_split == number]
        counts[split] = {
            "pictures": len(per_picture[rows]),
            "labels": int(per_picture[rows].sum()),
            "background": int((per_picture[rows] == 0).sum()),
            "left_out": sum(name in left_out for name in names),
            "boxes_left_out": sum(boxes[name] for name in names),
        }
    return counts
