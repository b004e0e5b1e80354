"""What all benchmarks share: timing in turns, ratios, figures as JSON with machine and versions.

A benchmark states a ratio to a limit or a baseline of the same run, because machines are shared
and drift: `in_turns` runs the candidates one after the other, round by round.
"""

import argparse
import gc
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

_VERSIONS = (
    "torch",
    "numpy",
    "opencv-python-headless",
    "prefect",
    "fsspec",
    "gcsfs",
    "onnx",
    "onnxruntime",
)


def in_turns(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Wall seconds of each candidate in each round; they take turns, so drift hits all alike."""
    for _ in range(warmup):
        for run in candidates.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            gc.collect()
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times as fast: the median of the ratios, round by round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def peak_rss_mb() -> float:
    """The most memory that this process has held so far, megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def circumstances() -> dict[str, Any]:
    """Date, machine and versions; call it after measuring."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    cpus = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {len(cpus)} x {(cpus or ['unknown'])[0]}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _VERSIONS},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes; `doc` is the docstring of its module."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--json", default="", metavar="FILE", help="write the figures here too")
    return made


def report(figures: Mapping[str, Any], rows: Sequence[tuple[str, str]], json_path: str) -> None:
    """Writes a table of titled rows and, if asked, figures with their circumstances as JSON."""
    everything = {**circumstances(), "peak_rss_mb": round(peak_rss_mb(), 1), **figures}
    width = max(len(title) for title, _ in rows)
    table = "\n".join(f"{title:<{width}}  {text}" for title, text in rows)
    sys.stdout.write(f"{table}\n{everything['machine']}, {everything['date']}\n")
    if json_path:
        Path(json_path).write_text(json.dumps(everything, indent=1) + "\n", "utf-8")
