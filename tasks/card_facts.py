"""All that a run card tells, gathered from the store alone, as plain values.

A part that is missing or damaged costs the card that part, and the card says so. A store that does
not answer ends the gathering: each further look would wait for it again.
"""

import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

from tasks import checkpoints
from tasks.card_fault import describe_fault, stopped_by_gates
from tasks.errors import DamagedObjectError, MissingObjectError
from tasks.history import Night, nights, previous
from tasks.records import STAGES, Artifact, RunInfo, StageRecord, stages_of
from tasks.settings_files import config_to_mapping
from tasks.stage import read_stage, run_key
from tasks.store import Store, open_store
from tasks.transfers import in_parallel
from yolov5_core.results import ResultsError, ResultsRow, parse_results

log = logging.getLogger(__name__)

_ATTEMPT = re.compile(r"stages/(attempts|leases)/(\w+)/(\d{8})\.json")
_ATTEMPTS = 20  # of a stage, the newest
_GOOGLE = re.compile(r"(?:gs|gcs)://(.+)")
_BROWSER = "https://storage.cloud.google.com"  # asks people to log in, then shows the object
_METRICS = ("precision", "recall", "map50", "map50_95")

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run left in the store."""

    store: Store
    info: RunInfo
    names: Sequence[str]  # of its objects, below runs/<run>/
    records: Mapping[str, StageRecord]  # of the stages that are done, up to the unfinished one
    attempts: Mapping[str, Sequence[Mapping[str, Any]]]  # of every stage that began
    unfinished: str  # the stage that is not done, "" if all are
    remarks: list[str] = field(default_factory=list)  # what could not be read

    def read(self, what: str, reading: Callable[[], _Value]) -> _Value | None:
        """What a reading gives; None and a remark where an object is missing or damaged."""
        try:
            return reading()
        except (MissingObjectError, DamagedObjectError, ResultsError, UnicodeDecodeError) as error:
            log.warning("not on the run card: %s: %s", what, error)
            self.remarks.append(f"{what}: {error}")
            return None


def open_run(info: RunInfo) -> Run:
    """Reads the records and attempts of a run's stages.

    Raises:
        StoreError: The store failed.
    """
    store, prefix = open_store(info.config.store), run_key(info.run, "")
    names = [key.removeprefix(prefix) for key in store.keys(prefix.rstrip("/"))]
    wanted = stages_of(info.config)
    found = in_parallel(lambda stage: read_stage(store, info.run, stage), wanted, 8)
    attempts = _attempts(store, info.run, names)
    records: dict[str, StageRecord] = {}
    for stage, record in zip(wanted, found, strict=True):
        if record is None or not _is_newest(record, attempts.get(stage, ())):
            break  # what later stages left is of an earlier state of the run
        records[stage] = record
    unfinished = next((stage for stage in wanted if stage not in records), "")
    return Run(
        store=store,
        info=info,
        names=names,
        records=records,
        attempts=attempts,
        unfinished=unfinished,
    )


def gather(run: Run, error: BaseException | None) -> dict[str, Any]:
    """The facts of a run card, JSON types.

    Args:
        run: What the run left.
        error: What it ended with.

    Raises:
        StoreError: The store failed.
    """
    info, name = run.info, run.info.config.name
    report = _data_report(run)
    fault = describe_fault(info, run.unfinished, run.attempts.get(run.unfinished, ()), error)
    if fault and report and run.unfinished == "prepare" and report["verdict"] == "stop":
        fault |= stopped_by_gates(info, report["gates"], fault["commands"])
    rows = _results(run)
    night = _night(run, fault, report, len(rows))
    known = [n for n in nights(run.store, name) if n.run != info.run and n.created <= info.created]
    before = previous(known, info.run, info.created)
    trained = run.records.get("train")
    evaluated = run.records.get("evaluate")
    return {
        "run": info.run,
        "name": name,
        "status": night.status if fault or not run.unfinished else "unfinished",
        "unfinished": run.unfinished,
        "created": info.created,
        "place": run.store.url(f"runs/{info.run}"),
        "link": browser_link(run.store.url(run_key(info.run, "report.html"))),
        "fault": fault,
        "night": asdict(night),
        "nights": [asdict(n) for n in known] + ([asdict(night)] if night.when else []),
        "previous": _previous(run, before) if before else None,
        "settings": _settings(config_to_mapping(info.config), trained, info.inputs),
        "versions": {"code": info.code, **info.packages},
        "data": report,
        "data_page": "data/report.html" if report and "data/report.html" in run.names else "",
        "results": rows,
        "planned": info.config.epochs,
        "best_epoch": trained.result.get("best_epoch") if trained else _best_epoch(rows),
        "stopped_early": bool(trained and trained.result.get("stopped_early")),
        "stopped_by": trained.result.get("stopped_by", "") if trained else "",
        "transferred": list(trained.result.get("transferred", ())) if trained else [],
        "recovered": list(trained.result.get("changes", ())) if trained else [],
        "evaluation": dict(evaluated.result) if evaluated else None,
        "stages": [_stage(run, stage) for stage in STAGES if stage in run.attempts],
        "checkpoint": _checkpoint(run),
        "objects": _objects(run),
        "published": _published(run),
        "promotion": dict(run.records["promote"].result) if "promote" in run.records else None,
        "remarks": run.remarks,
    }


def night_of(facts: Mapping[str, Any]) -> Night:
    """The run's own entry in the history."""
    return Night(**facts["night"])


