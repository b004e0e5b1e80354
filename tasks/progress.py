"""A progress bar on a terminal, nothing elsewhere: logs get one line from whoever does the work."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to call with (done, total); the bar is on stderr."""
    with tqdm(desc=title, leave=False, disable=not sys.stderr.isatty()) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance
