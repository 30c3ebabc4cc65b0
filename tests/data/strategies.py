"""Test episodes: nested observations, several dtypes, special float values, terminated, truncated and unfinished."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import strategies as st
from tensordict import TensorDict

from rlhive import keys
from rlhive.data._episodes import EpisodeRecord, pack
from rlhive.data._schema import Schema

OBSERVED = {
    "observation": (torch.float64, (3,)),
    "success": (torch.bool, (1,)),
    "parts.camera": (torch.uint8, (2, 3, 3)),
    "parts.half": (torch.float16, (2,)),
    "count": (torch.int32, ()),
}
PLAIN = {"action": (torch.float32, (2,)), "gripper": (torch.int64, (1,))}
SPECIAL_VALUES = (0.0, -0.0, 1.0, -1.5, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"))


def transitions(length: int, seed: int, *, ended: str = "truncated") -> TensorDict:
    """Return TED transitions of one episode whose values are a function of the seed."""
    generator = np.random.default_rng(seed)
    td = TensorDict({}, [length])
    for name, (dtype, shape) in OBSERVED.items():
        states = _values(generator, dtype, (length + 1, *shape))
        key = keys.column_to_key(name)
        td[key] = states[:-1]
        td[(keys.NEXT, *((key,) if isinstance(key, str) else key))] = states[1:].clone()
    for name, (dtype, shape) in PLAIN.items():
        td[name] = _values(generator, dtype, (length, *shape))
    td[keys.NEXT_REWARD] = torch.from_numpy(generator.normal(size=(length, 1)))
    for flag in keys.END_FLAGS:
        td[flag] = torch.zeros(length, 1, dtype=torch.bool)
        td[keys.NEXT, flag] = torch.zeros(length, 1, dtype=torch.bool)
    if ended != "unfinished":
        td[keys.NEXT, ended][-1] = True
        td[keys.NEXT_DONE][-1] = True
    return td


def records(lengths: list[int], *, splits: tuple[str, ...] = ("a", "b"), ended: str = "truncated"):
    """Return the schema and one record per length, with ids 3, 6, 9, … and alternating splits."""
    schema = Schema.from_tensordict(transitions(1, 0))
    made = []
    for index, length in enumerate(lengths):
        columns, final = pack(transitions(length, index, ended=ended), schema, context=f"episode {index}")
        made.append(
            EpisodeRecord(
                episode=3 * (index + 1),
                split=splits[index % len(splits)],
                columns=columns,
                final=final,
                seed=index if index % 3 else None,
                start_state={"qpos": np.array([index, -0.0, np.pi]), "time": np.array([0.5])},
                policy="expert",
                run="run",
                metadata={"note": f"№ {index}"},
            )
        )
    return schema, made


def same(left: EpisodeRecord, right: EpisodeRecord) -> bool:
    """Return whether two records agree bit for bit, except for their runs; cached hashes are computed again."""
    return replace(left).identity() == replace(right).identity()


lengths = st.lists(st.integers(1, 12), min_size=1, max_size=6)
endings = st.sampled_from(["terminated", "truncated", "unfinished"])


def _values(generator: np.random.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    if dtype.is_floating_point:
        values = generator.normal(size=shape)
        is_special = generator.random(shape) < 0.2
        values = np.where(is_special, generator.choice(SPECIAL_VALUES, size=shape), values)
        # The cast of 1.8e308 to a smaller float type is an infinity, on purpose.
        return torch.from_numpy(np.asarray(values)).to(dtype)
    if dtype is torch.bool:
        return torch.from_numpy(generator.random(shape) < 0.5)
    return torch.from_numpy(np.asarray(generator.integers(0, 100, shape))).to(dtype)


def teleoperated(length: int, seed: int) -> TensorDict:
    """Return what a teleoperated robot gives of one episode: joint positions and actions, no reward and no flags."""
    generator = np.random.default_rng(seed)
    states = torch.from_numpy(generator.normal(size=(length + 1, 7)))
    actions = torch.from_numpy(generator.normal(size=(length, 7)))
    return TensorDict({"observation": states[:-1], "action": actions, "next": {"observation": states[1:]}}, [length])


def teleoperated_records(lengths: list[int]) -> list[EpisodeRecord]:
    """Return one record of :func:`teleoperated` per length, with neither seed nor start state."""
    made = []
    for episode, length in enumerate(lengths):
        td = teleoperated(length, episode)
        flags = {name: np.zeros((length, 1), bool) for name in ("next.terminated", "next.truncated")}
        columns = {"action": td["action"].numpy(), "observation": td["observation"].numpy(), **flags}
        final = {"observation": td["next", "observation"][-1].numpy()}
        made.append(EpisodeRecord(episode=episode, split="train", columns=columns, final=final))
    return made
