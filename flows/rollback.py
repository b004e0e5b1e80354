"""`yolov5-retrain rollback`: an earlier champion takes the title back.

Neither Prefect nor torch is needed: a bad model must go at once, from any machine.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from flows.command_parser import CommandParser
from tasks import champions
from tasks.champions import Champion
from tasks.errors import StoreUnavailableError
from tasks.store import Store, open_store
from yolov5_core.config import ConfigError

_EPILOG = """\
examples:
  yolov5-retrain rollback --bucket gs://models --name street --list
      shows every champion there was, the newest first
  yolov5-retrain rollback --bucket gs://models --name street
      the champion before the present one is champion again
  yolov5-retrain rollback --bucket gs://models --name street --to 12
      entry 12 is

Nothing is deleted: going back is one more entry of the log, and can be taken back like any other.
"""


def rollback_command(argv: Sequence[str]) -> str:
    """Does what the command line says and returns what there is to say.

    Raises:
        ConfigError: Unknown flags, or nothing to go back to.
        StoreError: The bucket failed.
    """
    parser = CommandParser(
        "rollback",
        description="Makes an earlier champion the champion again.",
        epilog=_EPILOG,
    )
    parser.add_argument("--bucket", required=True, help="where the champions are")
    parser.add_argument("--name", default="", help="of the model, as its runs have it")
    parser.add_argument("--to", type=int, default=0, metavar="ENTRY", help="entry to go back to")
    parser.add_argument("--list", action="store_true", help="show the log and change nothing")
    given = parser.parse_args(argv)
    bucket = open_store(given.bucket)
    if given.list:
        return describe_log(bucket, given.name)
    return roll_back(bucket, given.name, given.to)


def describe_log(bucket: Store, name: str) -> str:
    """The champions as a table, the newest first.

    Raises:
        StoreError: The bucket failed.
    """
    rows = [("entry", "when", "run", "mAP50-95", "how", "weights")]
    for number, champion in champions.entries(bucket, name):
        quality = champion.metrics.get("map50_95")
        shown = "" if quality is None else f"{quality:.3f}"
        rows.append(
            (str(number), champion.when, champion.run, shown, champion.kind, champion.weights.key)
        )
    if len(rows) == 1:
        return f"{bucket.shown} has no champion of {champions.model_name(name)} yet"
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def roll_back(bucket: Store, name: str, to: int = 0) -> str:
    """Makes an earlier champion the champion and shows it; returns what was and what is.

    Args:
        bucket: Where the champions are.
        name: Of the runs.
        to: Number of its entry, 0 for the champion before the present one.

    Raises:
        ConfigError: There is no such entry.
        StoreError: Its weights are gone or damaged, or the bucket failed; all is as before.
    """
    found = champions.newest(bucket, name)
    known = dict(champions.entries(bucket, name))
    model = champions.model_name(name)
    if found is None:
        raise ConfigError(f"{bucket.shown} has no champion of {model} to roll back")
    last, present = found
    chosen = to or _before(known, present)
    if chosen not in known:
        what = f"entry {to} of {model}" if to else f"a champion of {model} before this one"
        raise ConfigError(
            f"{bucket.shown} does not have {what}; `yolov5-retrain rollback --list` shows what "
            "it has"
        )
    target = known[chosen]
    with tempfile.TemporaryDirectory(prefix="rollback-") as scratch:
        # First the weights: an entry must never name what cannot be read.
        bucket.get_file(target.weights.key, Path(scratch) / "weights.pt", target.weights)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        reason = f"from entry {last} back to entry {chosen}"
        entry = replace(target, kind="rolled back", when=now, reason=reason)
        if not champions.crown(bucket, name, last, entry):
            raise StoreUnavailableError(
                f"{bucket.url('champions')}: another champion was entered just now; look at it "
                "with --list, and roll back again if it is to go"
            )
        champions.show(bucket, name, Path(scratch))
    return (
        f"champion of {model} was run {present.run} (entry {last}), is run {target.run} "
        f"(as in entry {chosen}); its weights are at {bucket.url(champions.address(name))}"
    )


def _before(known: dict[int, Champion], present: Champion) -> int:
    """The newest entry with other weights, from the entry on that made the present ones champion.

    So rolling back twice goes two champions back, not back and forth.
    """
    same = [n for n, entry in known.items() if entry.weights.sha256 == present.weights.sha256]
    return max((n for n in known if n < min(same)), default=0)
