"""Generators are seeded in place, and their states are numbers that come back exactly."""

import numpy as np
import pytest

from rlhive.envs._generators import read_generator, seed_in_place, seeded_numpy, write_generator


def test_a_seed_gives_gymnasiums_numbers_to_everyone_who_holds_the_generator():
    from gymnasium.utils import seeding

    generator = seeding.np_random(1)[0]
    holder = [generator]
    seed_in_place(generator, 5)

    np.testing.assert_array_equal(holder[0].uniform(size=4), seeding.np_random(5)[0].uniform(size=4))


@pytest.mark.parametrize("draws", [0, 1])
def test_a_state_comes_back_exactly(draws):
    generator, other = np.random.default_rng(3), np.random.default_rng(4)
    generator.integers(0, 7, size=draws, dtype=np.int32)  # an odd number leaves half a word in the cache
    write_generator(other, read_generator(generator))

    assert other.bit_generator.state == generator.bit_generator.state
    np.testing.assert_array_equal(other.integers(0, 9, 5, np.int32), generator.integers(0, 9, 5, np.int32))


@pytest.mark.parametrize(("index", "value"), [(0, -1.0), (1, 0.5), (2, 2.0**32), (4, 2.0), (8, 2.0), (3, np.nan)])
def test_other_numbers_are_refused(index, value):
    numbers = read_generator(np.random.default_rng(0))
    numbers[index] = value

    with pytest.raises(ValueError, match="expected the state of a PCG64 generator"):
        write_generator(np.random.default_rng(1), numbers)


def test_numpys_global_generator_is_seeded_inside_and_restored_outside():
    np.random.seed(1)
    expected = np.random.rand(2)
    np.random.seed(1)
    with seeded_numpy(np.array([3, 4])):
        inside = np.random.rand(2)
    with seeded_numpy(np.array([3, 4])):
        np.testing.assert_array_equal(np.random.rand(2), inside)

    np.testing.assert_array_equal(np.random.rand(2), expected)
