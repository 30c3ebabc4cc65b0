"""Behaviour cloning: loss and update against numbers."""

import numpy as np
import pytest

from tests.sim_algos.algorithms.reference import evaluate_mlp, make_algorithm, make_batch, to_numpy


@pytest.mark.parametrize(
    ("loss_function", "distance"),
    [
        ("l1", np.abs),
        ("l2", np.square),
        ("smooth_l1", lambda error: np.where(np.abs(error) < 1, error**2 / 2, np.abs(error) - 0.5)),
    ],
)
def test_bc_loss_is_that_of_a_numpy_reference_and_one_step_follows_it(loss_function, distance) -> None:
    algorithm = make_algorithm("bc", f"loss.loss_function={loss_function}")
    batch = make_batch()
    rows = to_numpy(batch)
    predicted = np.tanh(evaluate_mlp(algorithm.actor, rows["s"]))
    expected = distance(predicted - rows["a"]).mean()
    assert algorithm.update(batch)["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert algorithm.update(batch)["loss"].item() < expected
