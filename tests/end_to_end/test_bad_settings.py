"""Settings that cannot work are refused by name, before any work where that is possible."""

import pytest

from flows.cli import main
from tests.end_to_end.conftest import snapshot, tiny_arguments


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """What is said on stderr, with exit code 2."""
    assert main(arguments) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("yolov5-retrain: error: ")
    assert "Traceback" not in stderr
    return stderr


BEFORE_ANY_WORK = {
    "size": (("--image-size", "65"), "image_size=65: must be a multiple of 32, such as 64"),
    "size of n6": (
        ("--cfg", "n6", "--image-size", "96"),
        "image_size=96: cfg=n6 needs a multiple of 64, such as 1",
    ),
    "slash": (("--name", "a/b"), "name='a/b': must be 1-64 letters"),
    "dots": (("--name", ".."), "name='..': must be 1-64 letters"),
    "shell": (("--name", "; rm -rf ~"), "name='; rm -rf ~': must be 1-64 letters"),
    "substitution": (("--name", "$(id)"), "name='$(id)': must be 1-64 letters"),
    "epochs": (("--epochs", "0"), "epochs=0: must be 1 or more"),
    "text for a number": (("--epochs", "ten"), "ten"),
    "flag": (("--epoch", "3"), "did you mean --epochs?"),
    "hyp": (("--hyp", "lost.yaml"), "hyp=lost.yaml: no such file"),
    "cfg": (("--cfg", "lost.yaml"), "cfg=lost.yaml: no such file"),
    "weights": (("--weights", "lost.pt"), "weights=lost.pt: no such file; give a path or URL"),
    "combination": (("--rect", "--image-weights"), "rect and image_weights: "),
    "containers without their deployments": (
        ("--run-on", "docker"),
        "knows no deployment prepare/docker; `make up` makes them",
    ),
    "pods and a folder": (("--run-on", "kubernetes"), "a pod cannot see a folder of this machine"),
    "bucket URL": (("--bucket", "gs:/models"), "bucket='gs:/models': a URL is written gs://"),
    "kind of URL": (("--bucket", "nothing://models"), "nothing://models: "),
}


@pytest.mark.parametrize("case", BEFORE_ANY_WORK)
def test_what_can_be_known_is_refused_before_any_work(data, tmp_path, capsys, case):
    words, message = BEFORE_ANY_WORK[case]
    assert message in refused(capsys, tiny_arguments(data, tmp_path, *words))
    assert not (tmp_path / "store" / "runs").exists()


def test_a_bucket_that_is_a_file_is_refused_before_any_work(data, tmp_path, capsys):
    (tmp_path / "bucket").write_text("not a folder")
    words = ("--bucket", str(tmp_path / "bucket"))
    stderr = refused(capsys, tiny_arguments(data, tmp_path, *words))
    assert f"cannot write {tmp_path / 'bucket'}" in stderr
    assert "check the path and the permissions" in stderr
    assert not (tmp_path / "store" / "runs").exists()


def test_an_unknown_hyperparameter_is_refused_with_the_nearest_known_one(data, tmp_path, capsys):
    path = tmp_path / "hyp.yaml"
    path.write_text("lr: 0.1\nmosaics: 1.0\n")
    stderr = refused(capsys, tiny_arguments(data, tmp_path, "--hyp", str(path)))
    assert f"{path}: unknown key 'lr'" in stderr
    assert "did you mean" in stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole zip file"),
        (b"not a checkpoint at all", "not a whole zip file"),
        ("half", "not a whole zip file"),
        ("flipped", "damaged"),
    ],
    ids=["empty", "text", "cut in half", "a byte changed"],
)
def test_a_corrupt_checkpoint_is_refused_as_weights(
    finished, data, tmp_path, capsys, content, message
):
    good = (finished.folder / "weights" / "last_street.pt").read_bytes()
    if content == "half":
        content = good[: len(good) // 2]
    elif content == "flipped":
        place = good.index(b"data.pkl") + 40
        content = good[:place] + bytes([good[place] ^ 255]) + good[place + 1 :]
    path = tmp_path / "parent.pt"
    path.write_bytes(content)
    stderr = refused(capsys, tiny_arguments(data, tmp_path, "--weights", str(path)))
    assert str(path) in stderr
    assert message in stderr
    assert path.read_bytes() == content


def test_weights_of_another_architecture_are_refused(finished, data, tmp_path, capsys):
    weights = str(finished.folder / "weights" / "last_street.pt")
    words = ("--weights", weights, "--cfg", "m")
    stderr = refused(capsys, tiny_arguments(data, tmp_path, *words))
    assert f"weights={weights}: no layer fits this model; leave cfg empty" in stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--device", "99"), "device=99: this machine has"),
        (("--freeze", "0", "99"), "freeze=[0, 99]: the model has layers 0 to 24"),
        (("--freeze", "25"), "freeze=[25]: every layer is frozen"),
    ],
)
def test_what_the_model_shows_is_refused_before_the_first_epoch(
    data, tmp_path, capsys, words, message
):
    before = snapshot(data.parent)
    assert message in refused(capsys, tiny_arguments(data, tmp_path, *words))
    assert not list((tmp_path / "store").rglob("results.txt"))
    assert snapshot(data.parent) == before
