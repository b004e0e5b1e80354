"""Prepare stage: checks every picture and label once and writes the data set's manifest.

The manifest is named by a digest of all that training reads, so the same data is the same object
wherever it lies; image paths in it are relative to a root that the Prepared record carries.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.artifacts import create_table_artifact

from tasks.progress import progress_bar
from tasks.records import SAMPLE, Prepared, RetrainConfig, StageRecord, prepared_from
from tasks.stage import run_stage
from tasks.store import Store, open_store
from tasks.task_options import RETRIED
from yolov5_core.data_yaml import DataSpec, list_images, read_data_yaml
from yolov5_core.dataset import DataError, Record, Scan, require_labels, scan
from yolov5_core.synthetic import draw_dataset

log = logging.getLogger(__name__)

SAMPLE_TRAIN, SAMPLE_VAL = 480, 120  # pictures
_SAMPLE_SEED = 0  # the run's seed varies the training, not the data
_SAMPLE_LARGEST = 640  # pixels; larger pictures take minutes to draw and show nothing more
_LISTED = 50  # rejections in the record and the UI; the manifest has all


@task(name="prepare", task_run_name="prepare", **RETRIED)
def prepare_data(run: str, config: RetrainConfig) -> Prepared:
    """The prepare stage of a run as a Prefect task, with its counts as artifacts."""
    prepared = prepare_stage(open_store(config.store), run, config)
    counts = [{"split": split, **row} for split, row in prepared.counts.items()]
    create_table_artifact(counts, key="data-set", description=f"Data set {prepared.digest[:12]}")
    if prepared.rejected:
        left_out = sum(row["left_out"] for row in prepared.counts.values())
        create_table_artifact(
            [dict(rejection) for rejection in prepared.rejected],
            key="left-out-pictures",
            description=f"{len(prepared.rejected)} of {left_out} pictures left out, and why",
        )
    return prepared


def prepare_stage(store: Store, run: str, config: RetrainConfig) -> Prepared:
    """Prepares the data of a run, once.

    Raises:
        DataError: The data cannot be used.
        StoreError: The store failed.
    """
    size = min(config.image_size, _SAMPLE_LARGEST)

    def work(_context: object) -> Mapping[str, Any]:
        data = draw_sample(store, size) if config.data == SAMPLE else Path(config.data).expanduser()
        return asdict(prepare(store, data, single_cls=config.single_cls))

    def still_good(record: StageRecord) -> bool:
        return Path(record.result["root"]).is_dir()

    inputs: dict[str, Any] = {"data": config.data, "single_cls": config.single_cls}
    if config.data == SAMPLE:
        inputs["image_size"] = size
    return prepared_from(run_stage(store, run, "prepare", inputs, work, still_good).result)


def draw_sample(store: Store, image_size: int) -> Path:
    """Draws the sample data set beside a local store, else in the user's cache folder.

    Returns:
        The path of its data.yaml.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolov5-retrain"
    folder = (store.folder or cache) / SAMPLE / f"{image_size}px"
    with progress_bar("drawing pictures") as progress:
        return draw_dataset(
            folder,
            train=SAMPLE_TRAIN,
            val=SAMPLE_VAL,
            image_size=image_size,
            seed=_SAMPLE_SEED,
            progress=progress,
        )


def prepare(store: Store, data: Path, *, single_cls: bool) -> Prepared:
    """Checks a data set and writes its manifest; the data set itself is only read.

    Args:
        store: Gets `datasets/<digest>/manifest.json`.
        data: The data.yaml.
        single_cls: All classes become one.

    Raises:
        DataError: The data cannot be used, or a split has no labels.
        StoreError: The manifest could not be written.
    """
    spec = read_data_yaml(data)
    sources = {"train": spec.train, "val": spec.val}
    scans = {split: _scan(spec, split, paths, single_cls) for split, paths in sources.items()}
    names = ("item",) if single_cls and len(spec.names) > 1 else spec.names
    splits = {split: _rows(spec.root, result.records) for split, result in scans.items()}
    digest = data_digest(names, splits)
    rejections = [
        {k: v.replace(f"{spec.root}/", "") for k, v in asdict(r).items()}
        for result in scans.values()
        for r in result.rejections
    ]
    counts = {split: _count(result) for split, result in scans.items()}
    messages = [
        m.replace(f"{spec.root}/", "") for result in scans.values() for m in result.messages
    ]
    report = {"counts": counts, "rejections": rejections, "messages": messages}
    manifest = {"version": 1, "names": names, "report": report, "splits": splits}
    store.claim(json.dumps(manifest, ensure_ascii=False).encode(), _manifest_key(digest))
    for split, row in counts.items():
        log.info("%s: %s", split, ", ".join(f"{n} {what}" for what, n in row.items()))
    if rejections:
        log.warning("left out %d pictures, the first: %s", len(rejections), rejections[0])
    return Prepared(
        digest=digest,
        root=str(spec.root),
        names=names,
        counts=counts,
        rejected=tuple(rejections[:_LISTED]),
    )


