"""Fixtures of the environments' tests."""

import hashlib

import pytest

from rlhive.envs import _assets
from tests.envs.asset_trees import TREE, serve, wheel, write


@pytest.fixture(scope="module")
def make():
    """Build environments, the kitchen's first knob by default, and close them at the end of the module."""
    from rlhive.envs._robohive import RoboHiveEnv

    built = []

    def build(env_name="FK1_Knob1OnRandom-v4", **kwargs):
        built.append(RoboHiveEnv(env_name, **kwargs))
        return built[-1]

    yield build
    for env in built:
        env.close(raise_if_closed=False)


@pytest.fixture
def build(make):
    """Build an environment; skip where its assets are not installed."""
    from rlhive.errors import RoboHiveMissingError

    def build(env_name, **kwargs):
        try:
            return make(env_name, **kwargs)
        except RoboHiveMissingError as missing:
            pytest.skip(f"{missing}")

    return build


@pytest.fixture
def package(tmp_path):
    """A robohive package without assets."""
    return write(tmp_path / "site" / "robohive", {"__init__.py": b""})


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index of one wheel, which holds TREE; its hashes count as the recorded ones."""
    folder = tmp_path / "index"
    files = {f"robohive/simhive/{name}": data for name, data in TREE.items()}
    path = wheel(folder, "0.5.0", {"robohive/__init__.py": b"", **files})
    serve(monkeypatch, folder)
    monkeypatch.setattr(_assets, "ASSETS_WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    hashes = {_assets.tree_hash(write(tmp_path / "expected", TREE)): "pypi"}
    monkeypatch.setattr(_assets, "KNOWN_TREES", hashes)
    return folder
