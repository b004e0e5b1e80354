"""The log of a stage: which attempts began, and which one is done, each under the next number.

An entry is an attempt that begins, or the commit of the attempt right before it with its whole
record. Both are claimed by exclusive creation: either I commit, or the next attempt begins.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An entry of the log."""

    number: int  # in the log, from 1
    attempt: int  # how many attempts had begun, from 1
    doc: Mapping[str, Any]  # what it says, {} if it is unreadable

    @property
    def begun(self) -> int:
        """Number of the entry with which the attempt began."""
        return self.number - 1 if "record" in self.doc else self.number


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptLog:
    """The log of a stage of a run."""

    store: Store
    folder: str  # runs/<run>/stages
    stage: str

    def newest(self) -> Entry | None:
        """The entry after which the next one comes, None if no attempt has begun."""
        highest = self.store.highest_pointer(self._prefix)
        found = next(self._read_from(highest), Entry(number=0, attempt=0, doc={}))
        if found.number == highest:
            return found if highest else None
        attempt = found.attempt + highest - found.number  # as if all between had begun
        return Entry(number=highest, attempt=attempt, doc={})

    def records(self) -> Iterator[Mapping[str, Any]]:
        """Records of the attempts that committed, newest first."""
        for entry in self._read_from(self.store.highest_pointer(self._prefix)):
            if isinstance(record := entry.doc.get("record"), Mapping):
                yield record

    def claim(self, number: int, attempt: int, doc: Mapping[str, Any]) -> bool:
        """Adds an entry under just this number; False if another one has it.

        Raises:
            StoreError: It cannot be told who has it.
        """
        return self.store.claim_pointer(self._prefix, number, {"attempt": attempt, **doc})

    def has(self, number: int) -> bool:
        """Whether there is an entry of this number, readable or not."""
        return self.store.exists(f"{self._prefix}/{number:08d}.json")

    @property
    def _prefix(self) -> str:
        return f"{self.folder}/attempts/{self.stage}"

    def _read_from(self, highest: int) -> Iterator[Entry]:
        for number, doc in self.store.pointers(self._prefix, highest):
            attempt = doc.get("attempt")  # in earlier versions every entry was an attempt
            yield Entry(
                number=number, attempt=attempt if isinstance(attempt, int) else number, doc=doc
            )
