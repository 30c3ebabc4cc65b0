"""The episode ids of a buffer that grows: each trajectory gets one, and no id is given twice."""

from collections.abc import Mapping
from typing import Any

import torch

from rlhive.data._trajectories import OpenTrajectories, chunk_bounds, chunk_key
from rlhive.data._transition_batch import TransitionBatch


class EpisodeIds:
    """Gives episode ids to the rows of a buffer.

    Args:
        next_id: Smallest id that may be given.
        first_rows: Number of the row, counted over all rows that were ever written, with which each episode begins.
    """

    def __init__(self, next_id: int = 0, first_rows: Mapping[int, int] | None = None):
        self.next_id = next_id
        self._first_rows = dict(first_rows or {})
        # The id of every trajectory that has not ended.
        self._open: OpenTrajectories[int] = OpenTrajectories()

    def add_known(self, ids: torch.Tensor, row: int) -> None:
        """Note the ids of rows that have some and stand together, int64 ``[n]``; ``row`` is the number of the first."""
        for position, episode in enumerate(ids.tolist()):
            self._first_rows.setdefault(episode, row + position)
        self.next_id = max(self.next_id, int(ids.max()) + 1)

    def assign(self, batch: TransitionBatch, *, row: int, are_episodes: bool) -> torch.Tensor:
        """Give ids to the rows of a batch, which will be written one after the other.

        Args:
            batch: The batch.
            row: Number of its first row.
            are_episodes: Whether its trajectory ids are episode ids, to be kept where they are larger than all so far.

        Returns:
            The ids, int64 ``[envs * time]``; -1 for padding, which is not to be written.
        """
        episode_ids = torch.full((batch.num_envs, batch.num_steps), -1, dtype=torch.int64, device="cpu")
        ends, observed = batch.ends, batch.observed
        for env in range(batch.num_envs):
            for start, stop in chunk_bounds(batch, env, ends[env], has_discontinuities=True):
                chunk, key = batch.chunk(env, start, stop), chunk_key(batch, env, start, env_index=env)
                episode = self._open.pop_continued(key, chunk, observed)
                if episode is None:
                    if key[0] == "env":
                        self._open.pop(key)
                    episode = max(self.next_id, key[1]) if are_episodes else self.next_id
                    self.next_id = episode + 1
                    self._first_rows[episode] = row
                episode_ids[env, start:stop] = episode
                row += stop - start
                if not ends[env, stop - 1]:
                    self._open.keep(key, episode, chunk, observed)
        return episode_ids.reshape(-1)

    def forget_overwritten(self, num_overwritten: int) -> None:
        """Forget the episodes whose first row is one of the first ``num_overwritten`` ones."""
        if num_overwritten:
            self._first_rows = {episode: row for episode, row in self._first_rows.items() if row >= num_overwritten}

    def complete_ids(self) -> set[int]:
        """Return the episodes whose first row is still stored, or was when the others were forgotten."""
        return set(self._first_rows)

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint has. A trajectory does not go on after it: its environments are others."""
        return {"next_id": self.next_id, "first_rows": list(self._first_rows.items())}

    @classmethod
    def from_json(cls, state: Mapping[str, Any] | None, stored_ids: torch.Tensor) -> "EpisodeIds":
        """Return the ids after a checkpoint, without one (None) those after the stored rows."""
        after_stored = int(stored_ids.max()) + 1 if len(stored_ids) else 0
        if state is None:
            return cls(after_stored)
        return cls(max(after_stored, state["next_id"]), dict(state["first_rows"]))
