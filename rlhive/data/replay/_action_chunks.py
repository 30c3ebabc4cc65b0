"""Action chunks: the next actions of an episode beside every transition, for policies that plan several actions."""

from dataclasses import replace

import torch

from rlhive import keys
from rlhive.data.replay._gather import SINGLE_STEP, Window, build_plans, select_columns
from rlhive.data.replay._layout import PackedCache
from rlhive.data.replay._leaves import Leaves


class ActionChunks:
    """Gather the actions of a transition and those that follow it in its episode.

    Args:
        packed: The cache.
        length: Number of actions.
        window: Its normalisation of the actions, if any, holds for the chunks as well.

    Raises:
        SchemaMismatchError: The schema has no action, or one of different lengths.
    """

    def __init__(self, packed: PackedCache, length: int, window: Window) -> None:
        columns = select_columns(packed, [keys.ACTION]) & {keys.ACTION}  # refuses a missing and a ragged one
        normalize: dict[keys.NestedKey, tuple[torch.Tensor, torch.Tensor]] = {
            key: numbers for key, numbers in window.normalize.items() if key == keys.ACTION
        }
        [self._plan] = build_plans(packed, columns, replace(SINGLE_STEP, normalize=normalize))
        self._length = length

    def gather(
        self, rows: torch.Tensor, steps_to_end: torch.Tensor, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy the chunks of some transitions.

        Args:
            rows: Physical rows of the transitions, ``[n]``.
            steps_to_end: Steps to the row of the episode's final observation, ``[n]``, at least 1.
            device: Device of the result.

        Returns:
            Actions ``[n, length, *action.shape]``, of which those after the episode's last repeat it, and a mask
            ``[n, length]``, True for actions of the episode.
        """
        steps = torch.arange(self._length, device=rows.device)
        remaining = steps_to_end.unsqueeze(1)
        chunk_rows = rows.unsqueeze(1) + torch.minimum(steps, remaining - 1)
        entries = Leaves()
        self._plan.fill([entries], self._plan.gather(chunk_rows.view(-1), None, device))
        actions = entries[keys.ACTION]
        return actions.unflatten(0, (-1, self._length)), (steps < remaining).to(device)
