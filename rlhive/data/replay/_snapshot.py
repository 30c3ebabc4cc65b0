"""The transitions and the position of a growing replay buffer, saved as tensors and plain values, and restored."""

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torchrl.data import TensorDictReplayBuffer

from rlhive import keys
from rlhive.data.replay._episode_ids import EpisodeIds
from rlhive.data.replay._online import OnlineReplayBuffer

_EPISODES = "episodes"


def take_snapshot(buffer: TensorDictReplayBuffer) -> dict[str, Any]:
    """Return the content of a buffer that grows, which :func:`restore_snapshot` brings back.

    Returns:
        ``rows`` (tensors by column name, copies), the states of ``writer`` and ``sampler``, and the episode ids.
    """
    rows = buffer.storage.get(slice(0, len(buffer)))
    columns = {keys.key_to_column(key): torch.clone(value) for key, value in rows.items(True, True)}
    snapshot = {"rows": columns, "writer": buffer.writer.state_dict(), "sampler": buffer.sampler.state_dict()}
    if isinstance(buffer, OnlineReplayBuffer):
        snapshot[_EPISODES] = buffer._ids.to_json()
    return snapshot


def restore_snapshot(buffer: TensorDictReplayBuffer, snapshot: Mapping[str, Any]) -> None:
    """Replace the content of a buffer by that of a snapshot of a buffer of the same capacity."""
    columns = snapshot["rows"]
    num_rows = len(next(iter(columns.values())))
    rows = TensorDict({keys.column_to_key(name): value for name, value in columns.items()}, [num_rows])
    buffer.empty()
    buffer.storage.set(range(num_rows), rows)
    buffer.writer.load_state_dict(snapshot["writer"])
    buffer.sampler.load_state_dict(snapshot["sampler"])
    if isinstance(buffer, OnlineReplayBuffer):
        buffer._ids = EpisodeIds.from_json(snapshot[_EPISODES], rows[keys.EPISODE])
