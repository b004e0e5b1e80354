"""Every way we know to spoil a data set, put in on purpose, is found, located and reported."""

import shutil
from pathlib import Path

import pytest

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
from tests.fault_search import Search, judge, search
from yolov5_core.faults import KINDS, Fault
from yolov5_core.synthetic import draw_dataset


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Search]:
    folder = tmp_path_factory.mktemp("clean")
    draw_dataset(folder, train=60, val=20, image_size=64, seed=0, progress=lambda *_: None)
    return folder, search(folder)


def faulty(found: Search) -> list[str]:
    return [fault.image for fault in found.faults]


def test_a_drawn_data_set_has_no_faults_in_any_format(
    clean: tuple[Path, Search], tmp_path: Path
) -> None:
    found = clean[1]
    assert found.faults == ()
    for write in (write_coco, write_voc):
        again = search(write(found, tmp_path / write.__name__))
        assert again.faults == ()
        assert len(again.index) == len(found.index) == 80
        assert abs(again.index.labels["box"] - found.index.labels["box"]).max() < 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_every_fault_of_a_yolo_data_set_is_found_and_the_rest_survives_unchanged(
    clean: tuple[Path, Search], tmp_path: Path, seed: int
) -> None:
    folder, before = clean
    shutil.copytree(folder, tmp_path / "copy")
    injected = inject(tmp_path / "copy", len(WAYS), seed)
    assert {i.way for i in injected} == set(WAYS)
    judgement = judge(before, search(tmp_path / "copy"), injected)
    assert judgement.is_perfect, "\n".join([*judgement.table(), str(judgement)])


def test_every_fault_of_a_coco_data_set_is_found_and_the_rest_survives_unchanged(
    clean: tuple[Path, Search], tmp_path: Path
) -> None:
    folder = write_coco(clean[1], tmp_path)
    before = search(folder)
    injected = inject_coco(folder / "train" / COCO_FILE, len(COCO_WAYS), 0)
    assert {i.way for i in injected} == set(COCO_WAYS)
    judgement = judge(before, search(folder), injected)
    assert judgement.is_perfect, "\n".join([*judgement.table(), str(judgement)])


def test_every_fault_of_a_voc_data_set_is_found_and_the_rest_survives_unchanged(
    clean: tuple[Path, Search], tmp_path: Path
) -> None:
    folder = write_voc(clean[1], tmp_path)
    before = search(folder)
    injected = inject_voc(folder, len(VOC_WAYS), 0)
    assert {i.way for i in injected} == set(VOC_WAYS)
    judgement = judge(before, search(folder), injected)
    assert judgement.is_perfect, "\n".join([*judgement.table(), str(judgement)])


def test_every_kind_of_fault_can_be_injected() -> None:
    ways = [*WAYS.values(), *COCO_WAYS.values(), *VOC_WAYS.values()]
    assert {kind for kind, _ in ways} == set(KINDS)


def test_the_same_seed_spoils_the_same_pictures(clean: tuple[Path, Search], tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        shutil.copytree(clean[0], tmp_path / name)
    first, second, third = (
        inject(tmp_path / name, 50, seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == second
    assert first != third


def test_more_faults_than_pictures_are_refused(clean: tuple[Path, Search], tmp_path: Path) -> None:
    shutil.copytree(clean[0], tmp_path / "copy")
    with pytest.raises(ValueError, match="47 to 80 faults are possible here, not 81"):
        inject(tmp_path / "copy", 81, 0)


def test_a_judgement_sees_what_is_missed_lost_kept_and_invented(
    clean: tuple[Path, Search],
) -> None:
    found = clean[1]
    first, second = found.index.all_names()[:2]
    missed = Injected("way", "image-empty", first, first)
    invented = Fault(kind="image-empty", image=second, where=second, reason="")
    without = Search(
        (invented,), found.index.take(sorted({0, *range(2, 80)})), ("a",), found.packed
    )
    judgement = judge(found, without, [missed])
    assert [ok for _, ok in judgement.found] == [False]
    assert judgement.lost == (second,)
    assert judgement.kept == (first,)
    assert judgement.false_alarms == (invented,)
    assert not judgement.is_perfect
    assert judgement.table()[-1].startswith("0/1 faults of 1 kinds in 1 ways found;")
