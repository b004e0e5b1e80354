"""What a run's figures say beside those of the run before it: verdict, headline, differences.

A difference is told with its size and never called significant: one run each is no statistics.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from yolov5_core import promotion_text

SAME = 0.01  # of mAP50-95 and the other means: below it two runs are about the same
SAME_CLASS = 0.02  # of one class, which has fewer labels
METRICS = {
    "map50_95": "mAP50-95",
    "map50": "mAP50",
    "precision": "precision",
    "recall": "recall",
}
_MUCH_LONGER = 1.5  # times the previous duration
_WORTH_TELLING = 60  # seconds more
_NAMED = 4  # classes and settings named in a sentence
_SHORT = 24  # characters of a value told in a sentence; longer ones are in a table

Facts = Mapping[str, Any]
Verdict = Literal["better", "same", "worse", "first", "failed", "stopped", "unfinished"]


class Figure(NamedTuple):
    """A metric now and before."""

    name: str
    now: float | None
    before: float | None

    @property
    def change(self) -> float | None:
        """How much more it is now, of the three decimals that people see."""
        if self.now is None or self.before is None:
            return None
        return round(round(self.now, 3) - round(self.before, 3), 3)


class Difference(NamedTuple):
    """What is another text now."""

    name: str
    before: str
    now: str


class Notice(NamedTuple):
    """A sentence for the first screen."""

    level: Literal["stop", "warn", "info"]
    text: str


def verdict(facts: Facts) -> Verdict:
    """What the run is beside the one before it."""
    if facts["status"] != "completed":
        return facts["status"]
    change = metrics(facts)[0].change
    if change is None:
        return "first"
    return direction(change, SAME)


def direction(change: float, same: float) -> Literal["better", "same", "worse"]:
    """What a difference is; `same` is the smallest that counts."""
    if abs(change) < same:
        return "same"
    return "better" if change > 0 else "worse"


def headline(facts: Facts) -> str:
    """The verdict as a plain sentence with its numbers."""
    what, fault = verdict(facts), facts["fault"]
    if what == "unfinished":
        return f"Not finished: {facts['unfinished']} is not done."
    if fault:
        where = f"in {fault['stage']}" if fault["stage"] else "after the last stage"
        if fault["by"] == "gate":
            return "Stopped before training: the data did not pass its gates."
        tries = f", attempt {fault['attempts']}" if fault["attempts"] > 1 else ""
        return f"{'Interrupted' if fault['by'] else 'Failed'} {where}{tries}."
    figure = metrics(facts)[0]
    if what == "first":
        value = "" if figure.now is None else f": mAP50-95 {figure.now:.3f}"
        return f"The first completed run of this name{value}."
    size = abs(figure.change or 0.0)
    now, before = f"{figure.now:.3f}", f"{figure.before:.3f}"
    if what == "same":
        return f"About the same as the previous run: mAP50-95 {now}, before {before}."
    word, way = ("Better", "up") if what == "better" else ("Worse", "down")
    return f"{word} than the previous run: mAP50-95 {now}, {way} {size:.3f} from {before}."


def metrics(facts: Facts) -> list[Figure]:
    """The four means; mAP50-95 first."""
    before = facts["previous"]["night"]["metrics"] if facts["previous"] else {}
    now = facts["night"]["metrics"]
    return [Figure(name, now.get(key), before.get(key)) for key, name in METRICS.items()]


def classes(facts: Facts) -> list[Figure]:
    """mAP50-95 of each class of either run, those of this run first."""
    now = facts["night"]["classes"]
    before = facts["previous"]["night"]["classes"] if facts["previous"] else {}
    return [Figure(name, now.get(name), before.get(name)) for name in {**now, **before}]


def data(facts: Facts) -> list[Figure]:
    """Counts of the data set, now and before."""
    now = facts["night"]["counts"]
    before = facts["previous"]["night"]["counts"] if facts["previous"] else {}
    rows = []
    for split in {**now, **before}:
        for key, what in (
            ("pictures", "pictures"),
            ("labels", "boxes"),
            ("background", "pictures without a box"),
            ("left_out", "pictures left out"),
        ):
            values = (counts.get(split, {}).get(key) for counts in (now, before))
            rows.append(Figure(f"{split} {what}", *values))
    return [row for row in rows if row.now is not None or row.before is not None]


def same_data(facts: Facts) -> bool | None:
    """Whether both runs have the same data set; None if that is not known."""
    if not facts["previous"]:
        return None
    digests = [facts["night"]["data_digest"], facts["previous"]["night"]["data_digest"]]
    return digests[0] == digests[1] if all(digests) else None


def settings(facts: Facts) -> list[Difference]:
    """Settings and hyperparameters that differ from the previous run's."""
    return _differences(facts, "settings")


