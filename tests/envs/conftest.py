"""What the tests of environments share."""

import pytest


@pytest.fixture(scope="session")
def opengl():
    """The room that owns OpenGL; skips where this machine has none."""
    from rlhive.envs import opengl
    from rlhive.errors import RenderingUnavailable

    try:
        opengl.context_class()
    except RenderingUnavailable as missing:
        pytest.skip(str(missing))
    return opengl