def browser_link(url: str) -> str:
    """Where a browser shows an object after a login, "" if it cannot."""
    found = _GOOGLE.fullmatch(url)
    return f"{_BROWSER}/{quote(found[1], errors='surrogateescape')}" if found else ""


def _is_newest(record: StageRecord, attempts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no attempt since then failed or goes on; one may find that the work is done."""
    later = [attempt for attempt in attempts if attempt["number"] > record.attempt]
    return all(attempt["is_over"] and not attempt["kind"] for attempt in later)


def _attempts(store: Store, run: str, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Attempts by stage, the newest last: what their entry and their last sign of life say."""
    numbers: dict[tuple[str, int], set[str]] = {}
    for match in filter(None, map(_ATTEMPT.fullmatch, names)):
        numbers.setdefault((match[2], int(match[3])), set()).add(match[1])
    wanted = []
    for stage in STAGES:
        wanted += sorted(key for key in numbers if key[0] == stage)[-_ATTEMPTS:]

    def read(which: tuple[str, int]) -> dict[str, Any] | None:
        stage, number = which
        doc: dict[str, Any] = {}
        for kind in sorted(numbers[which]):  # attempts, then leases: the later one knows more
            key = run_key(run, f"stages/{kind}/{stage}/{number:08d}.json")
            try:
                doc |= store.read_json(key)
            except (MissingObjectError, DamagedObjectError) as error:
                log.warning("an attempt is unreadable: %s", error)
        if "record" in doc:  # not another attempt, but the commit of the one before
            return None
        worker = doc.get("worker") or {"host": doc.get("host", "")}  # earlier versions: host
        return {
            "number": doc.get("attempt", number),  # earlier versions logged nothing else
            "started": str(doc.get("started", "")),
            "last_sign": str(doc.get("ended") or doc.get("renewed") or ""),
            "is_over": bool(doc.get("ended")),
            "error": str(doc.get("error", "")),
            "kind": str(doc.get("kind", "")),
            "host": str(worker.get("host", "")),
            "container": str(worker.get("container", "")),
        }

    found: dict[str, list[dict[str, Any]]] = {}
    for (stage, _), attempt in zip(wanted, in_parallel(read, wanted, 8), strict=True):
        if attempt:
            found.setdefault(stage, []).append(attempt)
    return found


def _data_report(run: Run) -> Mapping[str, Any] | None:
    """The data report; that of a preparation which a gate stopped has no record."""
    key = run_key(run.info.run, "data/report.json")
    if "prepare" in run.records:
        outputs = run.records["prepare"].outputs
        recorded = next((output for output in outputs if output.key == key), None)
        if recorded is None:
            return None
        return run.read("data report", lambda: _report_of(run.store, recorded))
    if "data/report.json" not in run.names:
        return None
    return run.read("data report", lambda: run.store.read_json(key))


def _report_of(store: Store, artifact: Artifact) -> Mapping[str, Any]:
    return json.loads(store.read_artifact(artifact))  # the recorded one, or none


def _results(run: Run) -> list[dict[str, Any]]:
    if "results.txt" not in run.names or run.unfinished == "prepare":
        return []
    key = run_key(run.info.run, "results.txt")
    rows = run.read("results", lambda: parse_results(run.store.read_bytes(key).decode("ascii")))
    return [_row(row) for row in rows or ()]


def _row(row: ResultsRow) -> dict[str, Any]:
    found = row.results if row.is_evaluated else (None,) * len(row.results)
    values = dict(zip((*_METRICS, "val_box", "val_obj", "val_cls"), found, strict=True))
    losses = dict(zip(("box", "obj", "cls"), row.losses[:3], strict=True))
    return {
        "epoch": row.epoch,
        **{k: v if v is None or math.isfinite(v) else None for k, v in (losses | values).items()},
    }


def _best_epoch(rows: Sequence[Mapping[str, Any]]) -> int | None:
    found = [row for row in rows if row["map50"] is not None and row["map50_95"] is not None]
    best = max(found, key=lambda r: 0.1 * r["map50"] + 0.9 * r["map50_95"], default=None)
    return best["epoch"] if best else None


def _night(
    run: Run, fault: Mapping[str, Any] | None, report: Mapping[str, Any] | None, epochs: int
) -> Night:
    info, records = run.info, run.records
    times = [r.finished for r in records.values()]
    times += [a[key] for tries in run.attempts.values() for a in tries for key in ("last_sign",)]
    starts = [a["started"] for tries in run.attempts.values() for a in tries if a["started"]]
    when = max(filter(None, [*times, *starts]), key=_seconds, default="")
    prepared, evaluated = records.get("prepare"), records.get("evaluate")
    counts = prepared.result["counts"] if prepared else _counts(report)
    classes = evaluated.result["classes"][1:] if evaluated else ()  # the first is their mean
    first = min(starts, key=_seconds, default=when)
    return Night(
        run=info.run,
        created=info.created,
        when=when,
        status="completed" if fault is None else "stopped" if fault["by"] else "failed",
        epochs=epochs,
        metrics=dict(evaluated.result["metrics"]) if evaluated else {},
        classes={r["class"]: r["mAP50-95"] for r in classes if r["mAP50-95"] is not None},
        data_digest=prepared.result["digest"] if prepared else "",
        counts=counts,
        hours=round(max(0.0, _seconds(when) - _seconds(first)) / 3600, 4),
        code=info.code,
        seconds={stage: record.seconds for stage, record in records.items()},
    )


def _counts(report: Mapping[str, Any] | None) -> dict[str, dict[str, int]]:
    """As the prepare stage counts, from the report of a data set that was refused."""
    return {
        split: {
            "pictures": row["pictures"],
            "labels": row["boxes"],
            "background": row["background"],
        }
        for split, row in (report["splits"].items() if report else ())
    }


def _seconds(stamp: str) -> float:
    """Seconds since 1970 of an ISO 8601 time, 0 of none."""
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return 0.0


def _previous(run: Run, night: Night) -> dict[str, Any]:
    """The run to compare with, with what it was told and made from."""
    store = run.store
    doc = run.read(
        f"settings of the previous run {night.run}",
        lambda: store.read_json(run_key(night.run, "run.json")),
    )
    told = doc.get("config") if doc else None
    trained = read_stage(store, night.run, "train")
    inputs = {key: Artifact(**kept) for key, kept in (doc or {}).get("inputs", {}).items()}
    return {
        "night": asdict(night),
        "settings": _settings(told, trained, inputs) if told else None,
        "versions": {"code": doc["code"], **doc["packages"]} if doc else None,
    }


def _settings(
    told: Mapping[str, Any], trained: StageRecord | None, inputs: Mapping[str, Artifact]
) -> dict[str, Any]:
    """Settings, the hyperparameters in effect, and the digests of files that settings name."""
    hyp = trained.inputs.get("training", {}).get("hyp", {}) if trained else {}
    return {
        **{key: value for key, value in told.items() if key not in ("run", "resume")},
        **{f"hyp.{key}": value for key, value in hyp.items()},
        **{f"content of {key}": f"sha256 {kept.sha256[:12]}" for key, kept in inputs.items()},
    }


def _stage(run: Run, stage: str) -> dict[str, Any]:
    record = run.records.get(stage)
    return {
        "stage": stage,
        "attempts": run.attempts[stage],
        "done": record
        and {
            "attempt": record.attempt,
            "started": record.started,
            "finished": record.finished,
            "seconds": record.seconds,
            "host": record.host,
            "container": record.container,
            "code": record.code,
        },
    }


def _checkpoint(run: Run) -> dict[str, Any] | None:
    """The newest complete state of a training that is not done."""
    if run.unfinished != "train":
        return None
    pointer = checkpoints.newest(run.store, run.info.run)
    if pointer is None:
        return None
    return {"epoch": pointer.epoch, "batch": pointer.batch, **_object(run, "train", pointer.last)}


def _objects(run: Run) -> list[dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    for stage, record in run.records.items():
        for output in record.outputs:
            known.setdefault(output.key, _object(run, stage, output))
    return list(known.values())


def _object(run: Run, stage: str, artifact: Artifact) -> dict[str, Any]:
    url = run.store.url(artifact.key)
    return {
        "stage": stage,
        "name": artifact.key.removeprefix(run_key(run.info.run, "")),
        "url": url,
        "link": browser_link(url),
        "size": artifact.size,
        "sha256": artifact.sha256,
    }


def _published(run: Run) -> list[dict[str, Any]]:
    uploaded = run.records.get("upload")
    listed = uploaded.result["published"] if uploaded else ()
    return [
        {key: each[key] for key in ("url", "size", "sha256")} | {"link": browser_link(each["url"])}
        for each in listed
    ]