def versions(facts: Facts) -> list[Difference]:
    """Code and packages that differ from the previous run's."""
    return _differences(facts, "versions")


def _differences(facts: Facts, key: str) -> list[Difference]:
    before = facts["previous"][key] if facts["previous"] else None
    if before is None:
        return []
    now = facts[key]
    hyp = any(k.startswith("hyp.") for k in now) and any(k.startswith("hyp.") for k in before)
    return [
        Difference(name, _text(before.get(name)), _text(now.get(name)))
        for name in {**before, **now}
        if before.get(name) != now.get(name) and (hyp or not name.startswith("hyp."))
    ]


def _text(value: object) -> str:
    return "-" if value is None or value in ("", []) else str(value)


def notices(facts: Facts) -> list[Notice]:
    """What to know before anything else, the gravest first."""
    found = [*_data(facts), *_classes(facts), *_champion(facts), *_running(facts), *_told(facts)]
    found += [Notice("warn", f"Not on this card: {remark}") for remark in facts["remarks"]]
    order = ("stop", "warn", "info")
    return sorted(found, key=lambda notice: order.index(notice.level))


def _data(facts: Facts) -> Iterator[Notice]:
    report = facts["data"]
    if report and report["verdict"] != "pass":
        gates = [gate for gate in report["gates"] if gate["verdict"] != "pass"]
        values = ", ".join(
            f"{g['name']} {g['value']:.3g} of at most {g['threshold']:.3g}" for g in gates
        )
        yield Notice(report["verdict"], f"The data report says {report['verdict']}: {values}.")
    if facts["previous"] is None:
        return
    if same_data(facts):
        yield Notice("info", "The data set is the same as before.")
        return
    moved = sorted(
        (figure for figure in data(facts) if figure.change),
        key=lambda figure: not figure.name.endswith("pictures"),  # they are told first
    )
    listed = ", ".join(
        f"{f.name} {f.before:,.0f} \N{RIGHTWARDS ARROW} {f.now:,.0f}" for f in moved[:_NAMED]
    )
    if same_data(facts) is False:
        other = any(figure.name.startswith("val ") for figure in moved)
        doubt = (
            "the two runs are measured on different validation pictures"
            if other
            else "the two runs may not be measured on the same validation pictures"
        )
        told = f" ({listed})" if listed else ""
        yield Notice("warn" if other else "info", f"The data set changed{told}: {doubt}.")
    elif listed:
        yield Notice("info", f"The data set changed: {listed}.")


def _classes(facts: Facts) -> Iterator[Notice]:
    moved = [f for f in classes(facts) if f.change is not None]
    for what, level in (("worse", "warn"), ("better", "info")):
        found = [f for f in moved if direction(f.change or 0.0, SAME_CLASS) == what]
        if not found:
            continue
        found.sort(key=lambda f: -abs(f.change or 0.0))
        listed = ", ".join(f"{f.name} {f.change:+.3f}" for f in found[:_NAMED])
        way = "fell" if what == "worse" else "rose"
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        yield Notice(
            "warn" if level == "warn" else "info",
            f"{len(found)} of {len(moved)} classes {way} by {SAME_CLASS} mAP50-95 or more: "
            f"{listed}{more}.",
        )


def _other_code(facts: Facts) -> Iterator[Notice]:
    """Stages whose source is not the one that began the run: an image that was not built anew."""
    begun = _source(facts["versions"]["code"])
    others: dict[str, list[str]] = {}
    for stage in facts["stages"]:
        if stage["done"] and _source(stage["done"]["code"]) != begun:
            others.setdefault(stage["done"]["code"], []).append(stage["stage"])
    for code, stages in others.items():
        yield Notice("warn", f"{', '.join(stages)} ran with other code than the run: {code}.")


def _source(code: str) -> str:
    """The digest in a code version: a checkout names its commit too, an image may not."""
    return code.rpartition(" source ")[2]


def _champion(facts: Facts) -> Iterator[Notice]:
    found = facts["promotion"]
    if found:
        yield Notice("info" if found["promoted"] else "warn", promotion_text.headline(found))


