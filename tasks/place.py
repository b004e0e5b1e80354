"""Where a process stands among those that train together, in the variables that torchrun sets.

Torch is not imported, so that the command line can ask at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from yolov5_core.config import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A rank's place."""

    rank: int  # from 0, which leads
    world_size: int
    local_rank: int  # of its machine, from 0: its GPU
    host: str  # where the ranks meet
    port: int
    by_torchrun: bool = False  # then torchrun keeps the meeting place, and starts the ranks again
    attempt: str = "0"  # how often it has

    def variables(self) -> dict[str, str]:
        """The same as environment variables."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank),
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
        }


def launched(environment: Mapping[str, str]) -> Place | None:
    """The place that a launcher gave this process, None without one or with one process only.

    Raises:
        ConfigError: Variables that make no sense.
    """
    if environment.get("WORLD_SIZE", "1") == "1":
        return None
    try:
        place = Place(
            rank=int(environment["RANK"]),
            world_size=int(environment["WORLD_SIZE"]),
            local_rank=int(environment["LOCAL_RANK"]),
            host=environment["MASTER_ADDR"],
            port=int(environment["MASTER_PORT"]),
            by_torchrun=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            attempt=environment.get("TORCHELASTIC_RESTART_COUNT", "0"),
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"the environment has WORLD_SIZE={environment['WORLD_SIZE']}, but {error} is missing "
            "or no number; start with torchrun, which sets all of RANK, WORLD_SIZE, LOCAL_RANK, "
            "MASTER_ADDR and MASTER_PORT, or unset WORLD_SIZE"
        ) from error
    if not 0 <= place.rank < place.world_size:
        raise ConfigError(f"the environment has RANK={place.rank} of WORLD_SIZE={place.world_size}")
    return place
