"""Online training: collect an episode, add it to the buffer, take gradient steps, repeat.

With a dataset, ``collect.offline_steps`` gradient steps on its transitions come first.

::

    random episodes, or a dataset ─► replay buffer ◄─ episodes of the policy, with exploration
                                          └─► batches ─► algorithm ─► policy

The buffer is TorchRL's over a LazyMemmapStorage, which keeps on disk what does not fit into memory. With
``collect.record`` the episodes are also recorded in the folder of the run, from where they become a dataset.
"""

import contextlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
from torchrl.envs import EnvBase, ExplorationType, set_exploration_type
from torchrl.envs.utils import RandomPolicy

from rlhive import keys
from rlhive.data.recording import Recorder
from rlhive.data.replay import extend, restore_snapshot, take_snapshot
from rlhive.envs import EXPLORATION_SEED, get_task, make_env
from rlhive.errors import InvalidOptionError, SimulationDivergedError
from rlhive.policies import Normalizer
from rlhive.rollouts import Rollout, try_rollout
from rlhive.sim_algos._algorithm import Algorithm
from rlhive.sim_algos._exploration import ExplorationPolicy, make_noise
from rlhive.sim_algos._frozen_pictures import embed_observations
from rlhive.sim_algos._inputs import (
    CAMERA_OPTIONS,
    TrainingInputs,
    find_env_kwargs,
    list_observations,
    refuse_camera_options,
    resolve_inputs,
)
from rlhive.sim_algos._preprocessing import (
    TRANSITION_KEYS,
    Preprocessor,
    compute_training_statistics,
    require_reward,
)
from rlhive.sim_algos._registry import find_algorithm
from rlhive.sim_algos._setup import build_algorithm, build_preprocessor, seeded_torch
from rlhive.sim_algos._trainer import Callback, Trainer, TrainResult, describe_training_data

if TYPE_CHECKING:
    from rlhive.dataset import RoboHiveDataset

#: Environment if neither an environment nor a dataset is named.
DEFAULT_ENV = "reach"

#: Keys of an episode that the buffer stores: those that are learned from, and all end flags, as in a dataset.
_STORED_KEYS = (*TRANSITION_KEYS, keys.NEXT_TRUNCATED, *keys.END_FLAGS)

#: Folder of the recording in the folder of a run, and the split of its episodes.
RECORDING_FOLDER = "recording"
_REPLAY_SPLIT = "replay"

#: Number of diverged episodes in a row that ends the training.
_MAX_DIVERGED = 20

