"""Every hostile file is refused with a sentence, in bounds of time and memory; none is executed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import main
from tests.hostile.corpus import CORPUS

ROOT = Path(__file__).parents[2]
OURS = {
    *("CheckpointError", "ForeignCheckpointError", "ConfigError", "DataError"),
    *("FaultError", "PictureError", "EvaluationError", "OSError"),
}
# The seconds are those of a busy machine; megabytes by which the process may grow at one file.
SECONDS, MEGABYTES = 30, 400


@pytest.mark.slow
@pytest.mark.parametrize("kind", CORPUS)
def test_every_file_is_refused_in_words_and_in_bounds(kind, tmp_path):
    canary = tmp_path / "canary"
    done = subprocess.run(  # noqa: S603  our own words
        [sys.executable, "-m", "tests.hostile.reader", kind, str(tmp_path / kind), str(canary)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) >= 3
    for result in results:
        what = json.dumps(result)
        assert result["kind"] in OURS, what
        assert result["file"] in result["said"], what
        assert "\n" not in result["said"].strip(), what
        assert len(result["said"]) < 2000, what
        assert result["seconds"] < SECONDS, what
        assert result["mb"] < MEGABYTES, what
    assert not canary.exists()


@pytest.mark.parametrize("name", ["x\0.yaml", "x\n.yaml", "a" * 5000])
def test_a_name_that_no_file_can_have_is_a_sentence(name, tmp_path, capsys):
    assert main(["--config", f"{tmp_path}/{name}"]) == 2
    assert "yolov5-retrain: error: " in capsys.readouterr().err
