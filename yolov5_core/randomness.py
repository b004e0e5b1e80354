"""Random generators as pure functions of what they are for: (seed, stream, counters)."""

import zlib

import numpy as np


def generator(seed: int, stream: str, *counters: int) -> np.random.Generator:
    """Returns the generator of one purpose at one place, whoever asks and whenever.

    Args:
        seed: The run's seed, >= 0.
        stream: What the draws are for ("augment", "shuffle" ...): streams never share draws.
        counters: Where in the run: epoch, sample index, step ... each >= 0.

    Returns:
        A counter-based (Philox) generator, equal for equal arguments on any process or machine.
    """
    words = (seed, zlib.crc32(stream.encode()), *counters)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
