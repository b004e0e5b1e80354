from collections.abc import Iterator
from dataclasses import fields

import pytest
import torch

from tasks.device import pick_device, require_precision
from tasks.records import RunInfo
from tasks.settings import RetrainConfig
from tasks.train import train_config
from yolov5_core.config import ConfigError, TrainConfig


@pytest.fixture
def torch_settings() -> Iterator[None]:
    filling = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filling


def told(**settings) -> RunInfo:
    config = RetrainConfig(**settings)
    return RunInfo(run="r", created="", config=config, data_digest="", code="", packages={})


def test_every_setting_of_training_comes_from_the_runs_settings():
    changed = {
        "epochs": 7,
        "batch_size": 12,
        "image_size": 320,
        "seed": 5,
        "lr_curve": "cosine",
        "iou": "giou",
        "autobalance": True,
        "optimizer": "adamw",
        "precision": "bfloat16",
        "freeze": (1, 2),
        "multi_scale": True,
        "quad": True,
        "patience": 11,
        "cache_images": True,
        "workers": 9,
    }
    config = train_config(told(**changed))
    assert {key: getattr(config, key) for key in changed} == changed
    covered = {*changed, "hyp", "image_weights", "rect"}
    assert covered == {field.name for field in fields(TrainConfig)}
    assert train_config(told(image_weights=True)).image_weights
    assert train_config(told(rect=True)).rect


def test_the_hyperparameters_are_those_of_the_named_table():
    assert train_config(told(hyp="scratch-high")).hyp.mixup == 0.1


@pytest.mark.usefixtures("torch_settings")
def test_the_cpu_is_asked_for_reproducible_work():
    assert pick_device("cpu") == torch.device("cpu")
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("torch_settings")
def test_an_empty_device_is_the_first_gpu_or_the_cpu():
    expected = "cuda:0" if torch.cuda.is_available() else "cpu"
    assert str(pick_device("")) == expected


def test_a_gpu_that_is_not_there_is_refused_with_the_count():
    found = torch.cuda.device_count()
    with pytest.raises(ConfigError, match=f"device=99: this machine has {found} GPUs"):
        pick_device("99")


@pytest.mark.parametrize("able", [True, False])
def test_a_gpu_without_bfloat16_is_told_from_one_that_has_it(able, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: able)
    gpu = torch.device("cuda", 0)
    require_precision(gpu, "mixed")
    require_precision(torch.device("cpu"), "bfloat16")
    if able:
        require_precision(gpu, "bfloat16")
    else:
        with pytest.raises(ConfigError, match="precision=bfloat16: this GPU does not"):
            require_precision(gpu, "bfloat16")
