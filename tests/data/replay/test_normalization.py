"""Normalisation of a column: mean and scale from its statistics, and the transform that applies them."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.transforms import ObservationNorm

from rlhive.data._schema import Field, Schema
from rlhive.data.replay._normalization import mean_and_scale, observation_norm, resolve_normalization
from rlhive.errors import SchemaMismatchError
from rlhive.normalization import ClippedObservationNorm

VECTOR = Field("observation", "float32", (2,), observed=True)
IMAGE = Field("camera.depth", "float32", (4, 5, 3), observed=True)
WIDE = Field("features", "float64", (600,), observed=False)
COUNT = Field("count", "int64", (2,), observed=False)
STATISTICS = {
    "mean": [1.0, -2.0],
    "std": [0.5, 0.0],
    "min": [0.0, -2.0],
    "max": [3.0, -2.0],
    "q01": [0.5, -2.0],
    "q99": [1.5, -2.0],
}


def test_mean_and_scale_have_the_shape_of_the_statistics() -> None:
    mean, scale = mean_and_scale(VECTOR, STATISTICS)
    assert (mean.tolist(), scale.tolist()) == ([1.0, -2.0], [0.5, 1.0])
    assert mean.dtype == scale.dtype == torch.float64
    matrix = Field("pose", "float64", (2, 3), observed=True)
    mean, _ = mean_and_scale(matrix, {"mean": [0.0, 1, 2, 3, 4, 5], "std": [1.0] * 6})
    assert mean.tolist() == [[0, 1, 2], [3, 4, 5]]
    per_channel, scale = mean_and_scale(IMAGE, {"mean": [1.0, 2.0, 3.0], "std": [0.1, 0.0, 0.3]})
    assert (per_channel.tolist(), scale.tolist()) == ([1.0, 2.0, 3.0], [0.1, 1.0, 0.3])
    mean, scale = mean_and_scale(WIDE, {"mean": [4.0], "std": [2.0]})
    assert (mean.tolist(), scale.tolist()) == ([4.0] * 600, [2.0] * 600)


@pytest.mark.parametrize(
    ("how", "normalized"),
    [
        ("mean_std", [[-2.0, 0.0], [4.0, 0.5]]),
        ("min_max", [[-1.0, 0.0], [1.0, 0.5]]),
        ("quantiles", [[-2.0, 0.0], [4.0, 0.5]]),
    ],
)
def test_a_transform_normalises_a_key_and_its_twin_below_next(how, normalized) -> None:
    transform = observation_norm(VECTOR, STATISTICS, how=how)
    assert isinstance(transform, ObservationNorm)
    assert isinstance(transform, ClippedObservationNorm) == (how == "mean_std")
    value = torch.tensor([[0.0, -2.0], [3.0, -1.5]])
    batch = transform(TensorDict({"observation": value, "next": {"observation": value.flip(0)}}, batch_size=[2]))
    assert batch["observation"].tolist() == normalized
    assert batch["next", "observation"].tolist() == normalized[::-1]
    assert batch["observation"].dtype == torch.float32


def test_a_nested_key_that_is_not_observed_has_no_twin() -> None:
    action = Field("arm.action", "float32", (2,), observed=False)
    assert observation_norm(action, STATISTICS).in_keys == [("arm", "action")]
    assert observation_norm(IMAGE, {"mean": [0.0] * 3, "std": [1.0] * 3}).in_keys == [
        ("camera", "depth"),
        ("next", "camera", "depth"),
    ]


def test_every_form_of_normalize_gives_mean_and_scale_by_key() -> None:
    schema = Schema((IMAGE, COUNT, VECTOR))
    statistics = {"observation": STATISTICS, "camera.depth": {"mean": [0.0] * 3, "std": [2.0] * 3}}
    assert resolve_normalization(schema, False, statistics) == {}
    assert list(resolve_normalization(schema, True, statistics)) == ["observation"]
    pairs = resolve_normalization(schema, [("observation",), ("camera", "depth")], statistics)
    assert {key: scale.tolist() for key, (_, scale) in pairs.items()} == {
        "observation": [0.5, 1.0],
        ("camera", "depth"): [2.0, 2.0, 2.0],
    }
    given = resolve_normalization(schema, {("observation",): (torch.zeros(2), torch.tensor([0.0, 3.0]))}, {})
    assert given["observation"][1].tolist() == [1.0, 3.0]


def test_the_error_gives_the_reason_why_a_column_cannot_be_normalised() -> None:
    schema = Schema((COUNT, VECTOR))
    with pytest.raises(SchemaMismatchError, match=r"got count\. Pass normalize=\{'count': \(mean, std\)\}"):
        resolve_normalization(schema, ["count"], {})
    with pytest.raises(SchemaMismatchError, match=r"Normalising count \(int64\) by 'mean_std': expected floats"):
        mean_and_scale(COUNT, STATISTICS)
    with pytest.raises(SchemaMismatchError, match=r"by 'range': expected floats and mean_std, min_max, quantiles"):
        observation_norm(VECTOR, STATISTICS, how="range")
    with pytest.raises(SchemaMismatchError, match="expected finite q01 and q99 of observation"):
        observation_norm(VECTOR, {"mean": [0.0, 0.0], "std": [1.0, 1.0]}, how="quantiles")
    for infinite in ([1.0, None], [1.0, float("inf")], [float("nan"), 1.0]):
        with pytest.raises(SchemaMismatchError, match="expected finite mean and std of observation"):
            mean_and_scale(VECTOR, {"mean": [0.0, 0.0], "std": infinite})
