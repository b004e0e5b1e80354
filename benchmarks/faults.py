"""Puts faults of every kind into copies of a data set and prints which of them are found.

    python -m benchmarks.faults --data path/to/data.yaml --count 200

The data set (images/<split>, labels/<split>, data.yaml) is copied, and written anew as COCO JSON
and as Pascal VOC XML; each copy is spoilt and searched as preparing it would. The source is only
read. Exit status 1 if anything was missed, lost, kept or invented.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.fault_injection import WAYS, Injected, inject
from tests.fault_injection_formats import (
    COCO_FILE,
    COCO_WAYS,
    VOC_WAYS,
    inject_coco,
    inject_voc,
    write_coco,
    write_voc,
)
from tests.fault_search import Judgement, judge, search

Spoil = Callable[[int, int, set[str]], list[Injected]]  # count, seed, pictures to leave alone


def run(folder: Path, spoil: Spoil, count: int, seed: int) -> Judgement:
    """Searches a data set, spoils it, searches it again; pictures with faults are left alone."""
    before = search(folder)
    faulty = {fault.image for fault in before.faults}
    injected = spoil(count, seed, faulty)
    started = time.perf_counter()
    after = search(folder)
    seconds = time.perf_counter() - started
    sys.stdout.write(
        f"{len(before.faults)} faults of its own, {len(injected)} injected; then "
        f"{len(after.faults)} reported, {len(after.index)} of {len(before.index)} pictures used, "
        f"{seconds:.1f} s\n"
    )
    return judge(before, after, injected)


def main() -> int:
    """Prints a table for each format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="a data.yaml")
    parser.add_argument("--count", type=int, default=200, help="faults of the YOLO copy")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    judgements = []
    with tempfile.TemporaryDirectory() as scratch:
        yolo, coco, voc = (Path(scratch) / name for name in ("yolo", "coco", "voc"))
        shutil.copytree(arguments.data.parent, yolo)
        clean = search(yolo)
        write_coco(clean, coco)
        write_voc(clean, voc)
        runs: list[tuple[str, Path, Spoil, int]] = [
            ("YOLO", yolo, partial(inject, yolo), max(arguments.count, len(WAYS))),
            ("COCO", coco, partial(inject_coco, coco / "train" / COCO_FILE), 4 * len(COCO_WAYS)),
            ("VOC", voc, partial(inject_voc, voc), 4 * len(VOC_WAYS)),
        ]
        for name, folder, spoil, count in runs:
            sys.stdout.write(f"\n{name}: ")
            judgement = run(folder, spoil, count, arguments.seed)
            sys.stdout.write("\n".join(judgement.table()) + "\n")
            sys.stdout.writelines(f"false alarm: {fault}\n" for fault in judgement.false_alarms)
            judgements.append(judgement)
    found = [pair for judgement in judgements for pair in judgement.found]
    kinds = {injected.kind for injected, _ in found}
    hits = sum(ok for _, ok in found)
    sys.stdout.write(f"\nall: {hits}/{len(found)} faults of {len(kinds)} kinds found\n")
    return 0 if all(judgement.is_perfect for judgement in judgements) else 1


if __name__ == "__main__":
    sys.exit(main())