#: Episodes of neighbouring training seeds begin so many environment seeds apart.
_SEEDS_PER_TRAINING = 100_000


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
        output_dir: Folder of the run.
        callback: See :func:`rlhive.sim_algos.train`.

    Returns:
        Checkpoint folder, learning curve and speed.

    Raises:
        EnvNotFoundError: No such environment. SchemaMismatchError: Its transitions are not those of the dataset.
        InvalidOptionError: The buffer is smaller than a batch, or there are several seeds.
        SimulationDivergedError: Many episodes in a row diverged.
        TrainingDivergedError: A loss became NaN or infinite.
    """
    if config["num_seeds"] != 1:
        msg = (
            f"{config['algorithm']} acts in an environment: expected num_seeds=1, got {config['num_seeds']}. Sweep: -m"
        )
        raise InvalidOptionError(msg)
    task = config["env"] or _default_env(dataset)
    env_kwargs = _choose_env_kwargs(config, dataset)
    env = make_env(task, **env_kwargs)
    try:
        store = None if dataset is None else dataset.store
        context = env.env_name if dataset is None else f"{dataset.name} {dataset.version}"
        fields = list_observations(env.fake_tensordict().unsqueeze(0)) if dataset is None else dataset.schema.fields
        inputs = resolve_inputs(config, fields, env_kwargs=env_kwargs, store=store, context=context)
        env = embed_observations(env, () if inputs is None else inputs.frozen)
        with (
            _open_recorder(config, env, task, Path(output_dir)) as recorder,
            seeded_torch(config["seed"], config["num_threads"]),
        ):
            collector = EpisodeCollector(env, config, inputs, recorder)
            return _train_in_env(collector, task, config, dataset, output_dir=output_dir, callback=callback)
    finally:
        env.close()


def _choose_env_kwargs(config: Mapping[str, Any], dataset: "RoboHiveDataset | None") -> dict[str, Any]:
    """Return the arguments with which the environment returns what is read: as in the dataset, or by the options."""
    if dataset is not None:
        refuse_camera_options(config, f"{dataset.name} {dataset.version}")
        return find_env_kwargs(config, dataset)
    encoder, obs_keys = config.get("encoder"), config.get("obs_keys") or ()
    names = [name for name in obs_keys if name not in (keys.OBSERVATION, keys.PIXELS, keys.DEPTH)]
    env_kwargs: dict[str, Any] = {"obs_keys": names} if names else {}
    if encoder is not None:
        options = {name: encoder[name] for name in CAMERA_OPTIONS if encoder[name] is not None}
        env_kwargs |= {"from_pixels": True, **options}
    return env_kwargs


def _default_env(dataset: "RoboHiveDataset | None") -> str:
    if dataset is None:
        return DEFAULT_ENV
    return dataset.task_name or dataset.env_name or DEFAULT_ENV


@contextlib.contextmanager
def _open_recorder(config: Mapping[str, Any], env: EnvBase, task: str, folder: Path) -> Iterator[Recorder | None]:
    """Open the recording of a run, also one that an interrupted training began; None without ``collect.record``."""
    if not config["collect"].get("record"):
        yield None
        return
    path = folder / RECORDING_FOLDER
    start = Recorder.resume if config["resume"] and path.exists() else Recorder
    provenance = {"task": get_task(task).name}
    with start(path, env=env, policy=config["algorithm"], provenance=provenance, split=_REPLAY_SPLIT) as recorder:
        yield recorder


def _train_in_env(
    collector: "EpisodeCollector",
    task: str,
    config: Mapping[str, Any],
    dataset: "RoboHiveDataset | None",
    *,
    output_dir: str | Path,
    callback: Callback | None,
) -> TrainResult:
    inputs = collector.inputs
    if dataset is None and config["collect"]["offline_steps"] > 0:
        msg = f"collect.offline_steps={config['collect']['offline_steps']}: expected a dataset to learn from, got none"
        raise InvalidOptionError(msg)
    if dataset is None:
        collector.collect_random(config["collect"]["init_random_frames"])
    else:
        collector.add_dataset(dataset)
    statistics = compute_training_statistics(collector.buffer, find_algorithm(config["algorithm"]).in_keys, inputs)
    algorithm = build_algorithm(config, statistics, task)
    trainer = Trainer(
        algorithm,
        build_preprocessor(config, algorithm, statistics, task, inputs),
        statistics,
        config,
        data=collector,
        inputs=inputs,
        env_name=collector.env_name,
        task=task,
        output_dir=output_dir,
        source=collector.source,
        callback=callback,
    )
    with trainer:
        batch_size = config["train"]["batch_size"]
        while not trainer.is_finished and trainer.step < config["collect"]["offline_steps"]:
            trainer.update([collector.buffer.sample(batch_size)])
            trainer.save_if_due()
        policy = collector.make_exploration_policy(make_reader(algorithm, trainer.normalizer, inputs), algorithm.act)
        while not trainer.is_finished:
            algorithm.eval()  # no dropout in the actions
            episode = collector.collect(policy)
            algorithm.train()
            trainer.log(_episode_metrics(episode))
            for _ in range(collector.count_updates(len(episode.transitions))):
                if not trainer.is_finished:
                    trainer.update([collector.buffer.sample(batch_size)])
            trainer.save_if_due()
        return trainer.finish()


def make_reader(
    algorithm: Algorithm, normalizer: Normalizer, inputs: TrainingInputs | None
) -> Callable[[TensorDictBase], torch.Tensor]:
    """Return the function from a TensorDict of the environment to the observation of the networks, ``[1, N, dim]``."""
    preprocess = Preprocessor([keys.OBSERVATION], normalizer, inputs=inputs, device=algorithm.generators.device)
    return lambda tensordict: algorithm.read_observation(preprocess([tensordict.reshape(-1)]))


class EpisodeCollector:
    """Run episodes in an environment and add them to a replay buffer.

    Args:
        env: Environment; it stays open.
        config: Sections ``collect``, ``train`` and ``exploration``, and ``seed``.
        inputs: What the algorithm reads instead of ``observation``, and the buffer stores.
        recorder: Gets every episode that it does not hold yet, with ``num_frames``, the number of transitions before
            it, as metadata. An episode depends on its seed and on what came before, so that one which a continued
            training collects again is the recorded one.

    Attributes:
        buffer: Replay buffer of all transitions.
        inputs: What the algorithm reads.
        num_frames: Number of transitions collected so far.
        source: Entries of ``checkpoint.json`` about the data.
    """

    def __init__(
        self,
        env: EnvBase,
        config: Mapping[str, Any],
        inputs: TrainingInputs | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._env = env
        self._recorder = recorder
        self._recorded_seeds = set() if recorder is None else {record.seed for record in recorder.recording.records()}
        self.inputs = inputs
        self._stored_keys = (inputs or TrainingInputs()).replace_observations(_STORED_KEYS)
        self._settings = config["collect"]
        self._noise = make_noise(config["exploration"], env.action_spec)
        self._generator = torch.Generator().manual_seed(config["seed"])
        self._next_seed = EXPLORATION_SEED + _SEEDS_PER_TRAINING * config["seed"]
        self._pending_updates = 0.0
        self.num_frames = 0
        self.source: dict[str, Any] = {"collected": True}
        capacity, batch_size = self._settings["buffer_size"], config["train"]["batch_size"]
        if capacity < batch_size:
            msg = f"collect.buffer_size: expected room for a batch of {batch_size} transitions, got {capacity}"
            raise InvalidOptionError(msg)
        num_updates = config["train"]["num_steps"] - (self._settings["offline_steps"] or 0)
        num_frames = self._settings.get("init_random_frames", 0) + num_updates / self._settings["updates_per_frame"]
        self._num_rows = min(capacity, math.ceil(num_frames) + env.horizon)
        self.buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(capacity))
        self.buffer.set_rng(self._generator)

    def add_dataset(self, dataset: "RoboHiveDataset") -> None:
        """Start the buffer with a dataset's transitions; collected episodes follow them.

        Raises:
            SchemaMismatchError: The dataset has no reward.
        """
        require_reward(dataset.schema.columns, f"{dataset.name} {dataset.version}")
        stored = {keys.key_to_column(key) for key in self._stored_keys}
        storage = dataset.as_storage(keys=[item.key for item in dataset.schema.fields if item.column in stored])
        self.buffer = extend(storage, max(self._settings["buffer_size"], len(storage)))
        self.buffer.set_rng(self._generator)
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
        stored = episode.transitions.select(*self._stored_keys)
        if self.num_frames == 0:
            self._require_room(stored[:1].bytes())
        self._record(episode)
        self.num_frames += len(stored)
        self.buffer.extend(stored)
        if isinstance(policy, ExplorationPolicy):
            policy.anneal(len(episode.transitions))
        return episode

    def _record(self, episode: Rollout) -> None:
        if self._recorder is None or episode.seed in self._recorded_seeds:
            return
        self._recorder.add_episode(
            episode.transitions,
            seed=episode.seed,
            start_state=episode.start_state,
            metadata={"num_frames": self.num_frames},
        )

    def _require_room(self, bytes_per_row: int) -> None:
        """Raise InvalidOptionError if the disk of the buffer cannot hold what the training will collect."""
        needed = self._num_rows * bytes_per_row
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if needed > free:
            rows = f"{self._num_rows} transitions of {bytes_per_row} bytes"
            msg = (
                f"collect.buffer_size: {rows} need {needed / 1e9:.1f} GB, expected at most {free / 1e9:.1f} GB, which "
                f"are free in {tempfile.gettempdir()}. Lower it"
            )
            raise InvalidOptionError(msg)

    def _run_episode(self, policy: Callable[[TensorDictBase], TensorDictBase]) -> Rollout:
        """Return the first of the next episodes whose simulation does not diverge."""
        num_diverged = 0
        while True:
            with set_exploration_type(ExplorationType.RANDOM):
                episode = try_rollout(self._env, policy, seed=self._next_seed)
            self._next_seed += 1
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

    def make_exploration_policy(
        self, read: Callable[[TensorDictBase], torch.Tensor], act: Callable[[torch.Tensor], torch.Tensor]
    ) -> ExplorationPolicy:
        """Return the collecting policy, with the noise of the section ``exploration`` on its actions.

        The noise decreases with the transitions that :meth:`collect` adds from now on.
        """
        return ExplorationPolicy(read, act, self._noise)

    @property
    def env_name(self) -> str:
        """Id of the environment."""
        return str(self._env.env_name)

    @property
    def num_transitions(self) -> int:
        """Number of transitions that were learned from: those that were collected."""
        return self.num_frames

    def state_dict(self) -> dict[str, Any]:
        """Return the buffer's content and everything that the next episode depends on."""
        return {
            "buffer": take_snapshot(self.buffer),
            "generator": self._generator.get_state(),
            "noise": {} if self._noise is None else self._noise.state_dict(),
            "next_seed": self._next_seed,
            "num_frames": self.num_frames,
            "pending_updates": self._pending_updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state that :meth:`state_dict` returned."""
        restore_snapshot(self.buffer, state["buffer"])
        self._generator.set_state(state["generator"])
        if self._noise is not None:
            self._noise.load_state_dict(state["noise"])
        self._next_seed = state["next_seed"]
        self.num_frames = state["num_frames"]
        self._pending_updates = state["pending_updates"]


def _episode_metrics(episode: Rollout) -> dict[str, float]:
    """Return ``return``, and ``success_rate`` if the environment says whether the task was solved."""
    metrics = {"return": episode.episode_return}
    if episode.success is not None:
        metrics["success_rate"] = float(episode.success)
    return metrics
