import uuid

import pytest
import torch

from tasks.errors import MissingObjectError
from tasks.store import open_store
from tasks.weights import fetch_weights, first_model, read_parent
from tests.tiny import tiny_description
from tests.yolov5_core.test_foreign import stripped_v7, v5, v6
from yolov5_core import checkpoint
from yolov5_core.checkpoint import CheckpointError
from yolov5_core.config import ConfigError, Hyperparameters
from yolov5_core.foreign import ForeignCheckpointError
from yolov5_core.start import new_detector


@pytest.fixture
def ours(tmp_path):
    """A checkpoint of ours: a tiny detector of three classes."""
    model = new_detector(tiny_description(3), seed=7)
    path = tmp_path / "ours.pt"
    payload = {"description": model.description.to_mapping(), "model": model.state_dict()}
    checkpoint.save(payload, path)
    return path, model


def start(**changes):
    defaults = {"cfg": "", "weights": None, "num_classes": 3, "hyp": Hyperparameters(), "seed": 0}
    return first_model(**{**defaults, **changes}).model


def test_a_local_file_is_used_where_it_is(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(b"weights")
    assert fetch_weights(str(path), tmp_path / "scratch") == path


def test_a_missing_file_is_named_with_the_fix(tmp_path):
    with pytest.raises(ConfigError, match=r"lost\.pt: no such file; give a path or URL"):
        fetch_weights(str(tmp_path / "lost.pt"), tmp_path)


def test_a_url_is_fetched(tmp_path):
    url = f"memory://{uuid.uuid4().hex}"
    open_store(url).put_bytes(b"weights", "deep/a.pt")
    path = fetch_weights(f"{url}/deep/a.pt", tmp_path)
    assert path.read_bytes() == b"weights"
    assert path.is_relative_to(tmp_path)


def test_a_url_of_nothing_is_a_missing_object(tmp_path):
    with pytest.raises(MissingObjectError):
        fetch_weights(f"memory://{uuid.uuid4().hex}/a.pt", tmp_path)


def test_without_weights_and_cfg_it_is_variant_n_from_the_seed():
    model = start()
    assert model.description.width_multiple == 0.25
    again, other = start(), start(seed=1)
    key = "model.0.conv.weight"
    assert torch.equal(model.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(model.state_dict()[key], other.state_dict()[key])


def test_weights_bring_their_own_description(ours):
    path, parent = ours
    model = start(weights=path)
    assert model.description == parent.description
    for key, value in parent.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_weights_of_another_class_count_give_all_but_the_head(ours):
    path, parent = ours
    model = start(weights=path, num_classes=5)
    assert model.detect.nc == 5
    head = f"model.{len(model.model) - 1}."
    for key, value in parent.state_dict().items():
        if not key.startswith(head):
            assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize("written", [v5, v6, stripped_v7])
def test_a_public_checkpoint_is_read_like_our_own(tmp_path, written):
    path, parent = written(tmp_path / "public.pt")
    first = first_model(cfg="", weights=path, num_classes=3, hyp=Hyperparameters(), seed=0)
    assert first.transferred == first.entries == len(parent.state_dict())
    for key, value in parent.state_dict().items():
        assert torch.equal(first.model.state_dict()[key].half(), value.half()), key


def test_what_weights_gave_is_counted(ours):
    whole = first_model(cfg="", weights=ours[0], num_classes=5, hyp=Hyperparameters(), seed=0)
    assert whole.entries - whole.transferred == 6  # weights and biases of the head's three levels
    fresh = first_model(cfg="", weights=None, num_classes=5, hyp=Hyperparameters(), seed=0)
    assert fresh.transferred == 0


def test_weights_that_fit_nothing_are_refused(ours):
    with pytest.raises(ConfigError, match="no layer fits this model; leave cfg empty"):
        start(weights=ours[0], cfg="m")


def test_the_hyperparameter_anchors_sets_how_many_a_level_has(ours):
    assert start(weights=ours[0], hyp=Hyperparameters(anchors=4.0)).detect.na == 4


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut short"])
def test_a_corrupt_file_is_refused_in_words(tmp_path, content):
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises((CheckpointError, ForeignCheckpointError), match=str(path)):
        read_parent(path)
