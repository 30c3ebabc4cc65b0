"""Training on several ranks gives what one process gives with the same batches."""

import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest
import torch

from rlhive.errors import InvalidOptionError
from rlhive.sim_algos import train
from rlhive.sim_algos._ranks import Ranks
from tests.sim_algos.toy import QUICK

EXACT = [*QUICK, "train.num_steps=60", "train.batch_size=64", "train.log_every=10", "split=null"]


def train_as_rank(rank, address, world_size, model, folder, overrides=(), num_seeds=1, resume=None):
    """Train as one of several ranks; return the learning curve."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
    try:
        options = {"num_seeds": num_seeds, "output_dir": folder, "resume": resume}
        result = train(model, "toy_point", overrides=[*EXACT, *overrides], **options)
        return [list(curve) for curve in result.curves]
    finally:
        torch.distributed.destroy_process_group()


def train_on_ranks(world_size, tmp_path, model, folder, **options):
    """Return the learning curve that each rank saw."""
    address = (tmp_path / f"rendezvous-{world_size}-{folder.name}").as_uri()
    job = partial(train_as_rank, address=address, world_size=world_size, model=model, folder=folder, **options)
    with ProcessPoolExecutor(world_size, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(job, range(world_size)))


def drop_seconds(curves):
    return [[{name: value for name, value in row.items() if name != "seconds"} for row in curve] for curve in curves]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bc", "iql", "td3_bc"])
def test_the_curve_of_two_ranks_is_that_of_one_process(filled, tmp_path, model):
    overrides = ["loss.policy_noise=0"] if model == "td3_bc" else []
    single = train(model, "toy_point", overrides=[*EXACT, *overrides], num_seeds=2, output_dir=tmp_path / "one")
    ranks = train_on_ranks(2, tmp_path, model, tmp_path / "two", overrides=overrides, num_seeds=2)

    assert drop_seconds(ranks[0]) == drop_seconds(ranks[1])
    for curve, expected in zip(drop_seconds(ranks[0]), drop_seconds(single.curves), strict=True):
        assert len(curve) == 6
        for row, expected_row in zip(curve, expected, strict=True):
            assert row == pytest.approx(expected_row, rel=1e-3, abs=1e-5)
    policies = [torch.load(tmp_path / name / "seed_1" / "policy.pt", weights_only=True) for name in ("one", "two")]
    for value, expected in zip(policies[1].values(), policies[0].values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_training_that_one_process_began_goes_on_on_two_ranks(filled, tmp_path):
    def stop(step, policy):
        if step == 40:
            raise KeyboardInterrupt

    overrides = ["train.save_every=30", "train.eval_every=20"]
    whole = train("iql", "toy_point", overrides=[*EXACT, *overrides], output_dir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train("iql", "toy_point", overrides=[*EXACT, *overrides], output_dir=tmp_path / "cut", callback=stop)
    ranks = train_on_ranks(2, tmp_path, "iql", tmp_path / "cut", overrides=overrides, resume="auto")

    assert ranks[0][0][2]["seconds"] == ranks[1][0][2]["seconds"], "the row of step 30 is not that of the first process"
    for row, expected in zip(drop_seconds(ranks[0])[0], drop_seconds(whole.curves)[0], strict=True):
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_torchrun_writes_one_run(filled, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "rlhive.cli", "train", "+model=bc", "+dataset=toy_point", *EXACT]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    [run] = (tmp_path / "outputs" / "bc").iterdir()

    assert json.loads((run / "checkpoint.json").read_text())["step"] == 60
    assert done.stderr.count("Checkpoint written to") + done.stdout.count("Checkpoint written to") <= 1


@pytest.mark.slow
def test_an_odd_number_of_transitions_is_refused_on_every_rank(filled, tmp_path):
    with pytest.raises(InvalidOptionError, match=r"train\.batch_size=63: expected a multiple of 2"):
        train_on_ranks(2, tmp_path, "bc", tmp_path / "run", overrides=["train.batch_size=63"])


def test_an_algorithm_that_collects_is_refused_on_several_ranks(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidOptionError, match="sac collects episodes: expected one process, got several ranks"):
        train("sac", env="toy_point", overrides=["progress=false"], output_dir=tmp_path)


def test_parts_of_a_batch_are_equal_slices_and_a_single_rank_has_all():
    batch = torch.arange(6)
    assert [Ranks(rank, 3).split(batch).tolist() for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert Ranks().split(batch) is batch
    with pytest.raises(InvalidOptionError, match="expected a multiple of slices of 4 for each of 3 ranks"):
        Ranks(0, 3).require_divisible(32, 4)
