"""Searches a data set for faults as preparing it does, and judges what was found."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fault_injection import Injected
from yolov5_core.faults import KINDS, Fault
from yolov5_core.files import LocalFiles
from yolov5_core.index import Index, concatenate
from yolov5_core.shards import Piece, check_piece, make_pieces
from yolov5_core.sources import understand


@dataclass(frozen=True)
class Search:
    """What a check of a data set brings to light."""

    faults: tuple[Fault, ...]
    index: Index  # of the pictures that are used
    class_names: tuple[str, ...]
    packed: bytes  # where the index's offsets lead

    def picture(self, row: int) -> bytes:
        """The file of a picture that is used."""
        image = self.index.images[row]
        return self.packed[image["offset"] : image["offset"] + image["size"]]

    def contents(self) -> dict[str, str]:
        """Of every picture that is used, a digest of its file and its labels."""
        digests = {}
        for row, name in enumerate(self.index.all_names()):
            truth = self.index.truth(row)
            parts = [self.picture(row), truth.labels.tobytes(), truth.crowd.tobytes()]
            parts += [segment.tobytes() for segment in truth.segments]
            digests[name] = hashlib.sha256(b"|".join(parts)).hexdigest()
        return digests


def search(data: Path) -> Search:
    """Checks all of a data set with the functions that prepare it; raises what they raise."""
    sources = understand(str(data), LocalFiles())
    faults, packed, indices = list(sources.faults), bytearray(), []
    with tempfile.TemporaryDirectory() as folder:
        for first, last in make_pieces(sources.items, piece_bytes=10**8, piece_items=10**4):
            piece = check_piece(
                Piece(
                    items=sources.items[first:last],
                    first=first,
                    files=LocalFiles(),
                    class_names=sources.names,
                    categories=sources.categories,
                    output=Path(folder) / f"{first}",
                )
            )
            piece.index.images["offset"] += len(packed)
            faults += [fault for _, fault in piece.faults]
            indices.append(piece.index)
            packed += piece.output.read_bytes()
            piece.output.unlink()
    return Search(tuple(faults), concatenate(indices), sources.names, bytes(packed))


@dataclass(frozen=True)
class Judgement:
    """How the search for injected faults fared."""

    found: tuple[tuple[Injected, bool], ...]
    lost: tuple[str, ...]  # pictures nobody touched that are gone or changed
    kept: tuple[str, ...]  # pictures used that must be left out
    false_alarms: tuple[Fault, ...]  # about nothing that was touched

    @property
    def is_perfect(self) -> bool:
        """Whether everything was found and nothing else happened."""
        return all(ok for _, ok in self.found) and not (self.lost or self.kept or self.false_alarms)

    def table(self) -> list[str]:
        """Found and injected, a line for each way to go wrong."""
        injected, found = (
            Counter(i for i, _ in self.found),
            Counter(i for i, ok in self.found if ok),
        )
        ways = {(i.way, i.kind): None for i, _ in self.found}
        lines = [f"{'way':<32} {'kind':<22} found"]
        for way, kind in ways:
            total = sum(n for i, n in injected.items() if (i.way, i.kind) == (way, kind))
            hits = sum(n for i, n in found.items() if (i.way, i.kind) == (way, kind))
            lines.append(f"{way:<32} {kind:<22} {hits}/{total}")
        kinds = {i.kind for i, _ in self.found}
        lines.append(
            f"{sum(found.values())}/{len(self.found)} faults of {len(kinds)} kinds in {len(ways)} "
            f"ways found; untouched pictures lost {len(self.lost)}, bad ones kept "
            f"{len(self.kept)}, false alarms {len(self.false_alarms)}"
        )
        return lines


def judge(before: Search, after: Search, injected: Sequence[Injected]) -> Judgement:
    """Compares two searches, without and with faults."""
    old, new = before.contents(), after.contents()
    touched = {i.image for i in injected}
    must_go = {i.image for i in injected if KINDS[i.kind].effect == "picture left out"}
    places = tuple(i.where for i in injected)
    return Judgement(
        found=tuple((i, any(_matches(fault, i) for fault in after.faults)) for i in injected),
        lost=tuple(n for n in old if n not in touched and old[n] != new.get(n)),
        kept=tuple(must_go & new.keys()),
        false_alarms=tuple(
            fault
            for fault in (Counter(after.faults) - Counter(before.faults)).elements()
            if not (fault.where.endswith(places) or any(_is_about(fault, i) for i in injected))
        ),
    )


def _matches(fault: Fault, injected: Injected) -> bool:
    is_right = fault.kind == injected.kind and fault.where.endswith(f"/{injected.where}")
    return is_right and (not injected.image or not fault.image or _is_about(fault, injected))


def _is_about(fault: Fault, injected: Injected) -> bool:
    """Whether both name one picture; a COCO file names its pictures from its own folder."""
    names = [f"/{fault.image}", f"/{injected.image}"]
    return bool(fault.image and injected.image) and (
        names[0].endswith(names[1]) or names[1].endswith(names[0])
    )
