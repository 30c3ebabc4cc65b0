"""Epochs of the DataLoader: every item once, in the same batches for any number of workers."""

import pytest
import torch

from rlhive.data.replay._dataloader import make_dataloader
from rlhive.data.replay._options import DataLoaderOptions
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import EpisodesTooShortError
from tests.data.replay.caches import assert_same, write_cache


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataloader_gives_every_transition_once_per_epoch_with_any_number_of_workers(tmp_path, num_workers):
    cache, _ = write_cache(tmp_path / "cache")
    everything = PackedStorage(cache).get(slice(None))
    loader = make_dataloader(PackedStorage(cache), DataLoaderOptions(batch_size=8, num_workers=num_workers, seed=3))
    plain = make_dataloader(PackedStorage(cache), DataLoaderOptions(batch_size=8, seed=3))

    assert len(loader) == 5
    orders = []
    for _ in range(2):
        epoch, expected = list(loader), list(plain)
        for got, wanted in zip(epoch, expected, strict=True):
            assert_same(got, wanted)
        orders.append(torch.cat([batch["next", "reward"] for batch in epoch]).flatten().tolist())
        assert sorted(orders[-1]) == sorted(everything["next", "reward"].flatten().tolist())
    assert orders[0] != orders[1]


def test_a_dataloader_of_windows_gives_every_window_once(tmp_path):
    cache, _ = write_cache(tmp_path / "cache")
    everything = PackedStorage(cache).get(slice(None))
    loader = make_dataloader(
        PackedStorage(cache), DataLoaderOptions(batch_size=6, slice_len=5, shuffle=False, drop_last=True)
    )
    expected = [
        start for start in range(30) if (everything["episode"][start : start + 5] == everything["episode"][start]).all()
    ]

    batches = list(loader)
    assert len(batches) == len(loader) == len(expected) // 6
    for number, batch in enumerate(batches):
        for got, start in zip(batch, expected[6 * number : 6 * number + 6], strict=True):
            assert_same(got, everything[start : start + 5])
    with pytest.raises(EpisodesTooShortError, match="got 12 at most"):
        make_dataloader(PackedStorage(cache), DataLoaderOptions(batch_size=6, slice_len=13))
