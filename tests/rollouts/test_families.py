"""Collected datasets of every RoboHive family: the same for any number of workers, and replayed by the command line."""

import json
from dataclasses import replace

import pytest

from rlhive.data.versions import Manifest, export, read_records
from rlhive.envs import Recipe, Task
from rlhive.errors import RoboHiveMissingError
from rlhive.rollouts import _collect, collect
from tests.cli.conftest import invoke
from tests.envs import families

pytestmark = pytest.mark.slow


@pytest.fixture(params=families.ONE_EACH)
def task(request):
    """A task of three short episodes of random actions, in jobs of one episode."""
    from rlhive.envs import RoboHiveEnv

    try:
        RoboHiveEnv(request.param).close()
    except RoboHiveMissingError:
        pytest.skip(f"{request.param}: {families.NO_ASSETS}")
    recipe = Recipe("1.0.0", {"random": 3}, "mit")
    return Task("family", request.param, 10, "One of a family.", recipe, {"max_episode_steps": 10})


def test_collections_are_the_same_for_any_number_of_workers_and_replay_exactly(task, tmp_path, monkeypatch):
    monkeypatch.setattr(_collect, "EPISODES_PER_JOB", 1)
    one, two = (collect(task, num_workers=workers, store=tmp_path / str(workers), progress=False) for workers in (1, 2))
    manifest = Manifest.read(one)
    assert manifest.fingerprint == Manifest.read(two).fingerprint

    records = list(read_records(one, manifest, list(manifest.splits)))
    assert all(record.start_state and record.seed is not None for record in records)
    described = {"license": "mit", "version": "1.0.0", "schema": manifest.schema, "runs": manifest.runs}
    for name, stripped in {
        "org/state": [replace(record, seed=None) for record in records],
        "org/seed": [replace(record, start_state={}) for record in records],
    }.items():
        folder = export(stripped, name, env_name=manifest.env_name, store=tmp_path, **described)
        done = invoke("replay", folder, "--verify", "--workers", 1, "--json")
        certificate = json.loads(done.stdout)
        assert done.exit_code == 0, certificate
        assert certificate["verdict"] == "bit-exact"
        assert certificate["num_episodes"] == 3
