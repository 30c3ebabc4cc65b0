"""Attributes of RoboHive's task objects: what a task keeps outside the simulator, as numbers.

A task holds targets, goals, counters and opponents in attributes of its own and of objects below it. Each has a path::

    env.target_jnt_value                  ("target_jnt_value",)
    env.opponent.noise_process.buffer     ("opponent", "noise_process", "buffer")
"""

import copy
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhive.envs._model_fields import require_numbers

Path = tuple[str | int, ...]

#: Results of an observation and objects that are handled elsewhere; constants that only gymnasium reads.
_SKIPPED = {
    *("sim", "sim_obsd", "robot", "f_load", "_np_random", "np_random", "input_seed"),
    *("obs_dict", "rwd_dict", "proprio_dict", "visual_dict"),
    *("spec", "action_space", "observation_space", "_ezpickle_args", "_ezpickle_kwargs"),
    *("obs_keys", "rwd_keys_wt", "proprio_keys", "visual_keys"),
}

#: Modules of the objects below a task whose attributes belong to its state.
_OWNERS = ("robohive", "pink")

_TEXT_SIZE = 32

_NUMBERS = (bool, int, float, np.number, np.bool_)


def walk_attributes(env: Any) -> Iterator[tuple[Path, Any]]:
    """Yield path and value of every attribute of a task that is a number, an array, a list of numbers, text or None."""
    items = {name: value for name, value in vars(env).items() if name not in _SKIPPED}
    return _walk(items, (), {id(env)})


def _walk(owner: Any, path: Path, visited: set[int]) -> Iterator[tuple[Path, Any]]:
    for part, value in _children(owner):
        if _is_leaf(value):
            yield (*path, part), value
        elif _is_owner(value) and id(value) not in visited:
            visited.add(id(value))
            yield from _walk(value, (*path, part), visited)


def _children(owner: Any) -> list[tuple[str | int, Any]]:
    if isinstance(owner, dict):
        return list(owner.items())
    return list(enumerate(owner)) if isinstance(owner, list | tuple) else list(vars(owner).items())


def _is_leaf(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "fiub"
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(number, _NUMBERS) for number in value)
    return value is None or isinstance(value, (*_NUMBERS, str, enum.Enum))


def _is_owner(value: Any) -> bool:
    return isinstance(value, dict | list | tuple) or (
        type(value).__module__.split(".")[0] in _OWNERS and hasattr(value, "__dict__")
    )


def copy_value(value: Any) -> Any:
    """Return a value that later changes of the attribute do not reach."""
    return copy.deepcopy(value) if isinstance(value, np.ndarray | list) else value


def is_equal(left: Any, right: Any) -> bool:
    """Whether two values of an attribute have the same type and the same numbers."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    return bool(left == right) or (left != left and right != right)


def read_attribute(env: Any, path: Path) -> Any:
    """Return the value of an attribute; None if an object on its path is missing."""
    value = env
    for part in path:
        if not (hasattr(value, part) if isinstance(part, str) and not isinstance(value, dict) else True):
            return None
        value = getattr(value, part) if isinstance(part, str) and not isinstance(value, dict) else value[part]
    return value


def write_attribute(env: Any, path: Path, value: Any) -> None:
    """Set an attribute."""
    owner, part = read_attribute(env, path[:-1]), path[-1]
    if isinstance(part, str) and not isinstance(owner, dict):
        setattr(owner, part, value)
    else:
        owner[part] = value


@dataclass(frozen=True)
class Attribute:
    """An attribute of a task in a checkpoint.

    Attributes:
        path: Path of the attribute.
        example: A value; those in checkpoints have its type, dtype and shape.
        is_optional: Whether the value may be None, which only resets replace; NaN in checkpoints.
    """

    path: Path
    example: Any
    is_optional: bool = False

    @property
    def name(self) -> str:
        """Name in a checkpoint, ``"opponent_noise_process_idx"``."""
        return "_".join(map(str, self.path))

    @property
    def size(self) -> int:
        """Number of float64 numbers in a checkpoint."""
        return _TEXT_SIZE if isinstance(self.example, str) else int(np.size(self.example))

    def encode(self, value: Any) -> np.ndarray:
        """Return a value as float64 numbers.

        Raises:
            ValueError: The value has another type or shape than the example.
        """
        if value is None and self.is_optional:
            return np.full(self.size, np.nan)
        if type(value) is not type(self.example) or np.shape(value) != np.shape(self.example):
            msg = f"{self.name}: expected {_describe_type(self.example)}, got {_describe_type(value)}"
            raise ValueError(msg)
        if isinstance(value, str):
            text = value.encode()[:_TEXT_SIZE]
            return np.frombuffer(text.ljust(_TEXT_SIZE, b"\0"), np.uint8).astype(np.float64)
        if isinstance(value, enum.Enum):
            return np.array([list(type(value)).index(value)], np.float64)
        return np.array(value, np.float64).reshape(-1)

    def decode(self, numbers: np.ndarray) -> Any:
        """Return the value of float64 numbers.

        Raises:
            ValueError: No value of this attribute has these numbers.
        """
        if self.is_optional and np.isnan(numbers).all():
            return None
        require_numbers(self.name, numbers)
        example = self.example
        if isinstance(example, str):
            require_integers(self.name, numbers, 0, 127)
            return numbers.astype(np.uint8).tobytes().rstrip(b"\0").decode()
        if isinstance(example, enum.Enum):
            members = list(type(example))
            require_integers(self.name, numbers, 0, len(members) - 1)
            return members[int(numbers[0])]
        dtypes = [np.asarray(number).dtype for number in (example if isinstance(example, list | tuple) else [example])]
        for dtype in set(dtypes):
            if dtype.kind != "f":
                low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
                require_integers(self.name, numbers, low, high)
        if isinstance(example, np.ndarray):
            return numbers.astype(example.dtype).reshape(example.shape)
        if isinstance(example, list | tuple):
            return type(example)(type(kind)(number) for kind, number in zip(example, numbers, strict=True))
        return type(example)(numbers[0])


def require_integers(name: str, numbers: np.ndarray, low: int, high: int) -> None:
    """Raise ValueError if numbers are not integers from ``low`` to ``high``."""
    accepted = (numbers >= low) & (numbers <= high) & (numbers == np.floor(numbers))
    if not accepted.all():
        msg = f"{name} is {numbers[np.argmin(accepted)]:g}, expected an integer from {low} to {high}"
        raise ValueError(msg)


def _describe_type(value: Any) -> str:
    shape = list(np.shape(value))
    return f"{type(value).__name__}{shape if shape else ''}"
