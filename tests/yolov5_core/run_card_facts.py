"""Facts of run cards, small enough to check by hand."""

from copy import deepcopy
from typing import Any

from tests.yolov5_core.small_index import index_of, picture
from tests.yolov5_core.test_data_report import CAT, report_of

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style><b>",
    "&lt;b&gt;",
    "<!-- ",
    "javascript:alert(1)",
)


def night(run: str = "tonight", map50_95: float | None = 0.5, **changed: Any) -> dict[str, Any]:
    """A completed run of two classes; both have the mean's mAP50-95."""
    m = map50_95
    metrics = {} if m is None else {"precision": 0.7, "recall": 0.6, "map50": 0.8, "map50_95": m}
    return {
        "run": run,
        "created": "2026-01-02T02:00:00+00:00",
        "when": "2026-01-02T03:00:00+00:00",
        "status": "completed",
        "epochs": 2,
        "metrics": metrics,
        "classes": {} if m is None else {"cat": m, "dog": m},
        "data_digest": "d1",
        "counts": {"train": {"pictures": 10, "labels": 30}, "val": {"pictures": 4, "labels": 9}},
        "hours": 1.0,
        "code": "c1",
        "seconds": {"train": 1800.0},
    } | changed


def attempt(number: int = 1, **changed: Any) -> dict[str, Any]:
    return {
        "number": number,
        "started": f"2026-01-02T02:0{number}:00+00:00",
        "last_sign": "2026-01-02T02:31:00+00:00",
        "is_over": True,
        "error": "",
        "kind": "",
        "host": "host-a",
        "container": "0123456789abcdef0123",
    } | changed


def stage(name: str = "train", *attempts: dict[str, Any], done: bool = True) -> dict[str, Any]:
    """A stage; if it is done, its last attempt did it, in half an hour."""
    tries = list(attempts or (attempt(),))
    record = {
        "attempt": tries[-1]["number"],
        "started": tries[-1]["started"],
        "finished": "2026-01-02T02:31:00+00:00",
        "seconds": 1800.0,
        "host": "host-a",
        "container": "0123456789abcdef0123",
        "code": "c1",
    }
    return {"stage": name, "attempts": tries, "done": record if done else None}


def stored(name: str, stage: str = "train", **changed: Any) -> dict[str, Any]:
    return {
        "stage": stage,
        "name": name,
        "url": f"gs://b/runs/tonight/{name}",
        "link": f"https://127.0.0.1/b/runs/tonight/{name}",
        "size": 1234,
        "sha256": "ab" * 32,
    } | changed


def row(epoch: int, **changed: Any) -> dict[str, Any]:
    """An epoch of results.txt."""
    return {
        "epoch": epoch,
        **dict.fromkeys(("box", "obj", "cls", "val_box", "val_obj", "val_cls"), 0.5),
        **{"precision": 0.7, "recall": 0.6, "map50": 0.8, "map50_95": 0.1 * (epoch + 1)},
    } | changed


def facts(text: str = "", **changed: Any) -> dict[str, Any]:
    """A completed run after another one; `text` is everywhere that strangers can write."""
    cat, dog = f"{text}cat", f"{text}dog"
    now = night(classes={cat: 0.5, dog: 0.5}, code=f"{text}c1")
    before = night("before", 0.4, classes={cat: 0.4, dog: 0.5}, created="2026-01-01T02:00:00+00:00")
    rows = [
        {"class": name, "labels": n, "P": 0.7, "R": 0.6, "mAP50": 0.8, "mAP50-95": 0.5}
        for name, n in (("all", 9), (cat, 5), (dog, 4))
    ]
    size = {"size": "small", "labels": 9, "R": 0.6, "mAP50": None, "mAP50-95": 0.5}
    return deepcopy(
        {
            "run": "tonight",
            "name": f"{text}street",
            "status": "completed",
            "unfinished": "",
            "created": now["created"],
            "place": f"gs://b/{text}runs/tonight",
            "link": "https://127.0.0.1/b/runs/tonight/report.html",
            "fault": None,
            "night": now,
            "nights": [before, now],
            "previous": {
                "night": before,
                "settings": {"epochs": 1, "data": f"{text}old.yaml", "hyp.lr0": 0.01},
                "versions": {"code": f"{text}c0", "torch": "2.0"},
            },
            "settings": {"epochs": 2, "data": f"{text}data.yaml", "hyp.lr0": 0.01},
            "versions": {"code": f"{text}c1", "torch": "2.0"},
            "data": report_of(
                index_of(picture("a", boxes=[CAT]), picture("b", "val", boxes=[CAT])),
                source=f"{text}data.yaml",
            ),
            "data_page": "data/report.html",
            "results": [row(0), row(1)],
            "planned": 2,
            "best_epoch": 1,
            "stopped_early": False,
            "stopped_by": "",
            "promotion": None,
            "transferred": [],
            "recovered": [],
            "evaluation": {"epoch": 1, "confidence": 0.4, "classes": rows, "sizes": [size]},
            "stages": [
                stage("train", attempt(1, error=text, kind="OSError", host=text), attempt(2))
            ],
            "checkpoint": None,
            "objects": [stored(f"weights/{text}best.pt")],
            "published": [stored("", url=f"gs://models/{text}best.pt")],
            "remarks": [f"picture: {text}"],
        }
        | changed
    )


def failed(text: str = "no space left", **changed: Any) -> dict[str, Any]:
    """A run whose training failed at its second attempt."""
    fault = {
        "stage": "train",
        "attempts": 2,
        "kind": "OSError",
        "message": text,
        "trace": "",
        "exit_code": 75,
        "meaning": "A fault that may pass.",
        "by": "",
        "commands": [("go on", f"yolov5-retrain --resume tonight {text}")],
    }
    tries = (attempt(1, kind="OSError", error=text), attempt(2, is_over=False))
    return (
        facts(text)
        | {
            "status": "failed",
            "unfinished": "train",
            "fault": fault,
            "night": night(map50_95=None, status="failed"),
            "evaluation": None,
            "stages": [stage("prepare"), stage("train", *tries, done=False)],
            "checkpoint": {"epoch": 4, "batch": 0, **stored("checkpoints/epoch-0004.pt")},
            "planned": 9,
            "objects": [],
            "published": [],
        }
        | changed
    )
