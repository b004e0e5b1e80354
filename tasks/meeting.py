"""What ranks say to each other beside the tensors: few words, through torch's key-value store.

Rank 0 speaks, the others hear it in the same order; each can leave word of why it failed.
"""

import json
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any

from torch.distributed import (  # type: ignore[attr-defined]  # its stubs hide them
    PrefixStore,
    Store,
    TCPStore,
)

from tasks.errors import exit_code
from tasks.place import Place
from tasks.recovery import is_out_of_memory

LEAVE = "leave"  # the word after which a rank has nothing more to do
_LOOK = 0.05  # seconds between two looks for a word
_PATIENCE = timedelta(hours=24)  # for rank 0, which first prepares the data
_FAREWELL = 10.0  # seconds that rank 0 waits for the others to have heard its last word


class Meeting:
    """One rank's side.

    Attributes:
        store: For the group's own use.
    """

    def __init__(self, store: Store, world_size: int) -> None:
        self.store = store
        self.world_size = world_size
        self._words = 0

    def say(self, word: str, **more: Any) -> None:
        """Says the next word to all, with JSON values."""
        self.store.set(f"word/{self._words}", json.dumps({"word": word, **more}))
        self._words += 1

    def hear(self) -> dict[str, Any]:
        """The next word, waited for.

        Raises:
            RuntimeError: Rank 0 is gone.
        """
        key = f"word/{self._words}"
        while not self.store.check([key]):
            time.sleep(_LOOK)
        self._words += 1
        found: dict[str, Any] = json.loads(self.store.get(key))
        return found

    def is_over(self) -> bool:
        """Whether the next word is that we leave; what the group raised then was no fault."""
        key = f"word/{self._words}"
        try:
            return self.store.check([key]) and json.loads(self.store.get(key))["word"] == LEAVE
        except RuntimeError:  # the store went with rank 0
            return False

    def mark(self, what: str, rank: int) -> None:
        """Tells that a rank has come to some point."""
        self.store.set(f"{what}/{rank}", "")

    def wait(self, what: str, look: Callable[[], None], patience_s: float) -> bool:
        """Waits until all others have come to some point; False if they do not in time.

        Args:
            what: The point.
            look: Called again and again; what it raises ends the waiting.
            patience_s: Seconds.
        """
        end = time.monotonic() + patience_s
        while not self.store.check([f"{what}/{rank}" for rank in range(1, self.world_size)]):
            look()
            if time.monotonic() > end:
                return False
            time.sleep(_LOOK)
        return True

    def report(self, rank: int, error: Exception) -> None:
        """Leaves word of why a rank failed."""
        text = (str(error).splitlines() or [type(error).__name__])[0]
        failure = {"code": exit_code(error), "text": text, "memory": is_out_of_memory(error)}
        self.store.set(f"failed/{rank}", json.dumps(failure))

    def failure(self, rank: int) -> Mapping[str, Any] | None:
        """Why a rank failed, None if it did not say so."""
        key = f"failed/{rank}"
        found = self.store.get(key) if self.store.check([key]) else None
        return None if found is None else json.loads(found)


@cache
def meeting_of(place: Place) -> Meeting:
    """The meeting of a process that a launcher started; its rank 0, or torchrun, keeps the store.

    Raises:
        RuntimeError: Nobody does, for a day.
    """
    store = TCPStore(
        place.host,
        place.port,
        is_master=place.rank == 0 and not place.by_torchrun,
        wait_for_workers=False,
        timeout=_PATIENCE,
    )
    prefixed = PrefixStore(f"retrain/{place.attempt}", store)
    return Meeting(prefixed, place.world_size)


def dismiss(place: Place) -> None:
    """Rank 0's last act: the others need not wait for it any longer, whatever became of it."""
    meeting = meeting_of(place)
    meeting.say(LEAVE)
    meeting.wait("left", lambda: None, _FAREWELL)
