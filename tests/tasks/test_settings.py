import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow
from prefect.exceptions import ParameterTypeError

from tasks.settings import RetrainConfig
from tasks.settings_files import (
    config_from_mapping,
    config_from_yaml,
    config_to_mapping,
    merge_resumed,
    with_current_names,
)
from yolov5_core.config import ConfigError


def refusal(**values: object) -> str:
    with pytest.raises(ConfigError) as caught:
        RetrainConfig(**values)
    return str(caught.value)


def test_the_defaults_are_a_valid_run():
    config = RetrainConfig()
    assert (config.data, config.epochs, config.image_size) == ("sample", 100, 640)


def test_every_field_has_a_help_text_and_a_group():
    for field in fields(RetrainConfig):
        assert len(field.metadata["description"]) > 5, field.name
        assert field.metadata["group"] in {"data", "publish", "run", "model", "training"}


@pytest.mark.parametrize("size", [0, -32, 31, 100, 641])
def test_an_image_size_that_is_no_multiple_of_32_is_refused_with_a_size_that_is(size):
    message = refusal(image_size=size)
    assert f"image_size={size}" in message
    near = int(message.rsplit(" ", maxsplit=1)[1])
    assert near >= 32
    assert near % 32 == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("workers", -1),
        ("gpus", 0),
        ("gpus", 17),
        ("seed", -1),
        ("device", "cuda:0"),
        ("dask", "scheduler:8786"),
        ("dask", "tcp://scheduler"),
        ("dask", "tcp://user:word@scheduler:8786"),
        ("device", "0,1"),
        ("cfg", "yolov9"),
        ("hyp", "scratch-lo"),
        ("data", " "),
        ("store", ""),
        ("freeze", (-1,)),
        ("lr_curve", "steps"),
        ("precision", "half"),
        ("iou", "diou"),
        ("run", "latest"),
        ("patience", -1),
        ("save_period", -1),
        ("optimizer", "rmsprop"),
        ("max_rejected", -0.1),
        ("max_rejected", 1.1),
        ("max_leakage", float("nan")),
        ("max_drift", 5),
    ],
)
def test_an_impossible_value_is_refused_by_key_and_value(key, value):
    message = refusal(**{key: value})
    assert message.startswith(key)
    assert str(value).strip("()[],") in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", "10"),
        ("epochs", 10.0),
        ("epochs", True),
        ("rect", 1),
        ("rect", "yes"),
        ("name", 7),
        ("device", 0),
        ("freeze", [0]),
        ("freeze", ("0",)),
        ("lr_curve", 1),
        ("weights", None),
        ("optimizer", True),
        ("max_drift", "0.5"),
        ("max_drift", True),
        ("patience", 3.0),
    ],
)
def test_a_value_of_another_type_is_refused_not_converted(key, value):
    assert refusal(**{key: value}).startswith(f"{key}=")


def test_more_processes_than_quads_and_a_cache_in_each_are_refused():
    assert refusal(gpus=5, batch_size=16, quad=True).startswith("gpus=5: more than a batch has")
    assert RetrainConfig(gpus=4, batch_size=16, quad=True).gpus == 4
    assert refusal(gpus=2, cache_images=True).startswith("gpus and cache_images")
    assert refusal(gpus=2, auto_batch=True).startswith("gpus and auto_batch")


def test_all_problems_are_told_at_once():
    message = refusal(epochs=0, image_size=100, name="a/b")
    assert [line.split("=")[0] for line in message.splitlines()] == ["epochs", "image_size", "name"]


@pytest.mark.parametrize(
    "name",
    ["a/b", "..", "a..b", ".hidden", "-rf", "a b", "a;rm", "$(x)", "`x`", "a\n", "ä", "x" * 65],
)
def test_a_name_that_a_path_or_shell_could_misread_is_refused(name):
    assert "name=" in refusal(name=name)


@pytest.mark.parametrize("name", ["", "7", "street", "a.b-c_d", "x" * 64])
def test_a_plain_name_is_accepted(name):
    assert RetrainConfig(name=name).name == name


@given(st.text(max_size=70))
def test_any_accepted_name_is_one_harmless_path_part(name):
    try:
        RetrainConfig(name=name)
    except ConfigError:
        return
    if name:
        assert Path("x", f"last_{name}.pt").parts == ("x", f"last_{name}.pt")
        assert name.isascii()
        assert not set(name) & set("/\\ \t\n;&|$`'\"<>*?!~#")


@pytest.mark.parametrize(
    "place",
    [
        "gs://models",
        "gs://models/nightly",
        "gs://my.bucket_1",
        "memory://x",
        "s3://b/c",
        "runs",
        "/a b",
    ],
)
def test_folders_and_urls_are_places(place):
    assert RetrainConfig(bucket=place, store=place).bucket == place


@pytest.mark.parametrize(
    "place",
    ["gs:/models", "gs:models", "gs://", "gs://UPPER", "gs://a", " runs", "a\nb", "s3://a b", "\0"],
)
def test_a_place_that_looks_wrong_is_refused(place):
    assert refusal(bucket=place).startswith("bucket=")


