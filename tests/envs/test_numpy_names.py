"""NumPy 1's names in RoboHive's modules: where they are provided, where not, and that no other name is needed."""

import importlib.util
import json
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

from rlhive.envs._numpy_names import provide_numpy_names

#: Where RoboHive uses names that NumPy 2 lacks: the kitchens' base class, and a viewer of its command line.
NUMPY_1_NAMES = {"envs/multi_task/multi_task_base_v1.py": {"product"}, "utils/examine_sim.py": {"float"}}


def test_only_the_module_that_needs_the_name_has_it():
    module, other = types.ModuleType("needs"), types.ModuleType("other")
    module.np = other.np = np
    before = dict(vars(np))

    provide_numpy_names(module)
    first = module.np
    provide_numpy_names(module)

    assert module.np is first
    assert module.np.product is np.prod
    assert module.np.linalg.norm is np.linalg.norm
    assert other.np is np
    assert dict(vars(np)) == before


def test_a_kitchens_reward_takes_no_deprecated_name(make):
    env = make(seed=0)
    from robohive.envs.multi_task import multi_task_base_v1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rewards = env.unwrapped.get_reward_dict(env.unwrapped.get_obs_dict(env.unwrapped.sim))
    assert rewards["bonus"] == 0.0
    assert multi_task_base_v1.np is not np
    assert not hasattr(np, "product") or np.product is not np.prod


def test_robohive_needs_no_other_name():
    """Ruff's rules know the names that NumPy removed, so that this runs beside NumPy 1, which still has them."""
    spec = importlib.util.find_spec("robohive")
    if spec is None:
        pytest.skip("RoboHive is not installed: rlhive setup")
    folder = Path(spec.origin).parent
    command = ["check", "--isolated", "--no-respect-gitignore", "--select", "NPY001,NPY201", "--output-format", "json"]
    ran = subprocess.run(
        [Path(sys.executable).with_name("ruff"), *command, "--exclude", "simhive", folder],
        capture_output=True,
        text=True,
    )
    lacking = {}
    for finding in json.loads(ran.stdout):
        name = re.search(r"`np\.(\w+)`", finding["message"])[1]
        lacking.setdefault(str(Path(finding["filename"]).relative_to(folder)), set()).add(name)
    assert lacking == NUMPY_1_NAMES
