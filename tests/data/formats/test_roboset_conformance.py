"""RoboHive logs of generated numbers in both alignments; these tests do not need RoboHive."""

import h5py
import numpy as np
import pytest

from benchmarks.import_sources import LENGTH, episode, roboset
from rlhive.data.formats._builtin import RoboSet
from rlhive.testing import ExpectedEpisode, FormatTests

EPISODES = 3


def expected_episode(number, length):
    states, actions, rewards = episode(number)
    columns = {"observation": states[:length], "action": actions[:length], "next.reward": rewards[:length, None]}
    return ExpectedEpisode(columns, {"observation": states[length]}, "terminated" if number == 1 else "truncated")


class TestStateAligned(FormatTests):
    """A log of today's writer: T+1 rows, rewards in the row of their state."""

    format = RoboSet()

    @pytest.fixture
    def source(self, tmp_path):
        path = tmp_path / "log.h5"
        roboset(path, EPISODES)
        with h5py.File(path, "r+") as h5:
            h5["Trial1/done"][-1] = True
        return path

    @pytest.fixture
    def expected(self):
        return [expected_episode(number, LENGTH) for number in range(EPISODES)]


class TestPathAligned(FormatTests):
    """An older log: T rows, rewards in the row of their action, and no state after the last action."""

    format = RoboSet()

    @pytest.fixture
    def source(self, tmp_path):
        path = tmp_path / "paths.h5"
        with h5py.File(path, "w") as h5:
            for number in range(EPISODES):
                states, actions, rewards = episode(number)
                group = h5.create_group(f"Trial{number}")
                group["observations"], group["actions"], group["rewards"] = states[:-1], actions, rewards
                group["done"] = (np.arange(LENGTH) == LENGTH - 2)[:, None] & (number == 1)
                group["env_infos/time"] = (1 + np.arange(LENGTH)) * 0.02
        return path

    @pytest.fixture
    def expected(self):
        return [expected_episode(number, LENGTH - 1) for number in range(EPISODES)]