def test_image_weights_with_rect_is_refused_because_they_exclude_each_other():
    assert "leave one out" in refusal(rect=True, image_weights=True)


def test_a_run_to_resume_and_another_run_id_are_refused():
    assert "leave run out" in refusal(run="a", resume="b")
    assert RetrainConfig(run="a", resume="a").resume == "a"


def test_quad_needs_batches_that_four_divides_and_square_pictures():
    assert refusal(quad=True, batch_size=10).startswith("batch_size=10: quad needs a multiple of 4")
    assert refusal(quad=True, batch_size=10).endswith("such as 8")
    assert refusal(quad=True, batch_size=2).endswith("such as 4")
    assert "leave one out" in refusal(quad=True, rect=True)
    assert RetrainConfig(quad=True, batch_size=12).quad


def test_keeping_checkpoints_and_saving_none_is_refused():
    assert "leave one out" in refusal(nosave=True, save_period=5)


@pytest.mark.parametrize("share", [0, 0.0, 0.25, 1, 1.0])
def test_a_gate_is_any_share_from_nothing_to_all(share):
    config = RetrainConfig(max_rejected=share, max_leakage=share, max_drift=share)
    assert config.max_rejected == config.max_leakage == config.max_drift == share


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"adam": False}, {}),
        ({"adam": True}, {"optimizer": "adam"}),
        ({"adam": True, "optimizer": "adam"}, {"optimizer": "adam"}),
        ({"adam": False, "optimizer": "adamw"}, {"optimizer": "adamw"}),
        ({"epochs": 3}, {"epochs": 3}),
    ],
)
def test_the_switch_for_adam_of_the_first_version_is_understood(said, meant):
    assert with_current_names(said, "old.yaml") == meant
    assert config_from_mapping(said, "old.yaml") == RetrainConfig(**meant)


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (
            {"adam": True, "optimizer": "sgd"},
            "optimizer: sgd contradict each other; leave adam out",
        ),
        ({"adam": "yes"}, "adam='yes': write optimizer: adam"),
        ({"adam": 1}, "adam=1: write optimizer: adam"),
    ],
)
def test_what_that_switch_cannot_mean_is_refused_by_file(said, says):
    with pytest.raises(ConfigError, match=f"^old.yaml: .*{says}"):
        config_from_mapping(said, "old.yaml")


FIRST_SETTINGS = """
{"data": "data.yaml", "single_cls": false, "cache_images": false, "rect": false,
 "image_weights": false, "name": "street", "bucket": "", "store": "store", "run": "r", "resume": "",
 "device": "", "workers": 2, "seed": 0, "nosave": false, "notest": false, "cfg": "s", "weights": "",
 "freeze": [0, 1], "noautoanchor": false, "epochs": 7, "batch_size": 16, "image_size": 640,
 "multi_scale": false, "hyp": "scratch-low", "adam": true, "lr_curve": "linear", "iou": "ciou",
 "autobalance": false}
"""  # word for word what the first version wrote into run.json


def test_the_settings_of_a_run_of_the_first_version_are_read():
    config = config_from_mapping(json.loads(FIRST_SETTINGS), "run.json")
    assert config == RetrainConfig(
        data="data.yaml", name="street", run="r", cfg="s", freeze=(0, 1), epochs=7, optimizer="adam"
    )


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(ConfigError, match=r"nightly.yaml: unknown key 'batch-size'.*'batch_size'"):
        config_from_mapping({"batch-size": 8}, "nightly.yaml")


def test_yaml_is_read_with_lists_as_tuples(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("epochs: 3\nfreeze: [0, 1]\nrect: true\nname: street\n")
    assert config_from_yaml(path) == RetrainConfig(
        epochs=3, freeze=(0, 1), rect=True, name="street"
    )


def test_an_empty_yaml_file_gives_the_defaults(tmp_path):
    (tmp_path / "run.yaml").write_text("# nothing yet\n")
    assert config_from_yaml(tmp_path / "run.yaml") == RetrainConfig()


def test_a_number_as_name_in_yaml_is_refused_with_the_quotes_to_write(tmp_path):
    (tmp_path / "run.yaml").write_text("name: 7\n")
    with pytest.raises(ConfigError, match='in YAML write name: "7"'):
        config_from_yaml(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [("- 1\n", "key: value"), ("a: [", "not YAML"), ("\xff", "not YAML"), ("5: 1", "unknown key")],
)
def test_a_file_that_is_no_settings_file_is_refused_by_name(tmp_path, text, says):
    path = tmp_path / "run.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=says) as caught:
        config_from_yaml(path)
    assert str(path) in str(caught.value)


def test_a_missing_settings_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml.*No such file"):
        config_from_yaml(tmp_path / "gone.yaml")


configs = st.builds(
    RetrainConfig,
    epochs=st.integers(1, 10**6),
    image_size=st.integers(1, 100).map(lambda k: 32 * k),
    freeze=st.lists(st.integers(0, 30)).map(tuple),
    name=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,30}", fullmatch=True),
    optimizer=st.sampled_from(["sgd", "adam", "adamw"]),
    max_drift=st.floats(0, 1),
    lr_curve=st.sampled_from(["linear", "cosine", "v3cosine"]),
    precision=st.sampled_from(["mixed", "bfloat16", "full"]),
)


