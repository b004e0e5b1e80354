"""How long training may take: `max_hours` of work and a `deadline` on the clock.

A limit says only how many epochs there are, never what is in one.
"""

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_TIME = re.compile(r"\d\d:\d\d")


def next_deadline(text: str, now: datetime) -> datetime:
    """The moment that a setting `deadline` means.

    Args:
        text: "06:30", the next one after `now` on this machine's clock, or an ISO 8601 time,
            on this machine's clock if it names no other.
        now: With a time zone.

    Raises:
        ValueError: Neither.
    """
    here = now.astimezone()
    if not _TIME.fullmatch(text):
        moment = datetime.fromisoformat(text)
        if ":" not in text:
            raise ValueError(f"{text!r} has no time of day")
        return moment.astimezone(UTC)  # one without a zone is taken for this machine's
    hour, minute = (int(part) for part in text.split(":"))
    found = here.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (found if found > here else found + timedelta(days=1)).astimezone(UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeLimit:
    """When the training of one attempt has to be over."""

    until: float = float("inf")  # on time.monotonic()
    setting: str = ""  # the one that says so, as in "max_hours=3"

    @property
    def left(self) -> float:
        """Seconds, negative when it is over."""
        return self.until - time.monotonic()


def time_limit(max_hours: float, trained_s: float, deadline: str, ends: str) -> TimeLimit:
    """The tighter one of a run's two limits.

    Args:
        max_hours: Of training, over all attempts; 0: no limit.
        trained_s: Seconds of training that earlier attempts took.
        deadline: As the setting says, for messages.
        ends: The moment it means, ISO 8601 with a zone; "": no limit.
    """
    now, limits = time.monotonic(), [TimeLimit()]
    if max_hours:
        left = max_hours * 3600 - trained_s
        limits.append(TimeLimit(until=now + left, setting=f"max_hours={max_hours:g}"))
    if ends:
        left = (datetime.fromisoformat(ends) - datetime.now(UTC)).total_seconds()
        limits.append(TimeLimit(until=now + left, setting=f"deadline={deadline}"))
    return min(limits, key=lambda limit: limit.until)
