"""Preprocessing: statistics of a replay buffer, and sampled batches in the form that an algorithm learns from."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import ReplayBuffer
from torchrl.data.replay_buffers.storages import Storage

from rlhive import keys
from rlhive.data import MAX_ELEMENTS, ColumnStatistics
from rlhive.data.replay import PackedStorage
from rlhive.envs import Task, get_task
from rlhive.errors import EnvNotFoundError, SchemaMismatchError
from rlhive.policies import Normalizer
from rlhive.sim_algos._inputs import TrainingInputs

_LOG = logging.getLogger("rlhive")

_NEXT_OBSERVATION = (keys.NEXT, keys.OBSERVATION)

#: Keys of a batch for an algorithm that learns values.
TRANSITION_KEYS = (
    keys.OBSERVATION,
    keys.ACTION,
    _NEXT_OBSERVATION,
    keys.NEXT_REWARD,
    keys.NEXT_TERMINATED,
    keys.NEXT_DONE,
)

_CHUNK_ROWS = 65_536  # 40 MB of kitchen observations
_CHUNK_BYTES = 256 * 2**20

_USUAL_DISCOUNT = 0.99
_DISCOUNTS_PER_HORIZON = 5  # effective horizons 1 / (1 - gamma) in an episode


@dataclass(frozen=True)
class ReturnStatistics:
    """Statistics of returns to go.

    Attributes:
        mean: Mean over all transitions.
        std: Standard deviation over all transitions; 1 if they do not vary.
        best: Largest return of an episode.
    """

    mean: float
    std: float
    best: float


@dataclass(frozen=True)
class TrainingStatistics:
    """Statistics over all transitions of a buffer, for building networks and normalising batches.

    Attributes:
        mean: Mean of the observations, float64 ``[vector_dim]``.
        std: Standard deviation of the observations, float64 ``[vector_dim]``; 0 where they do not vary.
        reward_std: Standard deviation of the rewards; 0 if the algorithm reads no rewards.
        action_dim: Size of an action.
        is_normalized: Whether the buffer normalises observations itself, by ``mean`` and ``std``.
        returns: Statistics of the returns to go; None if the algorithm reads none.
        pictures: Shape of each key of pictures that an encoder is trained for, by the key's column name.
        feature_dim: Number of features of all pictures together.
    """

    mean: torch.Tensor
    std: torch.Tensor
    reward_std: float
    action_dim: int
    is_normalized: bool = False
    returns: ReturnStatistics | None = None
    pictures: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    feature_dim: int = 0

    @property
    def observation_dim(self) -> int:
        """Size of what the networks read: the vectors and the features of the pictures."""
        return len(self.mean) + self.feature_dim


def compute_training_statistics(
    buffer: ReplayBuffer, in_keys: Sequence[keys.NestedKey], inputs: TrainingInputs | None = None
) -> TrainingStatistics:
    """Read a buffer once, check that it can be learned from, and return its statistics.

    Mean and scale of a buffer with ``normalize=`` are those that it normalises by.

    Args:
        buffer: Transitions; read in pieces.
        in_keys: Keys of a batch that the algorithm reads.
        inputs: What stands for its observations; ``observation`` by default.

    Raises:
        SchemaMismatchError: The buffer is empty, lacks one of ``in_keys``, or holds NaN or infinite values.
    """
    if len(buffer) == 0:
        msg = "The replay buffer is empty: expected at least one transition. Choose another split."
        raise SchemaMismatchError(msg)
    observation_moments = _Moments()
    reward_moments = _Moments()
    returns = _Returns() if keys.RETURN_TO_GO in in_keys else None
    action_dim = 0
    inputs = inputs or TrainingInputs()
    if inputs.policy is not None and isinstance(buffer.storage, PackedStorage) and buffer.storage.window.normalize:
        msg = "The replay buffer normalises its batches: expected one without normalize= beside obs_keys or an encoder"
        raise SchemaMismatchError(msg)
    for chunk in _iter_chunks(buffer):
        _require_finite(chunk, inputs.replace_observations(in_keys))
        observation_moments.add(inputs.read(chunk, keys.OBSERVATION))
        if keys.NEXT_REWARD in in_keys:
            reward_moments.add(chunk[keys.NEXT_REWARD])
        if returns is not None:
            returns.add(chunk)
        action_dim = chunk[keys.ACTION].shape[-1]
    mean, std = observation_moments.mean_and_std()
    reward_std = float(reward_moments.mean_and_std()[1]) if keys.NEXT_REWARD in in_keys else 0.0
    return_statistics = None if returns is None else returns.compute()
    storage = buffer.storage
    if not isinstance(storage, PackedStorage) or keys.OBSERVATION not in storage.window.normalize:
        return TrainingStatistics(
            mean,
            std,
            reward_std,
            action_dim,
            returns=return_statistics,
            pictures=inputs.pictures,
            feature_dim=inputs.feature_dim,
        )
    _require_finite_before_clipping(storage, in_keys)
    mean, std = _served_normalization(storage, len(mean))
    return TrainingStatistics(mean, std, reward_std, action_dim, is_normalized=True, returns=return_statistics)


def _iter_chunks(rows: ReplayBuffer | Storage) -> Iterator[TensorDictBase]:
    """Yield all transitions in pieces of ``_CHUNK_ROWS``, or fewer if those would take more than ``_CHUNK_BYTES``."""
    num_rows = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // max(1, rows[:1].bytes())))
    for start in range(0, len(rows), num_rows):
        yield rows[start : start + num_rows]


def _require_finite(chunk: TensorDictBase, in_keys: Sequence[keys.NestedKey]) -> None:
    """Raise SchemaMismatchError if transitions lack a key or hold NaN or infinite values."""
    missing_keys = [key for key in in_keys if key not in chunk.keys(True)]
    if keys.NEXT_REWARD in missing_keys:
        require_reward((), "The replay buffer")
    if missing_keys:
        msg = f"The replay buffer's transitions lack {missing_keys}: expected {list(in_keys)}"
        raise SchemaMismatchError(msg)
    for key in in_keys:
        if not torch.isfinite(chunk[key]).all():
            msg = f"The replay buffer's {key!r}: expected finite values, got NaN or infinity. Run: rlhive check"
            raise SchemaMismatchError(msg)


def require_reward(columns: Sequence[str], context: str) -> None:
    """Raise unless transitions have a reward.

    Args:
        columns: Names of the transitions' columns.
        context: What holds the transitions, for the message.

    Raises:
        SchemaMismatchError: There is no reward.
    """
    if keys.key_to_column(keys.NEXT_REWARD) not in columns:
        msg = f"{context} has no reward, which this algorithm learns from: none was recorded. bc learns without one."
        raise SchemaMismatchError(msg)


def _require_finite_before_clipping(storage: PackedStorage, in_keys: Sequence[keys.NestedKey]) -> None:
    """Raise SchemaMismatchError if clipping hides an infinite observation of a buffer that normalises."""
    observation_keys = [key for key in in_keys if key in (keys.OBSERVATION, _NEXT_OBSERVATION)]
    raw = storage.variant(window=replace(storage.window, normalize={}))
    for chunk in _iter_chunks(raw):
        _require_finite(chunk, observation_keys)


def _served_normalization(storage: PackedStorage, observation_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and scale of a storage that normalises, float64 ``[observation_dim]``, stacked frames included."""
    num_frames = storage.window.frame_stack
    mean, scale = (
        tensor.to("cpu", torch.float64).expand(observation_dim // num_frames).repeat(num_frames)
        for tensor in storage.window.normalize[keys.OBSERVATION]
    )
    return mean, scale


class _Moments:
    """Mean and standard deviation of each element of a row; rows of any width."""

    def __init__(self) -> None:
        self._parts: list[ColumnStatistics] = []

    def add(self, rows: torch.Tensor) -> None:
        """Include rows ``[N, *shape]``; of rows without elements there is nothing to compute."""
        if not rows[0].numel():
            return
        # Column statistics summarise rows wider than MAX_ELEMENTS per channel, so wide rows are added in parts.
        parts = [part.numpy() for part in torch.split(rows.flatten(1).cpu(), MAX_ELEMENTS, dim=1)]
        if not self._parts:
            self._parts = [ColumnStatistics.from_rows(part, quantiles=False) for part in parts]
            return
        for statistics, part in zip(self._parts, parts, strict=True):
            statistics.add(part)

    def mean_and_std(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation, float64, one number per element."""
        if not self._parts:
            return torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
        mean = torch.cat([torch.from_numpy(statistics.mean) for statistics in self._parts])
        return mean, torch.cat([torch.from_numpy(statistics.std) for statistics in self._parts])


class _Returns:
    """Statistics of returns to go, and the best of those at the start of an episode."""

    def __init__(self) -> None:
        self._moments = _Moments()
        self._best = -math.inf
        self._was_end = True

    def add(self, chunk: TensorDictBase) -> None:
        """Include the transitions that follow those before."""
        values = chunk[keys.RETURN_TO_GO].flatten(1)[:, :1]
        self._moments.add(values)
        is_start = chunk[keys.NEXT_DONE].flatten().roll(1)
        ends_with_episode = bool(is_start[0])
        is_start[0] = self._was_end
        self._was_end = ends_with_episode
        if is_start.any():
            self._best = max(self._best, float(values[is_start].max()))

    def compute(self) -> ReturnStatistics:
        """Return the statistics of what was added."""
        mean, std = self._moments.mean_and_std()
        return ReturnStatistics(float(mean), float(std) or 1.0, self._best)


class Preprocessor:
    """Turn batches of the buffer into a batch of an algorithm: its keys, float32, on its device.

    Observations are normalised and rewards are scaled here, so that no algorithm does either.

    Args:
        in_keys: Keys of a batch that the algorithm reads.
        normalizer: Normalises the observations; None if the buffer does.
        inputs: What stands for the observations.
        optional_keys: Further keys, of batches that have them.
        reward_scale: Factor of the rewards.
        device: Device of the algorithm.
    """

    def __init__(
        self,
        in_keys: Sequence[keys.NestedKey],
        normalizer: Normalizer | None,
        *,
        inputs: TrainingInputs | None = None,
        optional_keys: Sequence[keys.NestedKey] = (),
        reward_scale: float = 1.0,
        device: torch.device,
    ) -> None:
        self._inputs = inputs or TrainingInputs()
        self._in_keys = self._inputs.add_pictures(in_keys)
        self._optional_keys = optional_keys
        self._normalizer = normalizer
        self._reward_scale = reward_scale
        self._device = device

    def __call__(self, batches: Sequence[TensorDictBase]) -> TensorDict:
        """Return a new TensorDict; the batches, which may be views of the dataset, stay as they are.

        Args:
            batches: One batch ``[N]`` per training seed.

        Returns:
            The keys of the algorithm, batch size ``[num_seeds, N]``.
        """
        stacked = TensorDict(batch_size=[len(batches), *batches[0].batch_size], device=self._device)
        present = [key for key in self._optional_keys if batches[0].get(key, None) is not None]
        for key in (*self._in_keys, *present):
            values = [self._inputs.read(batch, key) for batch in batches]
            stacked[key] = self._prepare(key, _stack(values).to(self._device))
        return stacked

    def _prepare(self, key: keys.NestedKey, values: torch.Tensor) -> torch.Tensor:
        if self._normalizer is not None and key in (keys.OBSERVATION, _NEXT_OBSERVATION):
            return self._normalizer(values)
        if not values.is_floating_point():
            return values
        values = values.to(torch.float32)
        return values * self._reward_scale if key in (keys.NEXT_REWARD, keys.RETURN_TO_GO) else values


def _stack(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return tensors along a new first dimension; a single one is not copied."""
    return values[0].unsqueeze(0) if len(values) == 1 else torch.stack(list(values))


def resolve_reward_scale(configured: float | str, env_name: str, reward_std: float) -> float:
    """Return the factor of the rewards.

    Args:
        configured: A number; or "auto", with which the expert's and the random policy's reward differ by 1 per step on
            average, by the task's references. The data have no influence on it, so that splits can be compared.
        env_name: Task or environment id.
        reward_std: Standard deviation of the rewards, whose inverse is the factor of a task without references.
    """
    if configured != "auto":
        return float(configured)
    task = _lookup_task(env_name)
    if task is not None and task.reference is not None and task.reference.expert is not None:
        gap = abs(task.reference.expert.return_mean - task.reference.random.return_mean)
        if gap > 0:
            return task.horizon / gap
    _LOG.warning(
        "%s has no reference returns: rewards are divided by their standard deviation in the data, %.4g. "
        "Set loss.reward_scale to compare trainings on different data.",
        env_name,
        reward_std,
    )
    return 1.0 / reward_std if reward_std > 0 else 1.0


def resolve_discount(configured: float | str, env_name: str | None) -> float:
    """Return the discount gamma.

    Args:
        configured: A number; or "auto": 1 - 5 / horizon, so that rewards count over a fifth of an episode. An episode
            of 50 steps has 0.9, one of 500 steps the usual 0.99. A larger discount lets values rest on the critic's own
            estimates beyond the end of every episode in the data.
        env_name: Task or environment id.
    """
    if configured != "auto":
        return float(configured)
    task = _lookup_task(env_name) if env_name else None
    if task is None:
        _LOG.warning(
            "The horizon of %s is not known: gamma is %g. Set loss.gamma.", env_name or "this data", _USUAL_DISCOUNT
        )
        return _USUAL_DISCOUNT
    return max(0.0, 1.0 - _DISCOUNTS_PER_HORIZON / task.horizon)


def _lookup_task(env_name: str) -> Task | None:
    """Return the task of a name or environment id; None if the catalogue has none."""
    try:
        return get_task(env_name)
    except EnvNotFoundError:
        return None
