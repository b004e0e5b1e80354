"""Moves one large and many small objects to a store and back, one after the other and side by side.

    python -m benchmarks.transfers                  # our emulator in a process of its own
    python -m benchmarks.transfers --store FOLDER   # a folder, or any URL

Both ways are measured in turns in the same run, so that their ratio holds on a busy machine; the
best of all turns counts. Our emulator answers at once, bound by the processors of this machine, and
then with the delays of a bucket: a round trip for each small request, and for each piece of a large
object the time that one connection takes. Working side by side hides those.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.store import Store, open_store
from tasks.transfers import in_parallel

_PIECE = 8 << 20  # bytes of one request for a large object
_SMALL = 20_000  # bytes, of a picture or a record


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What one kind of transfer reached."""

    what: str
    delay_ms: float  # of every answer of the emulator
    megabytes: float  # moved in one turn
    serial: float  # megabytes a second
    parallel: float  # megabytes a second
    ratio: float


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default="", help="folder or URL; empty: our emulator")
    parser.add_argument("--large", type=int, default=256, help="megabytes of the large object")
    parser.add_argument("--small", type=int, default=200, help="number of small objects")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--delay", type=float, default=20, help="round trip, milliseconds")
    parser.add_argument("--rate", type=float, default=50, help="of one connection, MB/s")
    parser.add_argument("--json", default="", help="where to write the figures")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = _Bench(Path(scratch), asked.large, asked.small, asked.turns)
        if asked.store:
            figures = bench.measure(asked.store, 0, ("large", "small"))
        else:
            with _emulator() as ask:
                figures = bench.measure("gs://models", 0, ("large", "small"))
                for kind, delay in (
                    ("large", _PIECE / asked.rate / 1000),
                    ("small", asked.delay),
                ):
                    ask(None)
                    ask({"delay": delay / 1000, "count": 1_000_000_000})
                    figures += bench.measure("gs://models", delay, (kind,))
    text = json.dumps(
        {"machine": platform.platform(), "cpus": os.cpu_count(), "figures": [*map(asdict, figures)]}
    )
    if asked.json:
        Path(asked.json).write_text(text + "\n", "utf-8")
    sys.stdout.write(f"{text}\n\n{_table(figures)}")


class _Bench:
    def __init__(self, scratch: Path, large: int, small: int, turns: int) -> None:
        self._scratch, self._turns = scratch, turns
        self._large = scratch / "large"
        self._large.write_bytes(os.urandom(large << 20))
        self._small = [scratch / f"small-{number}" for number in range(small)]
        for path in self._small:
            path.write_bytes(os.urandom(_SMALL))

    def measure(self, url: str, delay: float, kinds: tuple[str, ...]) -> list[Figures]:
        store = open_store(f"{url}/transfers-{uuid.uuid4().hex}")
        small, copy = self._small, self._scratch / "copy"
        parts = self._split()

        def put(path: Path) -> None:
            store.put_file(path, path.name)

        def get(path: Path) -> None:
            store.get_file(path.name, copy / path.name)

        def each(act: Callable[[Path], None], paths: list[Path]) -> None:
            for path in paths:
                act(path)

        put(self._large)
        size = self._large.stat().st_size
        total = sum(path.stat().st_size for path in small)
        found = [
            ("large up, as 4 objects", size, lambda: each(put, parts), lambda: _spread(put, parts)),
            ("large down", size, lambda: self._in_turn(store), lambda: get(self._large)),
            ("small up", total, lambda: each(put, small), lambda: _spread(put, small)),
            ("small down", total, lambda: each(get, small), lambda: _spread(get, small)),
        ]
        figures = [self._compare(*one, delay) for one in found if one[0].startswith(kinds)]
        for path in (self._large, *parts, *small):
            store.delete(path.name)
        return figures

    def _split(self) -> list[Path]:
        """The large file as four."""
        data = self._large.read_bytes()
        parts = [self._scratch / f"part-{number}" for number in range(4)]
        for number, path in enumerate(parts):
            path.write_bytes(data[number * len(data) // 4 : (number + 1) * len(data) // 4])
        return parts

    def _in_turn(self, store: Store) -> None:
        """The large object, one request after the other."""
        size = self._large.stat().st_size
        with (self._scratch / "in-turn").open("wb") as file:
            for start in range(0, size, _PIECE):
                file.write(store.read_range("large", start, min(start + _PIECE, size)))

    def _compare(
        self,
        what: str,
        size: int,
        serial: Callable[[], None],
        parallel: Callable[[], None],
        delay: float,
    ) -> Figures:
        best = [float("inf"), float("inf")]
        for _ in range(self._turns):
            for number, act in enumerate((serial, parallel)):
                started = time.perf_counter()
                act()
                best[number] = min(best[number], time.perf_counter() - started)
        megabytes = size / 1e6
        return Figures(
            what=what,
            delay_ms=round(delay),
            megabytes=round(megabytes, 1),
            serial=round(megabytes / best[0], 2),
            parallel=round(megabytes / best[1], 2),
            ratio=round(best[0] / best[1], 2),
        )


def _spread(act: Callable[[Path], None], paths: list[Path]) -> None:
    in_parallel(act, paths)


@contextmanager
def _emulator() -> Iterator[Callable[[object], None]]:
    """Our emulator; gives a function that asks it for faults, None: for no more of them."""
    command = [sys.executable, "-m", "tests.gcs_emulator", "models"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  ours
        try:
            url = (process.stdout.readline() if process.stdout else "").strip().partition("=")[2]
            os.environ["STORAGE_EMULATOR_HOST"] = url

            def ask(fault: object) -> None:
                request = urllib.request.Request(  # noqa: S310  our own
                    f"{url}/_faults",
                    json.dumps(fault).encode() if fault else None,
                    method="POST" if fault else "DELETE",
                )
                urllib.request.urlopen(request).close()  # noqa: S310  as above

            yield ask
        finally:
            process.terminate()


def _table(figures: list[Figures]) -> str:
    lines = [f"{'':24}{'delay':>8}{'serial':>12}{'parallel':>12}{'ratio':>8}"]
    lines += [
        f"{f.what:24}{f.delay_ms:>5.0f} ms"
        f"{f.serial:>7.1f} MB/s{f.parallel:>7.1f} MB/s{f.ratio:>8.2f}"
        for f in figures
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
