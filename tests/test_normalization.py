"""The normalisation rule: its numbers, its parts, and that every user of it gives the same bits."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.transforms import Compose, ObservationNorm

from rlhive.normalization import CLIP, ClippedObservationNorm, Normalizer, compute_scale, normalize


def test_the_normalizer_by_hand() -> None:
    normalizer = Normalizer(torch.tensor([1.0, 5.0, 1e6]), torch.tensor([2.0, 0.0, 1e-4]))
    normalized = normalizer(torch.tensor([[5.0, 5.0, 1e6], [1.0, 5.5, 1e6 + 1]], dtype=torch.float64))
    # the second element is constant and the third varies by rounding errors alone: shifted, not divided
    assert normalized.tolist() == [[2.0, 0.0, 0.0], [0.0, 0.5, 1.0]]
    assert normalized.dtype == torch.float32


def test_the_normalizer_clips_outliers() -> None:
    normalizer = Normalizer(torch.tensor([1.0]), torch.tensor([1e-6]))
    observations = torch.tensor([[2.0], [0.0], [1.0 + 5e-6]], dtype=torch.float64)
    assert normalizer(observations).flatten().tolist() == pytest.approx([10.0, -10.0, 5.0])


def test_the_normalizer_subtracts_before_it_rounds() -> None:
    normalizer = Normalizer(torch.tensor([1e8], dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64))
    assert normalizer(torch.tensor([1e8 + 3], dtype=torch.float64)).tolist() == [2.0]


def test_elements_that_do_not_vary_are_not_scaled() -> None:
    mean = torch.tensor([0.0, 0.0, 0.0, 1e8, 1e8, -1e8], dtype=torch.float64)
    std = torch.tensor([0.0, 1e-8, 1.1e-8, 1.0, 1.1, 1.0], dtype=torch.float64)
    assert compute_scale(mean, std).tolist() == [1.0, 1.0, 1.1e-8, 1.0, 1.1, 1.0]
    assert compute_scale(mean, compute_scale(mean, std)).equal(compute_scale(mean, std))
    assert compute_scale(mean.float(), std.float()).dtype == torch.float32


def test_normalize_clips_and_leaves_its_arguments_alone() -> None:
    value = torch.tensor([[0.0, -torch.inf], [torch.inf, torch.nan], [25.0, 3.0]], dtype=torch.float64)
    mean, scale = torch.tensor([5.0, 1.0], dtype=torch.float64), torch.tensor([0.5, 4.0], dtype=torch.float64)
    before = [tensor.clone() for tensor in (value, mean, scale)]
    expected = torch.tensor([[-CLIP, -CLIP], [CLIP, torch.nan], [CLIP, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(normalize(value, mean, scale), expected, rtol=0, atol=0, equal_nan=True)
    for tensor, copy in zip((value, mean, scale), before, strict=True):
        assert tensor.view(torch.int64).equal(copy.view(torch.int64))


def test_the_transform_is_torchrls_within_the_clip_and_keeps_the_dtype() -> None:
    mean, scale = torch.tensor([1.0, 1e8], dtype=torch.float64), torch.tensor([0.5, 2.0], dtype=torch.float64)
    options = {"in_keys": ["observation"], "standard_normal": True}
    ours = Compose(ClippedObservationNorm(loc=mean, scale=scale, **options))
    theirs = ObservationNorm(loc=mean, scale=scale, **options)
    value = torch.tensor([[3.0, 1e8 + 8], [1.25, 1e8 - 24]])
    exact = theirs(TensorDict({"observation": value.clone()}, [2]))["observation"]
    assert exact.tolist() == [[4.0, 4.0], [0.5, -12.0]]
    clipped = ours(TensorDict({"observation": value.clone()}, [2]))["observation"]
    assert clipped.tolist() == [[4.0, 4.0], [0.5, -10.0]]
    assert clipped.dtype == torch.float32
    assert isinstance(ours[0], ObservationNorm)