def load_manifest(
    store: Store, prepared: Prepared
) -> tuple[tuple[str, ...], dict[str, tuple[Record, ...]]]:
    """Class names and the records of the splits, as they were when prepared.

    Raises:
        DataError: A picture is gone or has another size.
        StoreError: The manifest cannot be read.
    """
    manifest = store.read_json(_manifest_key(prepared.digest))
    root = Path(prepared.root)
    lost = [
        str(root / row["image"])
        for rows in manifest["splits"].values()
        for row in rows
        if not _has_size(root / row["image"], row["size"])
    ]
    if lost:
        raise DataError(
            f"{len(lost)} pictures are gone or changed since they were prepared, the first "
            f"{lost[0]}; put them back, or start a new run, which prepares the data again"
        )
    splits = {
        split: tuple(_record(root, row) for row in rows)
        for split, rows in manifest["splits"].items()
    }
    return tuple(manifest["names"]), splits


def data_digest(names: Sequence[str], splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Sha256 over class names, and path, content and labels of each picture in order of paths."""
    digest = hashlib.sha256(json.dumps(list(names)).encode())
    for split in sorted(splits):
        digest.update(f"\n{split}".encode())
        for row in sorted(splits[split], key=lambda row: str(row["image"])):
            parts = [row[key] for key in ("image", "sha256", "labels", "segments")]
            digest.update(b"\n" + json.dumps(parts).encode())
    return digest.hexdigest()


def _scan(spec: DataSpec, split: str, sources: Sequence[Path], single_cls: bool) -> Scan:
    with progress_bar(f"checking {split}") as progress:
        result = scan(
            list_images(sources),
            len(spec.names),
            single_class=single_cls,
            progress=progress,
            workers=os.cpu_count() or 1,
        )
    require_labels(result, split)
    return result


def _rows(root: Path, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Manifest rows, in the order of the records."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        digests = pool.map(lambda record: _sha256(record.path), records)
        return [
            {
                "image": _relative(root, record.path),
                "sha256": sha256,
                "size": record.path.stat().st_size,
                "width": record.width,
                "height": record.height,
                "labels": _exact(record.labels),
                "segments": [_exact(segment) for segment in record.segments],
            }
            for record, sha256 in zip(records, digests, strict=True)
        ]


def _record(root: Path, row: Mapping[str, Any]) -> Record:
    return Record(
        path=root / row["image"],
        width=row["width"],
        height=row["height"],
        labels=np.asarray(row["labels"], np.float32).reshape(-1, 5),
        segments=tuple(np.asarray(s, np.float32).reshape(-1, 2) for s in row["segments"]),
    )


def _exact(array: np.ndarray) -> list[list[float]]:
    """Shortest decimals that give the same float32 back."""
    return [[float(str(value)) for value in row] for row in np.asarray(array, np.float32)]


def _relative(root: Path, path: Path) -> str:
    """Path below the root, or as it is: a list file may name pictures anywhere."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _manifest_key(digest: str) -> str:
    return f"datasets/{digest}/manifest.json"


def _count(result: Scan) -> dict[str, int]:
    return {
        "pictures": len(result.records),
        "labels": sum(len(record.labels) for record in result.records),
        "background": result.missing + result.empty,
        "left_out": result.corrupt,
        "duplicate_labels": result.duplicates,
    }