@given(configs)
def test_a_config_survives_json_and_yaml(config):
    mapping = config_to_mapping(config)
    assert config_from_mapping(json.loads(json.dumps(mapping)), "json") == config
    assert config_from_mapping(yaml.safe_load(yaml.safe_dump(mapping)), "yaml") == config


@given(configs)
def test_resuming_with_the_defaults_or_the_same_settings_changes_nothing(stored):
    assert merge_resumed(stored, RetrainConfig(resume="latest")) == stored
    assert merge_resumed(stored, replace(stored, resume="latest")) == stored


def test_resuming_may_move_to_another_device_place_and_worker_count():
    asked = RetrainConfig(
        resume="r",
        device="0",
        workers=4,
        cache_images=True,
        bucket="gs://new",
        store="there",
        patience=0,
        max_rejected=0.5,
        max_leakage=1,
        max_drift=0.1,
    )
    merged = merge_resumed(RetrainConfig(run="r", epochs=7), asked)
    assert merged == replace(asked, run="r", epochs=7, resume="")


@pytest.mark.parametrize("gpus", [1, 3])
def test_a_resumed_run_has_the_gpus_that_the_command_asks_for(gpus):
    merged = merge_resumed(RetrainConfig(run="r", gpus=2), RetrainConfig(resume="r", gpus=gpus))
    assert merged == RetrainConfig(run="r", gpus=gpus)


def test_a_run_that_was_copied_elsewhere_goes_on_where_it_was_found():
    merged = merge_resumed(RetrainConfig(run="r", store="gs://old"), RetrainConfig(resume="r"))
    assert merged.store == RetrainConfig().store


def test_resuming_with_another_setting_is_refused_naming_every_one():
    with pytest.raises(ConfigError, match="epochs cannot change from 7 to 9, optimizer") as caught:
        merge_resumed(
            RetrainConfig(epochs=7), RetrainConfig(epochs=9, optimizer="adam", resume="latest")
        )
    assert "start a new run" in str(caught.value)


@flow
def asks(config: RetrainConfig = RetrainConfig()) -> RetrainConfig:  # noqa: B008  as flows/retrain does
    return config


def test_the_prefect_form_shows_every_field_with_type_default_and_help():
    schema = asks.parameters.definitions["RetrainConfig"]["properties"]
    assert list(schema) == [field.name for field in fields(RetrainConfig)]
    assert all(entry["description"] for entry in schema.values())
    assert schema["epochs"] | {"title": ""} == {
        "default": 100,
        "description": "times through the training pictures",
        "title": "",
        "type": "integer",
    }
    assert schema["lr_curve"]["enum"] == ["linear", "cosine", "v3cosine"]
    assert schema["optimizer"]["enum"] == ["sgd", "adam", "adamw"]
    assert schema["max_drift"]["type"] == "number"
    assert schema["freeze"]["items"] == {"type": "integer"}


def test_prefect_parameters_become_the_config():
    given_values = {"epochs": 3, "freeze": [0, 1], "iou": "giou", "max_drift": 1}
    got = asks.validate_parameters({"config": given_values})["config"]
    assert got == RetrainConfig(epochs=3, freeze=(0, 1), iou="giou", max_drift=1)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"epoch": 3}, "config.epoch"),
        ({"epochs": "3"}, "config.epochs"),
        ({"epochs": 3.0}, "config.epochs"),
        ({"rect": "yes"}, "config.rect"),
        ({"max_drift": "0.5"}, "config.max_drift"),
        ({"max_drift": True}, "config.max_drift"),
        ({"max_drift": 2.0}, "max_drift=2.0: must be a share"),
        ({"name": 3}, "config.name"),
        ({"iou": "diou"}, "config.iou"),
        ({"image_size": 100}, "image_size=100: must be a multiple of 32"),
    ],
)
def test_prefect_refuses_unknown_keys_wrong_types_and_impossible_values(values, says):
    with pytest.raises(ParameterTypeError) as caught:
        asks.validate_parameters({"config": values})
    assert says in str(caught.value)


USER = "me"  # without a password it is no secret


@pytest.mark.parametrize(
    "uri", ["", "http://127.0.0.1:5000", f"https://{USER}@host/x", "sqlite:///a.db"]
)
def test_an_mlflow_server_is_a_url_or_a_database(uri: str):
    assert RetrainConfig(mlflow=uri).mlflow == uri


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/x", "http://", "sqlite:///", "databricks"])
def test_another_kind_of_mlflow_server_is_refused_with_what_to_write(uri: str):
    with pytest.raises(ConfigError, match=r"mlflow=.*sqlite:///mlflow\.db"):
        RetrainConfig(mlflow=uri)
