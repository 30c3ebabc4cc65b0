"""What every transition's place in its episode gives: returns to go, and the steps to the episode's start and end."""

import torch

from rlhive import keys
from rlhive.data.replay._gather import SINGLE_STEP, build_plans, require_rewards_to_sum, select_columns
from rlhive.data.replay._layout import PackedCache
from rlhive.data.replay._leaves import Leaves

#: Rewards are read in chunks of this many rows.
_CHUNK_ROWS = 65_536


def compute_returns_to_go(packed: PackedCache, rows: torch.Tensor, lengths: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return the discounted sum of the rewards from every transition to its episode's end.

    Args:
        packed: The cache.
        rows: Physical rows of the transitions, episode after episode, ``[N]``.
        lengths: Lengths of the episodes, ``[E]``.
        gamma: Discount; 1.0 for the plain sum.

    Returns:
        ``[N, *reward.shape]`` in the reward's dtype, summed from the end as TorchRL's ``reward2go`` does.

    Raises:
        SchemaMismatchError: No reward was recorded.
    """
    require_rewards_to_sum(packed, "return_to_go")
    plan = build_plans(packed, select_columns(packed, [keys.NEXT_REWARD]), SINGLE_STEP)[0]
    rewards: list[torch.Tensor] = []
    for chunk in torch.split(rows, _CHUNK_ROWS):
        entries = Leaves()
        plan.fill([entries], plan.gather(chunk, None, rows.device))
        rewards.append(entries[keys.NEXT][keys.REWARD].clone())
    returns = torch.cat(rewards)
    lengths = lengths.to(rows.device)
    last = lengths.cumsum(0) - 1
    for step in range(1, int(lengths.max())):
        position = (last - step)[lengths > step]
        returns[position] += gamma * returns[position + 1]
    return returns


def count_steps(lengths: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the steps since the episode's start and to its final row for all transitions, int32 ``[N]`` each."""
    first = lengths.cumsum(0) - lengths
    num_transitions = int(lengths.sum())
    first_of_each = torch.repeat_interleave(first, lengths).to(torch.int32)
    since_start = torch.arange(num_transitions, dtype=torch.int32, device="cpu") - first_of_each
    to_end = torch.repeat_interleave(lengths, lengths).to(torch.int32) - since_start
    return since_start.to(device), to_end.to(device)
