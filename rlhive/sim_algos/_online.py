"""Online training: collect an episode, add it to the buffer, take gradient steps, repeat.

::

    random episodes, or a dataset ─► replay buffer ◄─ episodes of the policy, with exploration
                                          └─► batches ─► algorithm ─► policy

The buffer is TorchRL's over a LazyMemmapStorage, which keeps on disk what does not fit into memory.
"""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
from torchrl.envs import EnvBase, ExplorationType, set_exploration_type
from torchrl.envs.utils import RandomPolicy
from torchrl.modules import AdditiveGaussianModule

from rlhive import keys
from rlhive.data.replay import extend
from rlhive.envs import EXPLORATION_SEED, make_env
from rlhive.errors import InvalidOptionError, SimulationDivergedError
from rlhive.policies import Normalizer
from rlhive.rollouts import Rollout, try_rollout
from rlhive.sim_algos._preprocessing import TRANSITION_KEYS, compute_training_statistics, require_reward
from rlhive.sim_algos._sac import SoftActorCritic
from rlhive.sim_algos._trainer import Callback, Trainer, TrainResult, describe_training_data, seeded_torch

if TYPE_CHECKING:
    from rlhive.dataset import RoboHiveDataset

ONLINE_ALGORITHMS = {"sac": SoftActorCritic}

#: Environment if neither an environment nor a dataset is named.
DEFAULT_ENV = "reach"

#: Keys of an episode that the buffer stores: those that are learned from, and all end flags, as in a dataset.
_STORED_KEYS = (*TRANSITION_KEYS, keys.NEXT_TRUNCATED, *keys.END_FLAGS)

#: Number of diverged episodes in a row that ends the training.
_MAX_DIVERGED = 20


def train_online(
    config: Mapping[str, Any],
    dataset: "RoboHiveDataset | None",
    *,
    output_dir: str | Path,
    callback: Callback | None = None,
) -> TrainResult:
    """Train in an environment; :func:`rlhive.sim_algos.train` checks and composes the arguments.

    Training is deterministic for a seed on one machine. Episode ``i`` has its own seed, which no recipe and no
    evaluation uses; an episode whose simulation diverges is left out.

    Args:
        config: Result of :func:`rlhive.sim_algos.make_config`.
        dataset: Dataset whose transitions fill the buffer at the start, instead of random episodes; None for none.
        output_dir: Folder of the checkpoint.
        callback: See :func:`rlhive.sim_algos.train`.

    Returns:
        Checkpoint folder, learning curve and speed.

    Raises:
        EnvNotFoundError: No such environment. SchemaMismatchError: Its transitions are not those of the dataset.
        InvalidOptionError: The buffer is smaller than a batch.
        SimulationDivergedError: Many episodes in a row diverged.
        TrainingDivergedError: A loss became NaN or infinite.
    """
    env = make_env(config["env"] or _default_env(dataset))
    try:
        with seeded_torch(config["seed"], config["num_threads"]):
            return _train_in_env(env, config, dataset, output_dir=output_dir, callback=callback)
    finally:
        env.close()


def _default_env(dataset: "RoboHiveDataset | None") -> str:
    if dataset is None:
        return DEFAULT_ENV
    return dataset.task_name or dataset.env_name or DEFAULT_ENV


def _train_in_env(
    env: EnvBase,
    config: Mapping[str, Any],
    dataset: "RoboHiveDataset | None",
    *,
    output_dir: str | Path,
    callback: Callback | None,
) -> TrainResult:
    collector = EpisodeCollector(env, config)
    if dataset is None:
        collector.collect_random(config["collect"]["init_random_frames"])
    else:
        collector.add_dataset(dataset)
    algorithm_class = ONLINE_ALGORITHMS[config["algorithm"]]
    statistics = compute_training_statistics(collector.buffer, algorithm_class.in_keys)
    algorithm = algorithm_class(config, statistics, torch.device(config["device"]))
    with Trainer(algorithm, statistics, config, env_name=env.env_name, callback=callback) as trainer:
        policy = collector.make_exploration_policy(trainer.normalizer, algorithm.policy)
        while not trainer.is_finished:
            episode = collector.collect(policy)
            trainer.log(_episode_metrics(episode))
            for _ in range(collector.count_updates(len(episode.transitions))):
                if not trainer.is_finished:
                    trainer.update(collector.buffer.sample(config["train"]["batch_size"]))
    return trainer.save(output_dir, source=collector.source, num_transitions=collector.num_frames)


