"""Those who train with the stage process, which is rank 0: started, told, watched, ended.

Rank 0 alone writes to the store, evaluates and decides. The others hold the same state after every
step and nothing else, so whatever happens to one of them, all of them are ended and others started
from the newest saved state.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace

import torch
from torch.distributed import (  # type: ignore[attr-defined]  # its stubs hide them
    PrefixStore,
    TCPStore,
)

from tasks.device import require_gpus
from tasks.errors import USAGE, TransientError
from tasks.meeting import LEAVE, Meeting, meeting_of
from tasks.place import Place, launched
from tasks.records import Prepared
from tasks.settings import RetrainConfig
from yolov5_core import checkpoint
from yolov5_core.config import ConfigError
from yolov5_core.distributed import joined
from yolov5_core.trainer import Trainer

log = logging.getLogger(__name__)

RESTARTS = 3  # of the group, in one attempt of the stage
_START_S = 600.0  # for a rank to open its data: it may have to fetch them
_ANSWER_S = 600.0  # for a rank to take part in a step
_TELL_S = 3.0  # for a rank that failed to say so
_LEAVE_S = 10.0  # for a rank to leave by itself


class RankLostError(TransientError):
    """A rank died or does not answer; from the newest saved state a new group can go on."""


class RankOutOfMemoryError(RankLostError, MemoryError):
    """A rank had too little memory."""


class RankRefusedError(ValueError):
    """A rank found settings or data that the user has to change."""


class Team:
    """Rank 0's side of a group; one without others changes nothing.

    Attributes:
        processes: By rank, those that were started here: it can do so again.
    """

    def __init__(self, place: Place, meeting: Meeting | None) -> None:
        self._place = place
        self._meeting = meeting  # None: alone
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._joined = ExitStack()

    def start(self) -> None:
        """Starts the others, each in a session of its own."""
        for rank in range(1, self._place.world_size):
            variables = replace(self._place, rank=rank, local_rank=rank).variables()
            self.processes[rank] = subprocess.Popen(
                [sys.executable, "-m", "tasks.follower"],
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for rank 0, and what it leaves can be found
            )

    def join(self, trainer: Trainer, config: RetrainConfig, prepared: Prepared) -> None:
        """Brings all ranks to the trainer's state; from then on it takes its steps with them.

        Raises:
            RankLostError, RankRefusedError: One did not come so far.
        """
        meeting, place = self._meeting, self._place
        if meeting is None:
            return
        meeting.say(
            "begin",
            store=config.store,
            prepared=asdict(prepared),
            single_cls=config.single_cls,
            training=asdict(trainer.config),
            device=config.device,
            threads=torch.get_num_threads(),
            timeout_s=_ANSWER_S,
        )
        log.info("training in a group of %d processes; waiting for them", place.world_size)
        if not meeting.wait("ready", self._look, _START_S):
            raise RankLostError(f"not all {place.world_size} ranks were ready in {_START_S:.0f} s")
        description = {"description": trainer.model.description.to_mapping()}
        state = checkpoint.encode({**trainer.state(), **description})
        if trainer.device.type == "cuda":
            torch.cuda.set_device(trainer.device)
        group = self._joined.enter_context(
            joined(meeting.store, 0, place.world_size, trainer.device, _ANSWER_S)
        )
        group.send(state)
        trainer.join(group)

    @property
    def size(self) -> int:
        """Processes that train, this one included."""
        return self._place.world_size

    @property
    def may_restart(self) -> bool:
        """Whether what went wrong can be tried again here; a launcher starts all ranks again."""
        return self._meeting is None or bool(self.processes)

    def begin_epoch(self, trainer: Trainer) -> None:
        """Has the others train the epoch that the trainer begins or goes on with.

        Raises:
            RankLostError, RankRefusedError: One is gone.
        """
        if self._meeting is not None:
            self._look()
            self._meeting.say("train", class_maps=trainer.class_maps.tolist())

    def lost(self, error: Exception) -> Exception | None:
        """What became of another rank, if that is why a step of this one failed."""
        if self._meeting is None or not isinstance(error, RuntimeError):
            return None
        if isinstance(error, TransientError):  # ours: it says by itself what happened
            return None
        end = time.monotonic() + _TELL_S
        while time.monotonic() < end:
            if found := self._failure():
                return found
            time.sleep(0.05)
        if "imed out" in str(error):  # gloo's and NCCL's words for a rank that hangs
            return RankLostError(f"a rank gave no answer for {_ANSWER_S:.0f} s")
        return None

    def close(self) -> None:
        """Ends the others; afterwards none of their processes is left."""
        if self._meeting is not None:
            self._meeting.say(LEAVE)
        self._joined.close()
        end = time.monotonic() + _LEAVE_S
        for process in self.processes.values():
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.debug("process %d does not leave by itself", process.pid)
            with suppress(ProcessLookupError):  # nothing is left of its session
                os.killpg(process.pid, signal.SIGKILL)  # its loader's processes too
            process.wait()

    def _look(self) -> None:
        if found := self._failure():
            raise found

    def _failure(self) -> Exception | None:
        """Of the ranks that are gone the one that tells most: others only fell with it."""
        assert self._meeting is not None  # noqa: S101  callers saw to it
        fell: Exception | None = None
        for rank in range(1, self._place.world_size):
            process = self.processes.get(rank)
            code = None if process is None else process.poll()
            if told := self._meeting.failure(rank):
                why = f"rank {rank}: {told['text']}"
                if told["memory"]:
                    return RankOutOfMemoryError(why)
                if told["code"] == USAGE:
                    return RankRefusedError(why)
                fell = fell or RankLostError(why)
            elif code is not None and code < 0:
                return RankLostError(f"rank {rank} was killed by signal {-code}")
            elif code:
                fell = fell or RankLostError(f"rank {rank} ended with code {code}")
        return fell


@contextmanager
def assembled(config: RetrainConfig) -> Iterator[Team]:
    """Those who train with this process, while the block lasts: started here, or by a launcher.

    Raises:
        ConfigError: Fewer GPUs than asked for, or both ways of starting ranks.
    """
    place = launched(os.environ)
    if place is not None and config.gpus > 1:
        raise ConfigError(
            f"gpus={config.gpus}: torchrun started {place.world_size} ranks already; leave gpus out"
        )
    if place is None:
        require_gpus(config.device, config.gpus)
        team = _of_this_machine(config.gpus)
    else:
        team = Team(place, meeting_of(place))
    threads = torch.get_num_threads()
    try:
        if place is None and config.gpus > 1:
            torch.set_num_threads(max(1, threads // config.gpus))
            team.start()
        yield team
    finally:
        team.close()
        torch.set_num_threads(threads)


def _of_this_machine(gpus: int) -> Team:
    place = Place(rank=0, world_size=gpus, local_rank=0, host="127.0.0.1", port=0)
    if gpus == 1:
        return Team(place, None)
    store = TCPStore(place.host, 0, is_master=True, wait_for_workers=False)
    meeting = Meeting(PrefixStore(f"retrain/{place.attempt}", store), gpus)
    return Team(replace(place, port=store.port), meeting)
