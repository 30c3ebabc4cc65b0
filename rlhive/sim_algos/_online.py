"""The loop of the algorithms that learn online: act for an episode, remember it, take gradient steps, again.

    random episodes, or a dataset ─► replay buffer ◄─ episodes of the policy, with exploration
                                          └─► batches ─► learner ─► policy

The buffer is TorchRL's on a LazyMemmapStorage: what does not fit into memory lies on disk.
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
from rlhive.errors import InvalidSetting, SimulationDiverged
from rlhive.policies import Normalizer
from rlhive.rollouts import Rollout, try_rollout
from rlhive.sim_algos._preprocessing import TRANSITION, Preparation, measure
from rlhive.sim_algos._sac import SoftActorCritic
from rlhive.sim_algos._trainer import Callback, Course, TrainResult, seeded, source_of

if TYPE_CHECKING:
    from rlhive.dataset import RoboHiveDataset

ALGORITHMS = {"sac": SoftActorCritic}

#: Where neither an environment nor a dataset is named.
DEFAULT_ENV = "reach"

#: What goes into the buffer of an episode: what is learned from, and all ends, as a dataset has them.
_KEPT = (*TRANSITION, keys.NEXT_TRUNCATED, *keys.END_FLAGS)

#: So many diverged episodes in a row are no accident.
_PATIENCE = 20


def train_online(
    config: Mapping[str, Any],
    dataset: "RoboHiveDataset | None",
    *,
    output_dir: str | Path,
    callback: Callback | None = None,
) -> TrainResult:
    """Train in an environment; :func:`rlhive.sim_algos.train` checks and composes the arguments.

    Deterministic for a seed on one machine. Episode ``i`` has a seed of its own, which no recipe and no evaluation
    uses; one whose simulation diverges is left out.

    Args:
        config: What :func:`rlhive.sim_algos.make_config` returned.
        dataset: Its transitions are there before the first episode, in place of random ones; None for none.
        output_dir: Where the checkpoint goes.
        callback: See :func:`rlhive.sim_algos.train`.

    Returns:
        Checkpoint folder, learning curve and speed.

    Raises:
        EnvNotFound: No such environment. SchemaMismatch: Its transitions are not those of the dataset.
        InvalidSetting: A buffer too small to learn from.
        SimulationDiverged: Many episodes in a row did.
        TrainingDiverged: A loss became NaN or infinite.
    """
    env = make_env(config["env"] or (dataset and (dataset.task_name or dataset.env_name)) or DEFAULT_ENV)
    try:
        with seeded(config["seed"], config["num_threads"]):
            return _train(config, dataset, env, output_dir, callback)
    finally:
        env.close()


def _train(
    config: Mapping[str, Any],
    dataset: "RoboHiveDataset | None",
    env: EnvBase,
    output_dir: str | Path,
    callback: Callback | None,
) -> TrainResult:
    algorithm, device = ALGORITHMS[config["algorithm"]], torch.device(config["device"])
    run = _Run(env, config)
    if dataset is None:
        run.collect_random(config["collect"]["init_random_frames"])
    else:
        run.start_from(dataset)
    statistics = measure(run.buffer, algorithm.in_keys)
    learner = algorithm(config, statistics, device)
    with Course(config, statistics, learner, env_name=env.env_name, callback=callback) as course:
        prepare = Preparation(course.normalizer, learner.in_keys, device)
        policy = run.exploring(course.normalizer, learner.policy)
        while not course.is_over:
            episode = run.collect(policy)
            course.saw(_outcome(episode))
            for _ in range(run.num_updates(len(episode.transitions))):
                if not course.is_over:
                    course.took(learner.update(prepare(run.buffer.sample(config["train"]["batch_size"]))))
    return course.leave(output_dir, source=run.source, num_transitions=run.num_frames)


class _Run:
    """An environment, the buffer that its episodes fill, and what was collected so far."""

    def __init__(self, env: EnvBase, config: Mapping[str, Any]) -> None:
        self._env, self._config, self._settings = env, config, config["collect"]
        self._seeds = itertools.count(EXPLORATION_SEED + 100_000 * config["seed"])
        self._owed = 0.0
        self._exploration: Any = None
        self.num_frames = 0
        self.source: dict[str, Any] = {"collected": True}
        capacity = self._settings["buffer_size"]
        if capacity < config["train"]["batch_size"]:
            msg = (
                f"collect.buffer_size: expected room for a batch of {config['train']['batch_size']} transitions, got "
                f"{capacity}. Ask for more."
            )
            raise InvalidSetting(msg)
        self.buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(capacity))

    def start_from(self, dataset: "RoboHiveDataset") -> None:
        """Put a dataset's transitions into the buffer; what is collected goes on behind them."""
        storage = dataset.as_storage(keys=[keys.OBSERVATION, keys.ACTION, keys.NEXT_REWARD])
        self.buffer = extend(storage, max(self._settings["buffer_size"], len(storage)))
        self.source |= source_of(dataset)

    def collect_random(self, num_frames: int) -> None:
        """Collect whole episodes of uniform actions, that many transitions at least."""
        policy = RandomPolicy(self._env.action_spec)
        while self.num_frames < max(1, num_frames):
            self.collect(policy)

    def collect(self, policy: Callable[[TensorDictBase], TensorDictBase]) -> Rollout:
        """Run the next episode into the buffer.

        Raises:
            SimulationDiverged: So did many in a row.
        """
        for _ in range(_PATIENCE):
            with set_exploration_type(ExplorationType.RANDOM):
                episode = try_rollout(self._env, policy, seed=next(self._seeds))
            if isinstance(episode, Rollout):
                break
        else:
            raise SimulationDiverged(episode.reason, episode.step)
        self.num_frames += len(episode.transitions)
        self.buffer.extend(episode.transitions.select(*_KEPT))
        if self._exploration is not None:
            self._exploration.step(len(episode.transitions))
        return episode

    def num_updates(self, num_frames: int) -> int:
        """Return how many gradient steps so many new transitions call for; fractions are carried over."""
        self._owed += num_frames * self._settings["updates_per_frame"]
        due = int(self._owed)
        self._owed -= due
        return due

    def exploring(self, normalizer: Normalizer, policy: TensorDictModuleBase) -> "_Acting":
        """Return the policy that collects from now on: with noise, if the configuration says so."""
        chosen = self._config["exploration"]
        if chosen is not None:
            noise = {name: value for name, value in chosen.items() if name != "name"}
            self._exploration = AdditiveGaussianModule(self._env.action_spec, **noise)
        return _Acting(normalizer, policy, self._exploration)


class _Acting:
    """A policy of normalised observations in an environment that gives them as they are, which stay so."""

    def __init__(
        self, normalizer: Normalizer, policy: TensorDictModuleBase, exploration: AdditiveGaussianModule | None
    ) -> None:
        self._normalizer, self._policy, self._exploration = normalizer, policy, exploration

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        observation = self._normalizer(tensordict[keys.OBSERVATION].to(self._normalizer.mean.device))
        acted = self._policy(TensorDict({keys.OBSERVATION: observation}, batch_size=tensordict.batch_size))
        tensordict[keys.ACTION] = acted[keys.ACTION].to(tensordict.device)
        return tensordict if self._exploration is None else self._exploration(tensordict)


def _outcome(episode: Rollout) -> dict[str, float]:
    solved = {} if episode.success is None else {"success_rate": float(episode.success)}
    return {"return": episode.episode_return, **solved}
