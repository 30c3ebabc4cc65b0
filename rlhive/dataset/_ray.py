"""A view on a Ray cluster: as a ``ray.data.Dataset``, and as a replay buffer in an actor. Needs Ray."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from torchrl.data.replay_buffers.ray_buffer import RayReplayBuffer

from rlhive import keys
from rlhive._ray import connect_ray
from rlhive.data import store_dir
from rlhive.data.replay import DatasetReplayBuffer, ReadOptions, SamplingOptions, replay_buffer_arguments
from rlhive.data.versions import EpisodeBlock, iterate_blocks
from rlhive.dataset._loaders import load_storage, load_table
from rlhive.dataset._view import DatasetView


def load_ray_dataset(view: DatasetView) -> ray.data.Dataset:
    """Return the transitions of a view as a Ray dataset, in blocks of whole episodes; nothing is read yet."""
    connect_ray()
    tasks = _plan_read(_locate(view))
    if not tasks:
        return ray.data.from_arrow(load_table(view))
    # As many blocks as tasks, and no limit on their size: Ray would cut blocks to make more or smaller ones.
    dataset = ray.data.read_datasource(EpisodeDatasource(tasks), override_num_blocks=len(tasks))
    dataset.context.target_max_block_size = None
    return dataset


class EpisodeDatasource(Datasource):
    """Ray's source of blocks of whole episodes, a task for each.

    Args:
        tasks: The tasks.
    """

    def __init__(self, tasks: Sequence[ReadTask]):
        super().__init__()  # type: ignore[no-untyped-call]
        self._tasks = list(tasks)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Return the tasks, which cannot be divided, whatever parallelism Ray asks for."""
        if per_task_row_limit is None:
            return self._tasks
        return [ReadTask(task.read_fn, task.metadata, per_task_row_limit=per_task_row_limit) for task in self._tasks]

    def estimate_inmemory_data_size(self) -> None:
        """Return None: the size is not known before a block is read."""
        return


def _plan_read(view: DatasetView) -> list[ReadTask]:
    """Return a task for each block that holds an episode of the view."""
    selected_ids = None if view.selection is None else np.array(view.episode_ids(), np.int64)
    tasks = []
    for block, episodes in iterate_blocks(view.folder, view.manifest, view.stored_splits, view.require_shards()):
        episode_ids, lengths = episodes[keys.EPISODE].to_numpy(), episodes["length"].to_numpy()
        is_selected = np.ones(len(episodes), bool) if selected_ids is None else np.isin(episode_ids, selected_ids)
        if is_selected.any():
            read = partial(_read_block, block, None if is_selected.all() else episode_ids[is_selected])
            metadata = BlockMetadata(
                num_rows=int(lengths[is_selected].sum()),
                size_bytes=None,
                exec_stats=None,
                input_files=(str(block.folder / block.entry.path),),
            )
            tasks.append(ReadTask(read, metadata))
    return tasks


def _read_block(block: EpisodeBlock, episode_ids: np.ndarray | None) -> Iterable[pa.Table]:
    """Yield the rows of some episodes of a block, or of all, as one table."""
    rows = block.read()
    yield rows if episode_ids is None else rows.filter(np.isin(rows[keys.EPISODE].to_numpy(), episode_ids))


class ActorReplayBuffer(DatasetReplayBuffer):
    """The replay buffer of a view, made in the process that it serves from: only the view is sent there.

    Args:
        view: The view, whose folder this process must see.
        options: What to read.
        sampling: How to sample.
        delayed_init: False; TorchRL passes it to the buffers that it serves.
    """

    def __init__(
        self, *, view: DatasetView, options: ReadOptions, sampling: SamplingOptions, delayed_init: bool = False
    ):
        super().__init__(**replay_buffer_arguments(load_storage(view, options), sampling), delayed_init=delayed_init)


def load_ray_buffer(
    view: DatasetView, options: ReadOptions, sampling: SamplingOptions, *, num_cpus: float
) -> RayReplayBuffer:
    """Return TorchRL's client of a replay buffer that samples from a view in an actor of the Ray cluster."""
    connect_ray()
    # What is wrong with the options is an error here; from an actor it would come as a text of Ray's.
    replay_buffer_arguments(load_storage(view, replace(options, device="cpu", in_memory=False)), sampling)
    return RayReplayBuffer(
        replay_buffer_cls=ActorReplayBuffer,
        remote_config={"num_cpus": num_cpus},
        view=_locate(view),
        options=options,
        sampling=sampling,
    )


def _locate(view: DatasetView) -> DatasetView:
    """Return the view for processes with another environment and working directory: its paths are complete."""
    return replace(view, folder=view.folder.absolute(), store=(view.store or store_dir()).absolute())
