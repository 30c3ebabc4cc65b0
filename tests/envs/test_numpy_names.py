"""NumPy 1's names in RoboHive's modules: where they are provided, where not, and that no other name is needed."""

import ast
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


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="NumPy 1 still has the names")
def test_robohive_needs_no_other_name():
    robohive = pytest.importorskip("robohive")
    folder = Path(robohive.__file__).parent

    lacking = {}
    for path in folder.rglob("*.py"):
        if "simhive" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np"
            if named and not hasattr(np, node.attr):
                lacking.setdefault(str(path.relative_to(folder)), set()).add(node.attr)
    assert lacking == NUMPY_1_NAMES
