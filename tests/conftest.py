"""Every test has a store of its own and no Hub; what is shared is built once."""

import os

# Read by huggingface_hub when it is imported, so they are set before anything of ours is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import pytest


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """An empty dataset store, which the environment variable names."""
    path = tmp_path / "store"
    monkeypatch.setenv("RLHIVE_DATASETS_PATH", str(path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    return path


@pytest.fixture(scope="session", autouse=True)
def _stop_workers():
    """End the worker processes that collect and evaluate keep for their next call."""
    yield
    from loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True, kill_workers=True)


@pytest.fixture(scope="session")
def opengl():
    """The room that owns OpenGL; skips where this machine has none."""
    # Before OpenGL: Mesa's LLVM and the one inside triton, which TorchRL imports, only get on in this order.
    import torchrl.envs  # noqa: F401

    from rlhive.envs import opengl
    from rlhive.errors import RenderingUnavailable

    try:
        opengl.context_class()
    except RenderingUnavailable as missing:
        pytest.skip(str(missing))
    return opengl
