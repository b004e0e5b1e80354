import pytest

from tasks.place import Place, launched
from yolov5_core.config import ConfigError

VARIABLES = {
    "RANK": "5",
    "WORLD_SIZE": "16",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29400",
}
PLACE = Place(rank=5, world_size=16, local_rank=1, host="node0", port=29400)


def test_a_place_is_what_its_variables_say():
    assert launched(VARIABLES) == PLACE
    assert PLACE.variables() == VARIABLES


def test_under_torchrun_the_meeting_place_is_its_own_and_each_start_has_a_number():
    torchrun = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2"}
    place = launched(VARIABLES | torchrun)
    assert place is not None
    assert (place.by_torchrun, place.attempt) == (True, "2")


@pytest.mark.parametrize("environment", [{}, {"RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_one_process_has_no_place(environment: dict[str, str]):
    assert launched(environment) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"RANK": "x"}, "start with torchrun"),
        ({"MASTER_PORT": ""}, "start with torchrun"),
        ({"RANK": "16"}, "RANK=16 of WORLD_SIZE=16"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE=many"),
    ],
)
def test_variables_that_make_no_sense_are_refused(change: dict[str, str], says: str):
    with pytest.raises(ConfigError, match=says):
        launched(VARIABLES | change)


def test_a_variable_that_is_missing_is_named():
    with pytest.raises(ConfigError, match="'LOCAL_RANK' is missing"):
        launched({key: value for key, value in VARIABLES.items() if key != "LOCAL_RANK"})