class EpisodeCollector:
    """Run episodes in an environment and add them to a replay buffer.

    Args:
        env: Environment; it stays open.
        config: Sections ``collect``, ``train`` and ``exploration``, and ``seed``.

    Attributes:
        buffer: Replay buffer of all transitions.
        num_frames: Number of transitions collected so far.
        source: Entries of ``checkpoint.json`` about the data.
    """

    def __init__(self, env: EnvBase, config: Mapping[str, Any]) -> None:
        self._env = env
        self._settings = config["collect"]
        self._exploration_config = config["exploration"]
        self._seeds = itertools.count(EXPLORATION_SEED + 100_000 * config["seed"])
        self._pending_updates = 0.0
        self._noise: Any = None
        self.num_frames = 0
        self.source: dict[str, Any] = {"collected": True}
        capacity, batch_size = self._settings["buffer_size"], config["train"]["batch_size"]
        if capacity < batch_size:
            msg = f"collect.buffer_size: expected room for a batch of {batch_size} transitions, got {capacity}"
            raise InvalidOptionError(msg)
        self.buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(capacity))

    def add_dataset(self, dataset: "RoboHiveDataset") -> None:
        """Start the buffer with a dataset's transitions; collected episodes follow them.

        Raises:
            SchemaMismatchError: The dataset has no reward.
        """
        require_reward(dataset.schema.columns, f"{dataset.name} {dataset.version}")
        storage = dataset.as_storage(keys=[keys.OBSERVATION, keys.ACTION, keys.NEXT_REWARD])
        self.buffer = extend(storage, max(self._settings["buffer_size"], len(storage)))
        self.source |= describe_training_data(dataset)

    def collect_random(self, num_frames: int) -> None:
        """Collect whole episodes of uniform actions until there are at least so many transitions."""
        policy = RandomPolicy(self._env.action_spec)
        while self.num_frames < max(1, num_frames):
            self.collect(policy)

    def collect(self, policy: Callable[[TensorDictBase], TensorDictBase]) -> Rollout:
        """Run the next episode and add it to the buffer.

        Raises:
            SimulationDivergedError: Many episodes in a row diverged.
        """
        episode = self._run_episode(policy)
        self.num_frames += len(episode.transitions)
        self.buffer.extend(episode.transitions.select(*_STORED_KEYS))
        if self._noise is not None:
            self._noise.step(len(episode.transitions))
        return episode

    def _run_episode(self, policy: Callable[[TensorDictBase], TensorDictBase]) -> Rollout:
        """Return the first of the next episodes whose simulation does not diverge."""
        num_diverged = 0
        while True:
            with set_exploration_type(ExplorationType.RANDOM):
                episode = try_rollout(self._env, policy, seed=next(self._seeds))
            if isinstance(episode, Rollout):
                return episode
            num_diverged += 1
            if num_diverged == _MAX_DIVERGED:
                raise SimulationDivergedError(episode.reason, episode.step)

    def count_updates(self, num_frames: int) -> int:
        """Return the number of gradient steps due for new transitions; fractions are carried over."""
        self._pending_updates += num_frames * self._settings["updates_per_frame"]
        num_updates = int(self._pending_updates)
        self._pending_updates -= num_updates
        return num_updates

    def make_exploration_policy(self, normalizer: Normalizer, policy: TensorDictModuleBase) -> "ExplorationPolicy":
        """Return the collecting policy, with noise on its actions if the configuration has a section ``exploration``.

        The noise decreases with the transitions that :meth:`collect` adds from now on.
        """
        if self._exploration_config is not None:
            noise = {name: value for name, value in self._exploration_config.items() if name != "name"}
            self._noise = AdditiveGaussianModule(self._env.action_spec, **noise)
        return ExplorationPolicy(normalizer, policy, self._noise)


class ExplorationPolicy:
    """Normalise the observation, sample an action, add noise; the stored observation stays as it is.

    Args:
        normalizer: Normalises the observations of the environment.
        policy: Policy of normalised observations.
        noise: Module that adds noise to the action; None for none.
    """

    def __init__(
        self, normalizer: Normalizer, policy: TensorDictModuleBase, noise: AdditiveGaussianModule | None
    ) -> None:
        self._normalizer = normalizer
        self._policy = policy
        self._noise = noise

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action`` into the TensorDict and return it."""
        observation = self._normalizer(tensordict[keys.OBSERVATION].to(self._normalizer.mean.device))
        output = self._policy(TensorDict({keys.OBSERVATION: observation}, batch_size=tensordict.batch_size))
        tensordict[keys.ACTION] = output[keys.ACTION].to(tensordict.device)
        return tensordict if self._noise is None else self._noise(tensordict)


def _episode_metrics(episode: Rollout) -> dict[str, float]:
    """Return ``return``, and ``success_rate`` if the environment says whether the task was solved."""
    metrics = {"return": episode.episode_return}
    if episode.success is not None:
        metrics["success_rate"] = float(episode.success)
    return metrics
