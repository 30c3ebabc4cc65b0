"""Several processes: ranks of torch.distributed share every batch, and one of many packs the cache."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest
import torch

from rlhive import RoboHiveDataset

pytestmark = pytest.mark.slow


def read_as_rank(rank, address, world_size):
    """Return the order of the rewards in an epoch of this rank, and those that its buffer samples."""
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
    dataset = RoboHiveDataset("toy_point")
    epoch = [batch["next", "reward"].flatten().tolist() for batch in dataset.as_dataloader(64, seed=3)]
    sampled = dataset.as_replay_buffer(16, seed=3).sample()["next", "reward"].flatten().tolist()
    torch.distributed.destroy_process_group()
    return epoch, sampled


def pack(barrier):
    """Open the dataset at the same time as the other processes; return how often this one packed it."""
    from rlhive.data.replay import _cache

    calls, build = [], _cache._build_cache
    _cache._build_cache = lambda *arguments: calls.append(1) or build(*arguments)
    barrier.wait()
    assert len(RoboHiveDataset("toy_point").as_storage()) > 0
    return len(calls)


def test_ranks_of_torch_distributed_share_every_batch(filled, tmp_path):
    dataset = RoboHiveDataset("toy_point")
    plain = [batch["next", "reward"].flatten().tolist() for batch in dataset.as_dataloader(64, seed=3)]
    address = (tmp_path / "rendezvous").as_uri()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        ranks = list(pool.map(partial(read_as_rank, address=address, world_size=2), range(2)))

    assert [first + second for first, second in zip(ranks[0][0], ranks[1][0], strict=True)] == plain
    assert ranks[0][1] == dataset.as_replay_buffer(16, seed=3).sample()["next", "reward"].flatten().tolist()
    assert ranks[0][1] != ranks[1][1]


def test_one_of_eight_processes_that_start_at_once_packs_and_the_others_wait(filled):
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(8, mp_context=context) as pool:
        counts = list(pool.map(pack, [manager.Barrier(8)] * 8))

    assert sorted(counts) == [0] * 7 + [1]
