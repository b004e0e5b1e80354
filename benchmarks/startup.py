"""Start-up: `--help`, and the command until the model is ready and its first step is done.

    python -m benchmarks.startup --rounds 3

Every start is a fresh process with the command as a user types it, Prefect's temporary server
included; data, Prefect's home and file caches are warm, as on any night but the first. Seconds are
read from outside, from the lines of the log. Beside them stands the CPU time of the process and of
the server: on a busy machine seconds say little, and their ratio says how busy it was.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import parser, report
from yolov5_core.synthetic import draw_dataset

_TICKS = os.sysconf("SC_CLK_TCK")
_COMMAND = [sys.executable, "-m", "flows.cli"]
# What a line of the log says, and what it tells.
_SIGNS = {
    "Beginning flow run": "flow",  # our imports are done and Prefect's server answers
    "stage train of run": "train",  # data is prepared
    "training on": "ready",  # model, optimizer and loader are there: the first step begins
    "first step done": "step",
}
_IMPORTS = {
    "prefect": "import prefect",
    "torch": "import torch",
    "prefect's server": "import prefect.server.api.server",  # most of its start, Prefect's own
}


def main() -> None:
    """Runs the benchmark."""
    taken = parser(__doc__)
    taken.add_argument("--rounds", type=int, default=3)
    taken.add_argument("--size", type=int, default=320, help="of the pictures, pixels")
    arguments = taken.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments.rounds, arguments.size)
    rows = [(name, f"{figures['help_s']:.2f} s") for name in ("--help",)]
    rows += [
        (f"{name}", f"{row['seconds']:.2f} s, CPU {row['cpu_s']:.2f} s of ours, "
         f"{row['server_cpu_s']:.2f} s of Prefect's server")
        for name, row in figures["signs"].items()
    ]  # fmt: skip
    rows += [(f"`{_IMPORTS[name]}` alone", f"CPU {s:.2f} s") for name, s in
             figures["import_cpu_s"].items()]  # fmt: skip
    report(figures, rows, arguments.json)


def measure(folder: Path, rounds: int, size: int) -> dict[str, Any]:
    """All figures: medians, and every round of the starts."""
    data = draw_dataset(
        folder / "data", train=480, val=120, image_size=size, seed=0, progress=lambda *_: None
    )
    _start(folder, data, size)  # prepares the data and makes Prefect's home
    helps, starts = [], []
    imports: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    for _ in range(rounds):
        begun = time.perf_counter()
        subprocess.run([*_COMMAND, "--help"], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        helps.append(time.perf_counter() - begun)
        starts.append(_start(folder, data, size))
        for name, code in _IMPORTS.items():
            imports[name].append(_cpu_of(code))
    return {
        "rounds": starts,
        "help_s": statistics.median(helps),
        "signs": {
            sign: {key: statistics.median(s[sign][key] for s in starts) for key in starts[0][sign]}
            for sign in _SIGNS.values()
        },
        "import_cpu_s": {name: statistics.median(all_) for name, all_ in imports.items()},
        "load": os.getloadavg()[0],
    }


def _start(folder: Path, data: Path, size: int) -> dict[str, Mapping[str, float]]:
    """Runs the command until its first step is done; when each sign came, by its name."""
    command = [*_COMMAND, "--data", str(data), "--epochs", "1", "--image-size", str(size)]
    command += ["--store", str(folder / "store"), "--device", "cpu"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    environment |= {
        "PREFECT_HOME": str(folder / "prefect"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    found: dict[str, Mapping[str, float]] = {}
    begun = time.perf_counter()
    with subprocess.Popen(  # noqa: S603  our own command
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        for line in process.stdout or ():
            for sign, name in _SIGNS.items():
                if sign in line and name not in found:
                    found[name] = {"seconds": time.perf_counter() - begun, **_cpu(process.pid)}
            if "step" in found:
                os.killpg(process.pid, signal.SIGKILL)
                break
    shutil.rmtree(folder / "store" / "runs", ignore_errors=True)
    if "step" not in found:
        raise RuntimeError(f"no first step; seen were {list(found)}")
    return found


def _cpu(pid: int) -> dict[str, float]:
    """CPU seconds of a process and of its child, Prefect's server."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    server = next((c for c in children if _is_server(c)), None)
    return {"cpu_s": _used(pid), "server_cpu_s": _used(server) if server else 0.0}


def _is_server(pid: str) -> bool:
    return b"temporary_server" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _used(pid: int | str) -> float:
    numbers = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / _TICKS


def _cpu_of(code: str) -> float:
    """CPU seconds of a statement in a fresh interpreter."""
    text = f"import json, time\n{code}\nprint(json.dumps(time.process_time()))"
    done = subprocess.run(  # noqa: S603  our own statements
        [sys.executable, "-c", text], check=True, capture_output=True, text=True
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
