"""Random generators of RoboHive: seeded in place, and written into checkpoints.

RoboHive hands the generator of construction to parts of its tasks (reference motions, opponents, terrains), and its own
``seed`` replaces only the environment's. A generator that is seeded in place is seeded for all of them.
"""

import contextlib
from collections.abc import Iterator

import numpy as np

#: Numbers that :func:`read_generator` returns: four 32-bit words of the state, four of the increment, two of the cache.
GENERATOR_SIZE = 10


def seed_in_place(generator: np.random.Generator, seed: int | None) -> None:
    """Seed a generator as gymnasium seeds a new one; None takes an unpredictable seed."""
    generator.bit_generator.state = np.random.PCG64(np.random.SeedSequence(seed)).state


def read_generator(generator: np.random.Generator) -> np.ndarray:
    """Return the state of a PCG64 generator as float64 [10]; each number is an exact integer below 2**32."""
    state = generator.bit_generator.state
    words = [number >> shift & 0xFFFFFFFF for number in state["state"].values() for shift in (0, 32, 64, 96)]
    return np.array([*words, state["has_uint32"], state["uinteger"]], np.float64)


def write_generator(generator: np.random.Generator, numbers: np.ndarray) -> None:
    """Set the state of a generator that :func:`read_generator` returned.

    Raises:
        ValueError: The numbers are not the state of a generator.
    """
    require_generator(numbers)
    words = [int(number) for number in numbers]
    state, increment = (sum(word << 32 * place for place, word in enumerate(words[at : at + 4])) for at in (0, 4))
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": state, "inc": increment},
        "has_uint32": words[8],
        "uinteger": words[9],
    }


def require_generator(numbers: np.ndarray) -> None:
    """Raise ValueError if numbers are not the state of a generator."""
    is_word = (numbers >= 0) & (numbers < 2**32) & (numbers == np.floor(numbers))
    if not (is_word.all() and numbers[4] % 2 == 1 and numbers[8] in (0, 1)):
        msg = f"expected the state of a PCG64 generator, {GENERATOR_SIZE} integers below 2**32, got {numbers.tolist()}"
        raise ValueError(msg)


@contextlib.contextmanager
def seeded_numpy(words: np.ndarray) -> Iterator[None]:
    """Seed NumPy's global generator, from which some RoboHive code draws, and restore the caller's state afterwards.

    Args:
        words: Seed, integers below 2**32, any number of them.
    """
    caller_state = np.random.get_state()
    np.random.seed(words.astype(np.uint32))
    try:
        yield
    finally:
        np.random.set_state(caller_state)
