"""The records handed between stages.

Neither Prefect nor torch is imported, so that `yolov5-retrain --help` answers at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.settings import RetrainConfig

# In their order.
STAGES = ("prepare", "train", "evaluate", "finalize", "upload", "promote", "plot")


def stages_of(config: RetrainConfig) -> list[str]:
    """The stages that a run has: without a bucket there is neither upload nor champion."""
    left_out = set() if config.bucket else {"upload", "promote"}
    if not config.promote:
        left_out.add("promote")
    return [stage for stage in STAGES if stage not in left_out]


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One stored object, as it was when it was verified."""

    key: str  # below the store's root
    size: int  # bytes
    sha256: str  # hexadecimal


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord:
    """`runs/<run>/stages/<stage>.json`: written last, so its presence means done."""

    run: str
    stage: str
    inputs_digest: str  # sha256 over stage, inputs and our source code
    inputs: Mapping[str, Any]  # JSON types
    result: Mapping[str, Any]  # JSON types
    outputs: tuple[Artifact, ...]
    attempt: int  # from 1
    started: str  # ISO 8601, UTC
    finished: str
    seconds: float
    host: str
    code: str  # version, commit, digest of the source
    container: str = ""  # id of the Docker container or name of the pod, "" outside of one


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo:
    """`runs/<run>/run.json`: what a run was told and made from."""

    run: str
    created: str  # ISO 8601, UTC
    config: RetrainConfig
    data_digest: str
    code: str
    packages: Mapping[str, str]  # name to version
    parent_sha256: str = ""  # of the weights it started from; empty: from scratch
    inputs: Mapping[str, Artifact] = field(default_factory=dict)  # setting: the file it named
    ends: str = ""  # ISO 8601, UTC: what the setting `deadline` means; empty: no limit
    evolution: str = ""  # whose generation it is: nothing is saved or drawn; empty: of none


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Result of the prepare stage: which data, and what was found in it."""

    digest: str  # names the manifest in the store
    names: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]  # split: pictures, labels, background, left_out ...
    rejected: tuple[Mapping[str, str], ...]  # kind, image, where, reason, effect, action; the first
    report: str  # key of the data report
    verdict: str  # of its gates: pass or warn
    category_ids: tuple[int, ...] = ()  # of the classes in the source's COCO files; else empty


def prepared_from(result: Mapping[str, Any]) -> Prepared:
    """The record again, from the JSON of the prepare stage's result."""
    lists = {key: tuple(result[key]) for key in ("names", "rejected", "category_ids")}
    return Prepared(**{**result, **lists})


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One file in the bucket."""

    key: str  # below the bucket's root
    url: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """What the flow returns and the command line prints: where everything is."""

    run: str
    folder: str  # of the run, in the store
    report: str  # the run card
    data: str  # the data report
    weights: tuple[str, ...]  # stripped last and best
    results: str  # results.txt
    plot: str  # results.png
    published: tuple[Published, ...]
    metrics: Mapping[str, float]  # precision, recall, map50, map50_95 of the best checkpoint
    epochs: int
    hours: float
