import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli import format_summary, main, parse
from tasks.records import Published, RunSummary
from tasks.settings import RetrainConfig
from yolov5_core.config import ConfigError

ROOT = Path(__file__).parents[2]


def command(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs Python from the repository's root and captures what it says."""
    return subprocess.run(  # noqa: S603  our own words
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=ROOT, **options
    )


def refusal(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(argv)
    return str(caught.value)


def test_no_flags_are_the_defaults():
    assert parse([]) == (RetrainConfig(), False, "")


def test_flags_become_fields():
    argv = "--data d/data.yaml --batch-size 8 --rect --freeze 0 2 --lr-curve cosine --debug"
    config = RetrainConfig(
        data="d/data.yaml", batch_size=8, rect=True, freeze=(0, 2), lr_curve="cosine"
    )
    assert parse(argv.split()) == (config, True, "")


def test_an_empty_text_is_the_default_so_that_make_can_pass_it_on():
    assert parse(["--name", "", "--bucket", ""])[0] == RetrainConfig()


def test_a_bare_resume_means_the_latest_run():
    assert parse(["--resume"])[0].resume == "latest"
    assert parse(["--resume", "20260101-020000_a", "--device", "cpu"])[0].resume.endswith("_a")


def test_flags_win_over_the_file_and_a_switch_can_be_taken_back(tmp_path):
    path = tmp_path / "nightly.yaml"
    path.write_text("epochs: 300\nrect: true\nautobalance: true\nname: street\n")
    config = parse(["--config", str(path), "--epochs", "3", "--no-rect"]).config
    assert config == RetrainConfig(epochs=3, autobalance=True, name="street")


def test_adam_may_still_be_said_as_a_flag_and_in_the_file(tmp_path):
    assert parse(["--adam"]).config == parse(["--optimizer", "adam"]).config
    assert parse(["--adam"]).config == RetrainConfig(optimizer="adam")
    path = tmp_path / "nightly.yaml"
    path.write_text("adam: true\n")
    assert parse(["--config", str(path)]).config == RetrainConfig(optimizer="adam")
    argv = ["--config", str(path), "--optimizer", "adamw"]  # flags win over the file
    assert parse(argv).config == RetrainConfig(optimizer="adamw")


def test_the_last_word_on_the_optimizer_counts():
    assert parse(["--adam", "--optimizer", "sgd"]).config.optimizer == "sgd"
    assert parse(["--optimizer", "sgd", "--adam"]).config.optimizer == "adam"


@given(
    st.builds(
        RetrainConfig,
        epochs=st.integers(1, 999),
        name=st.from_regex(r"[a-z0-9_]{0,9}", fullmatch=True),
        optimizer=st.sampled_from(["sgd", "adam", "adamw"]),
        patience=st.integers(0, 99),
        save_period=st.integers(0, 9),
        max_rejected=st.floats(0, 1),
        notest=st.booleans(),
        freeze=st.lists(st.integers(0, 9), max_size=3).map(tuple),
        iou=st.sampled_from(["ciou", "giou"]),
    )
)
def test_every_config_can_be_said_in_flags(config):
    argv: list[str] = []
    for field in fields(config):
        value, flag = getattr(config, field.name), "--" + field.name.replace("_", "-")
        if value is True:
            argv.append(flag)
        elif value is not False and value != ():
            argv += [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    # an empty resume cannot be told from a bare one by its words, and needs not be
    argv = [w for i, w in enumerate(argv) if "--resume" not in (w, argv[i - 1] if i else "")]
    assert parse(argv)[0] == config


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--epoch 3", "unknown argument '--epoch'; did you mean --epochs?"),
        ("--batch_size 3", "did you mean --batch-size?"),
        ("--xyzzy", "see yolov5-retrain --help"),
        ("data.yaml", "unknown argument 'data.yaml'"),
        ("--epochs ten", "argument --epochs: invalid int value: 'ten'"),
        ("--epochs", "argument --epochs: expected one argument"),
        ("--iou diou", "argument --iou: invalid choice: 'diou'"),
        ("--optimizer sdg", "argument --optimizer: invalid choice: 'sdg'"),
        ("--max-drift much", "argument --max-drift: invalid float value: 'much'"),
        ("--max-drift 2", "max_drift=2.0: must be a share from 0 to 1"),
        ("--quad --rect", "quad and rect"),
        ("--image-size 100", "image_size=100: must be a multiple of 32, such as 96"),
        ("--name a/../b", "name='a/../b'"),
        ("--rect --image-weights", "leave one out"),
        ("--config gone.yaml", "gone.yaml: cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_command_is_refused_with_what_to_change(argv, says):
    assert says in refusal(*argv.split())


def test_a_wrong_key_in_the_file_is_refused_naming_the_file(tmp_path):
    path = tmp_path / "nightly.yaml"
    path.write_text("epoch: 3\n")
    message = refusal("--config", str(path))
    assert str(path) in message
    assert "did you mean 'epochs'?" in message


def test_a_wrong_command_ends_with_code_2_and_one_sentence(capsys):
    assert main(["--epoch", "3"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "yolov5-retrain: error: unknown argument '--epoch'; did you mean --epochs?\n"
    )


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "interrupted; --resume continues the run"),
        (["evolve"], "interrupted; the same command goes on with it"),
        (["rollback"], "interrupted"),
    ],
)
def test_ctrl_c_says_how_to_go_on_where_anything_is_left(argv, says, monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.cli.parse", interrupted)
    monkeypatch.setattr("flows.evolve_command.evolve_command", interrupted)
    monkeypatch.setattr("flows.rollback.rollback_command", interrupted)
    assert main(argv) == 130
    assert capsys.readouterr().err == f"yolov5-retrain: {says}\n"


def test_help_shows_every_setting_with_its_text_default_and_examples():
    said = command("-m", "flows.cli", "--help")
    assert said.returncode == 0
    text = re.sub(r"\s+", " ", said.stdout)
    for field in fields(RetrainConfig):
        assert "--" + field.name.replace("_", "-") in text
        assert field.metadata["description"].replace("- ", "-") in text.replace("- ", "-")
    assert "(default: 640 pixels)" in text
    assert "--max-rejected SHARE share of pictures" in text
    assert "(default: 0.05)" in text
    assert "--optimizer {sgd,adam,adamw}" in text
    assert "examples:" in text
    assert "--no-rect" not in text


def test_help_loads_nothing_slow():
    program = """
import json, sys
from flows.cli import main
try:
    main(["--help"])
except SystemExit:
    slow = ("torch", "prefect", "pydantic", "cv2", "fsspec", "gcsfs", "matplotlib")
    sys.stderr.write(json.dumps([name for name in slow if name in sys.modules]))
"""
    assert json.loads(command("-c", program).stderr) == []


def test_the_summary_says_where_everything_is():
    published = Published(
        key="weights/last_a.pt", url="gs://b/weights/last_a.pt", size=1, sha256=""
    )
    summary = RunSummary(
        run="r",
        folder="store/runs/r",
        report="store/runs/r/report.html",
        data="store/runs/r/data/report.html",
        weights=("store/runs/r/weights/last_a.pt", "store/runs/r/weights/best_a.pt"),
        results="store/runs/r/results_a.txt",
        plot="store/runs/r/plots/results.png",
        published=(published,),
        metrics={"map50": 0.91234, "map50_95": 0.6},
        epochs=3,
        hours=0.0123,
    )
    assert format_summary(summary).splitlines() == [
        "3 epochs completed in 0.012 hours.",
        "  run        store/runs/r",
        "  report     store/runs/r/report.html",
        "  data       store/runs/r/data/report.html",
        "  weights    store/runs/r/weights/last_a.pt",
        "             store/runs/r/weights/best_a.pt",
        "  results    store/runs/r/results_a.txt",
        "  plot       store/runs/r/plots/results.png",
        "  published  gs://b/weights/last_a.pt",
        "  metrics    map50 0.912  map50_95 0.600",
    ]


@pytest.mark.slow  # starts Prefect
def test_a_data_fault_in_the_flow_ends_with_code_2_and_no_traceback(tmp_path):
    environment = os.environ | {"PREFECT_HOME": str(tmp_path / "prefect")}
    words = ("--data", "gone.yaml", "--store", str(tmp_path / "store"))
    said = command("-m", "flows.cli", *words, env=environment)
    assert said.returncode == 2
    assert "Traceback" not in said.stderr
    assert re.search(r"yolov5-retrain: error: /.*/gone.yaml: no such file", said.stderr)
