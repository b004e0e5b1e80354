import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from flows.cli import main
from flows.evolve_command import describe, evolve_command
from tasks.settings import RetrainConfig
from yolov5_core.config import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--generation 3", "unknown argument '--generation'; did you mean --generations?"),
        ("--epoch 3", "did you mean --epochs?"),
        ("--xyzzy", "see yolov5-retrain evolve --help"),
        ("--only plot", "unknown argument '--only'"),
        ("--generations many", "argument --generations: invalid int value: 'many'"),
        ("--image-size 100", "image_size=100: must be a multiple of 32"),
    ],
)
def test_a_wrong_command_is_refused_with_what_to_change(argv, says):
    with pytest.raises(ConfigError) as caught:
        evolve_command(argv.split())
    assert says in str(caught.value)


def test_a_wrong_command_ends_with_code_2_and_one_sentence(capsys):
    assert main(["evolve", "--epochs", "0"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "",
        "yolov5-retrain: error: command line: epochs=0: must be 1 or more\n",
    )


def test_help_teaches_every_setting_and_loads_nothing_slow():
    program = """
import json, sys
from flows.cli import main
try:
    main(["evolve", "--help"])
except SystemExit:
    slow = ("torch", "prefect", "pydantic", "cv2", "fsspec", "gcsfs", "matplotlib")
    sys.stderr.write(json.dumps([name for name in slow if name in sys.modules]))
"""
    said = subprocess.run(  # noqa: S603  our own words
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert json.loads(said.stderr) == []
    for name in ("generations", *(field.name for field in fields(RetrainConfig))):
        assert "--" + name.replace("_", "-") in said.stdout
    assert "(default: 100)" in said.stdout


def test_the_end_says_what_was_gained_and_where_everything_is():
    from flows.evolve import EvolutionSummary  # noqa: PLC0415  it takes seconds to import

    summary = EvolutionSummary(
        evolution="evolve",
        generations=20,
        best=13,
        fitness=0.41234,
        first=0.33,
        files={"hyp": "bucket/hyp_evolved.yaml", "table": "bucket/evolve.txt"},
    )
    assert describe(summary) == (
        "20 generations of evolve; best is generation 13: fitness 0.4123, the table as given "
        "0.3300\n  hyp    bucket/hyp_evolved.yaml\n  table  bucket/evolve.txt"
    )
