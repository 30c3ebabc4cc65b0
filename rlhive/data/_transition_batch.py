"""A batch of TED transitions as arrays ``[envs, time, *shape]``, with the bookkeeping that tells episodes apart.

Collectors, samplers and trackers add keys of their own to the transitions: trajectory ids, padding masks, markers of an
episode's start. They are read here and left out of the columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tensordict import TensorDictBase, is_non_tensor

from rlhive import keys
from rlhive.data._dtypes import dtype_name, to_numbers
from rlhive.data._episodes import REWARD, TERMINATED, TRUNCATED
from rlhive.data._ragged import have_equal_bits, is_ragged, make_rows
from rlhive.data._schema import Field, Schema, flatten_tensordict, is_stored
from rlhive.errors import SchemaMismatchError

Leaves = dict[str, np.ndarray]

#: Keys that collectors, samplers and trackers add for their own use. They are never recorded, nor is any key whose name
#: begins with "_".
BOOKKEEPING = ("collector", "traj_ids", "mask", "index", "priority_weight", "is_init")

_DONE = keys.key_to_column(keys.NEXT_DONE)
_TRAJECTORY_IDS = ("collector.traj_ids", "traj_ids")
_MASKS = ("collector.mask", "mask")
_STARTS = ("is_init",)

#: Keys by which rows are told apart, where the batch has them.
MARKER_KEYS = [keys.column_to_key(name) for name in (*_TRAJECTORY_IDS, *_MASKS, *_STARTS, keys.STEP_COUNT)]


@dataclass(frozen=True)
class TransitionBatch:
    """A batch of transitions as arrays.

    Attributes:
        rows: Columns and their ``next`` twins, ``[envs, time, *shape]`` by column name.
        trajectory_ids: The collector's trajectory id of each row, int64 ``[envs, time]``; None without a collector.
        valid: Whether a row is a transition and not padding, bool ``[envs, time]``; None without padding.
        starts: Whether a row is the first of its episode, bool ``[envs, time]``; None without a StepCounter or
            InitTracker.
        states: Simulator state before each row, float64 ``[envs, time, *shape]`` by name, where the environment gives
            it below ``state``, as ``RoboHiveEnv(…, state=True)`` does.
    """

    rows: Leaves
    trajectory_ids: np.ndarray | None
    valid: np.ndarray | None
    starts: np.ndarray | None
    states: Leaves

    @classmethod
    def from_tensordict(
        cls,
        transitions: TensorDictBase,
        *,
        drop: tuple[str, ...] = BOOKKEEPING,
        ragged: tuple[str, ...] = (),
        context: str,
    ) -> "TransitionBatch":
        """Convert a TED TensorDict of batch size ``[*envs, time]``; the arrays share its memory.

        Args:
            transitions: Without ``("next", "truncated")``, rows that are done and not terminated count as truncated.
                Without any end flag, as a robot gives them, no row ends an episode.
            drop: Names of keys that are left out, at the root and below ``"next"``.
            ragged: Names of columns whose rows have different lengths in other batches, with their ``next`` twins;
                nested tensors are ragged anyway.
            context: Prefix of error messages.

        Raises:
            SchemaMismatchError: The time dimension is missing, a row is done without a flag that says why, or a key
                cannot be recorded.
        """
        _require_time_dimension(transitions, context)
        shape = transitions.shape
        num_envs = int(np.prod(shape[:-1]))
        recorded_transitions = transitions.exclude(*_dropped_keys(transitions, drop))
        rows = {
            name: array.reshape(num_envs, shape[-1], *array.shape[len(shape) :])
            for name, array in flatten_tensordict(recorded_transitions, context=context).items()
        }
        _complete_end_flags(rows, (num_envs, shape[-1]), context)
        if REWARD in rows:
            rows.pop(keys.REWARD, None)  # the root reward that `td = td["next"]` leaves behind
        rows = {name: array for name, array in rows.items() if _is_column_or_twin(name, rows)}
        for name in [name for name in rows if name.removeprefix(f"{keys.NEXT}.") in ragged]:
            rows[name] = _to_ragged(rows[name], name, context)
        if any(0 in array.shape[2:] for array in rows.values()):
            Schema.from_arrays(rows, batch_dims=2).require_values(context=context)
        states = {
            name: array.reshape(num_envs, shape[-1], -1)
            for name, array in _read_simulator_states(transitions, context).items()
        }
        markers = flatten_tensordict(transitions.select(*MARKER_KEYS, strict=False), context=context)
        markers = {name: array.reshape(num_envs, shape[-1]) for name, array in markers.items()}
        trajectory_ids, valid = _first_present(markers, _TRAJECTORY_IDS), _first_present(markers, _MASKS)
        if trajectory_ids is not None and (trajectory_ids < 0).any():  # frames that a preempted collector did not fill
            valid = (trajectory_ids >= 0) if valid is None else valid & (trajectory_ids >= 0)
        counts = markers.get(keys.STEP_COUNT)
        starts = _first_present(markers, _STARTS) if counts is None else counts == 0
        return cls(rows, trajectory_ids, valid, starts, states)

    @property
    def num_envs(self) -> int:
        """Number of environments."""
        return self.rows[TERMINATED].shape[0]

    @property
    def num_steps(self) -> int:
        """Number of rows of each environment, padding included."""
        return self.rows[TERMINATED].shape[1]

    @property
    def ends(self) -> np.ndarray:
        """Whether a row terminates or truncates its episode, bool ``[envs, time]``."""
        flags = self.rows[TERMINATED] | self.rows[TRUNCATED]
        return flags.reshape(*flags.shape[:2], -1).any(axis=2)

    @property
    def observed(self) -> list[str]:
        """Names of the columns that have a twin below ``"next"``."""
        return [name for name in sorted(self.rows) if f"{keys.NEXT}.{name}" in self.rows]

    def chunk(self, env: int, start: int, stop: int) -> Leaves:
        """Return consecutive rows of one environment as views, ``[stop - start, *shape]`` by column name."""
        return {name: array[env, start:stop] for name, array in self.rows.items()}

    def start_state(self, env: int, row: int) -> Leaves:
        """Return a copy of the simulator state before a row; empty where the batch holds none."""
        return {name: array[env, row].copy() for name, array in self.states.items()}

    def is_continuous(self, env: int) -> np.ndarray:
        """Return whether the observations of row t+1 equal the ``next`` ones of row t, bool ``[time - 1]``."""
        continuous = np.ones(self.num_steps - 1, dtype=bool)
        for name in self.observed:
            twin = self.rows[f"{keys.NEXT}.{name}"]
            next_rows, rows = to_numbers(twin[env, :-1]), to_numbers(self.rows[name][env, 1:])
            if is_ragged(rows):
                continuous &= have_equal_bits(rows, next_rows)
                continue
            # By value: -0.0 and 0.0 are told apart when the episode is packed.
            is_same = next_rows == rows
            if rows.dtype.kind == "f":
                is_same |= np.isnan(next_rows) & np.isnan(rows)
            continuous &= is_same.all(axis=tuple(range(1, rows.ndim)))
        return continuous


def describe_difference(expected: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> str:
    """Return how two chunks of an episode differ in keys, dtypes or shapes; empty where they do not."""
    for name in sorted(expected.keys() | got.keys()):
        kinds = [_describe_kind(chunk[name]) if name in chunk else "no such key" for chunk in (expected, got)]
        if kinds[0] != kinds[1]:
            return f"key {name} changes inside the episode: expected {kinds[0]}, got {kinds[1]}"
    return ""


def _describe_kind(array: np.ndarray) -> str:
    kinds = {Field.of_array("", make_rows([row])).describe() for row in array.flat} if is_ragged(array) else set()
    return " and ".join(sorted(kinds)) or f"{dtype_name(array.dtype)} {array.shape[1:]}"


def _to_ragged(rows: np.ndarray, name: str, context: str) -> np.ndarray:
    """Return rows of equal length, ``[envs, time, n, *inner]``, as an object array ``[envs, time]`` of copies."""
    if rows.dtype == object:
        return rows
    if rows.ndim < 3:
        msg = f"{context}: key {name}: expected rows of different lengths, [n, ...], got scalars."
        raise SchemaMismatchError(msg)
    flat = rows.reshape(rows.shape[0] * rows.shape[1], *rows.shape[2:])
    return make_rows([row.copy() for row in flat]).reshape(rows.shape[:2])


def _require_time_dimension(transitions: TensorDictBase, context: str) -> None:
    if not isinstance(transitions, TensorDictBase):
        msg = f"{context}: expected a TensorDict of TED transitions, got a {type(transitions).__name__}."
        raise SchemaMismatchError(msg)
    if not transitions.ndim:
        msg = f"{context}: expected batch size [..., time], got []. Record single transitions with step()."
        raise SchemaMismatchError(msg)


def _dropped_keys(node: TensorDictBase, drop: tuple[str, ...]) -> list[tuple[str, ...]]:
    next_node = node.get(keys.NEXT, None)
    levels = [((), node), *([((keys.NEXT,), next_node)] if isinstance(next_node, TensorDictBase) else [])]
    return [
        (*prefix, key)
        for prefix, level in levels
        for key in level.keys()  # noqa: SIM118
        if key in drop or key.startswith("_")
    ]


def _complete_end_flags(rows: Leaves, shape: tuple[int, ...], context: str) -> None:
    """Add the flags that nobody recorded: not set in any row, unless ``done`` says that a row ends an episode."""
    for name in (TERMINATED, TRUNCATED, _DONE):
        if name in rows and rows[name].dtype != bool:
            msg = f"{context}: key {name}: expected bool, got {dtype_name(rows[name].dtype)}. Convert it: bool(value)."
            raise SchemaMismatchError(msg)
    if TRUNCATED not in rows and TERMINATED in rows and _DONE in rows:
        rows[TRUNCATED] = rows[_DONE] & ~rows[TERMINATED]
    done = rows.get(_DONE)
    for name in (TERMINATED, TRUNCATED):
        if name not in rows and done is not None and done.any():
            msg = (
                f"{context}: key {name} is missing where next.done is set: expected a flag that says why an episode "
                "ends."
            )
            raise SchemaMismatchError(msg)
    # In the shape of the other flags; without any, [..., 1] as the environments of TorchRL give them.
    flag = next((rows[name] for name in (TERMINATED, TRUNCATED, _DONE) if name in rows), np.zeros((*shape, 1), bool))
    for name in (TERMINATED, TRUNCATED):
        rows.setdefault(name, np.zeros(flag.shape, bool))


def _is_column_or_twin(name: str, rows: Leaves) -> bool:
    """Return whether a leaf is a stored column or the ``next`` twin of one."""
    column = name.removeprefix(f"{keys.NEXT}.")
    return is_stored(name, rows) or (name != column and column in rows and is_stored(column, rows))


def _read_simulator_states(transitions: TensorDictBase, context: str) -> Leaves:
    node = transitions.get("state", None)
    if not isinstance(node, TensorDictBase) or is_non_tensor(node):
        return {}
    leaves = flatten_tensordict(node, context=context)
    return leaves if all(array.dtype == np.float64 for array in leaves.values()) else {}


def _first_present(markers: Leaves, names: tuple[str, ...]) -> np.ndarray | None:
    return next((markers[name] for name in names if name in markers), None)