def _running(facts: Facts) -> Iterator[Notice]:
    for stage in facts["stages"]:
        lost = [a for a in stage["attempts"] if not is_good(stage, a)]
        if stage["done"] and lost:
            reason = next((f": {a['error']}" for a in lost[::-1] if a["error"]), "")
            yield Notice(
                "warn",
                f"{stage['stage']} was done at attempt {stage['done']['attempt']}; before it "
                f"{len(lost)} did not finish{reason}",
            )
    yield from _other_code(facts)
    if facts["stopped_early"]:
        yield Notice(
            "info",
            f"Training stopped early after {facts['night']['epochs']} of {facts['planned']} "
            f"epochs ({facts['stopped_by'] or 'patience'}); the best is epoch "
            f"{facts['best_epoch']}.",
        )
    if facts["transferred"]:
        done, entries = facts["transferred"]
        yield Notice("info", f"Other weights gave {done} of {entries} entries of the first model.")
    for entry in facts["recovered"]:
        yield Notice(
            "warn",
            f"Step {entry['step']}, in epoch {entry['epoch']}, failed: {entry['why']} Training "
            f"went on from the last saved state, with {entry['change']}.",
        )
    if facts["previous"] and facts["status"] == "completed":
        now, before = (n["hours"] * 3600 for n in (facts["night"], facts["previous"]["night"]))
        if now > _MUCH_LONGER * before and now - before > _WORTH_TELLING:
            yield Notice("warn", f"It took {duration(now)}, the previous run {duration(before)}.")


def is_good(stage: Mapping[str, Any], attempt: Mapping[str, Any]) -> bool:
    """Whether an attempt left the stage's record, or found that it is there already."""
    done = stage["done"] and stage["done"]["attempt"] == attempt["number"]
    return bool(done or (attempt["is_over"] and not attempt["kind"]))


def _told(facts: Facts) -> Iterator[Notice]:
    for what, found in (("setting", settings(facts)), ("version", versions(facts))):
        if found:
            listed = ", ".join(map(_in_short, found[:_NAMED]))
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            words = f"1 {what} differs" if len(found) == 1 else f"{len(found)} {what}s differ"
            yield Notice("info", f"{words} from the previous run: {listed}{more}.")


def _in_short(difference: Difference) -> str:
    name, before, now = difference
    if max(len(before), len(now)) > _SHORT:
        return name
    return f"{name} {before} \N{RIGHTWARDS ARROW} {now}"


def kept(facts: Facts) -> list[str]:
    """What a run that did not finish leaves for the next attempt, in sentences."""
    done = [stage["stage"] for stage in facts["stages"] if stage["done"]]
    lines = [f"Stages that are done and will not be repeated: {', '.join(done)}."] if done else []
    if facts["checkpoint"]:
        saved = facts["checkpoint"]
        batch = f" and {saved['batch']} batches of the next" if saved["batch"] else ""
        whole = f"up to epoch {saved['epoch']} (0-{facts['planned'] - 1})"
        if saved["epoch"] < 0:  # none is finished
            whole, batch = f"up to batch {saved['batch']} of epoch 0", ""
        lines.append(f"Training {whole}{batch}, in {saved['name']}; it goes on from there.")
    elif facts["unfinished"] == "train":
        lines.append("Training had no checkpoint yet; it begins anew.")
    if facts["data_page"] and facts["unfinished"] == "prepare":
        lines.append("The data report, and all pictures that were checked: only what changes is "
                     "read again.")  # fmt: skip
    return lines or ["The settings in run.json; no stage was done yet."]


def duration(seconds: float) -> str:
    """A time span for people."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def moment(stamp: str) -> str:
    """A recorded time, ISO 8601 in UTC, for people."""
    return f"{stamp[:10]} {stamp[11:16]} UTC" if len(stamp) >= 16 else stamp


def rank(facts: Facts) -> str:
    """Where the run stands among the last ones; "" where there are too few to say so."""
    found: Sequence[float] = [
        night["metrics"]["map50_95"]
        for night in facts["nights"]
        if night["status"] == "completed" and "map50_95" in night["metrics"]
    ]
    now = facts["night"]["metrics"].get("map50_95")
    if facts["status"] != "completed" or now is None or len(found) < 3:
        return ""
    better = sum(value > now for value in found)
    if not better:
        return f"The highest mAP50-95 of the last {len(found)} completed runs."
    return f"Number {better + 1} by mAP50-95 of the last {len(found)} completed runs."
