"""How much memory there is."""

from pathlib import Path

import pytest

from yolov5_core.memory import available_memory, total_memory


def test_the_free_memory_is_a_sensible_number():
    assert 2**20 < available_memory() < 2**50


def machine(folder: Path, **files: str) -> Path:
    """A root folder of a machine with 8 GB free."""
    (folder / "proc").mkdir()
    (folder / "proc/meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    (folder / "sys/fs/cgroup").mkdir(parents=True)
    for name, text in files.items():
        (folder / f"sys/fs/cgroup/memory.{name}").write_text(text)
    return folder


def test_free_memory_ends_at_the_limit_of_the_container(tmp_path: Path):
    stat = "anon 700\ninactive_file 300\nactive_file 5\n"
    root = machine(tmp_path, max="3000\n", current="1000\n", stat=stat)
    assert available_memory(root) == 3000 - 1000 + 300  # what files take is given back


@pytest.mark.parametrize("files", [{}, {"max": "max\n", "current": "1\n", "stat": "anon 1\n"}])
def test_without_a_limit_the_machine_decides(tmp_path: Path, files: dict[str, str]):
    assert available_memory(machine(tmp_path, **files)) == 8_000_000 * 1024


def test_an_unknown_kind_of_machine_is_named(tmp_path: Path):
    root = machine(tmp_path)
    (root / "proc/meminfo").write_text("MemTotal: 9000000 kB\n")
    with pytest.raises(OSError, match="MemAvailable"):
        available_memory(root)


def group(folder: Path, limit: int, used: int) -> None:
    """A control group of version 1."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text("inactive_file 7\ntotal_inactive_file 300\n")


def test_free_memory_ends_at_the_limit_of_an_older_kind_of_container(tmp_path: Path):
    root = machine(tmp_path)
    group(root / "sys/fs/cgroup/memory", 3000, 1000)
    assert available_memory(root) == 3000 - 1000 + 300
    assert total_memory(root) == 3000


def test_of_groups_within_groups_the_narrowest_counts(tmp_path: Path):
    root = machine(tmp_path)
    (root / "proc/self").mkdir()
    (root / "proc/self/cgroup").write_text("4:memory:/night/train\n0::/\n")
    top = root / "sys/fs/cgroup/memory"
    group(top, 9223372036854771712, 1000)  # as an unlimited one says
    group(top / "night", 5000, 4000)
    group(top / "night/train", 8000, 1000)
    assert available_memory(root) == 5000 - 4000 + 300
    assert total_memory(root) == 5000


def test_a_group_of_another_name_space_is_not_looked_for_elsewhere(tmp_path: Path):
    root = machine(tmp_path, max="3000\n", current="1000\n", stat="inactive_file 300\n")
    (root / "proc/self").mkdir()
    (root / "proc/self/cgroup").write_text("0::/../other/container\n")
    assert available_memory(root) == 3000 - 1000 + 300


def test_the_whole_memory_is_that_of_the_machine_without_a_limit(tmp_path: Path):
    assert total_memory(machine(tmp_path)) == 9_000_000 * 1024
