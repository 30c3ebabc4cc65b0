"""Building RoboHive's environments by id: errors, warnings, and one build at a time where files are shared."""

import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from filelock import FileLock

from rlhive import keys
from rlhive.envs import _assets, _loading
from rlhive.errors import AssetsCorruptError, EnvNotFoundError, InvalidOptionError, RoboHiveMissingError
from tests.envs.asset_trees import TREE, installed, write


def test_an_unknown_environment_is_named_with_its_neighbours(make):
    with pytest.raises(EnvNotFoundError, match="FK1_Knob1OnRandom-v4"):
        make("FK1_Knob1OnRandom-v9")
    with pytest.raises(EnvNotFoundError, match=r"nearest FK1_Knob1OnRandom-v4, ") as raised:
        make("FK1_Knob1OnRandom-v44")
    assert "assets git" not in str(raised.value)
    with pytest.raises(EnvNotFoundError, match="not a RoboHive environment"):
        make("CartPole-v1")


def test_missing_assets_of_a_family_are_an_error_with_the_command_to_type(make):
    from rlhive.envs._assets import verify_assets
    from rlhive.envs._install import package_folder

    if verify_assets(package_folder() / "simhive").source == "git":
        pytest.skip("the assets from git hold every family; the ones from the package index lack Myo")
    with pytest.raises(RoboHiveMissingError, match="rlhive setup --assets git"):
        make("myoFingerReachRandom-v0")
    with pytest.raises(EnvNotFoundError, match=r"myoFingerReachRandom-v0 \(needs rlhive setup --assets git\)"):
        make("myoFingerReachRandom-v9")


@pytest.mark.parametrize("damaged", [False, True])
def test_a_model_that_cannot_be_compiled_names_damaged_or_missing_assets(make, package, monkeypatch, tmp_path, damaged):
    tree = write(package / "simhive", installed(TREE))
    record = {"source": "pypi", "tree_hash": _assets.tree_hash(tree), "known": True}
    write(tree, {"rlhive-assets.json": json.dumps(record).encode()})
    if damaged:
        write(tree, {"furniture_sim/oven.xml": b"<mujoco"})
    model = write(tmp_path, {"broken.xml": b"<mujoco><worldbody>"}) / "broken.xml"
    make("FrankaReachRandom-v0")
    monkeypatch.setattr(_loading, "package_folder", lambda: package)

    error, message = (
        (AssetsCorruptError, r"FrankaReachRandom-v0 in .*simhive are damaged.* XML .*Type: rlhive setup --assets pypi$")
        if damaged
        else (RoboHiveMissingError, r"^FrankaReachRandom-v0 lacks .*: XML .*Type: rlhive setup --assets git$")
    )
    with pytest.raises(error, match=message):
        make("FrankaReachRandom-v0", model_path=str(model))


@pytest.mark.parametrize("value", [0, -1, 2.5, "ten"])
@pytest.mark.parametrize("name", ["frame_skip", "max_episode_steps"])
def test_an_invalid_number_of_steps_is_refused(make, name, value):
    with pytest.raises(
        InvalidOptionError, match=f"{name} is {value!r}, expected an integer number of steps, 1 or more"
    ):
        make(**{name: value})


def test_models_that_robohive_writes_and_deletes_are_built_one_at_a_time(make):
    from rlhive.envs._install import package_folder

    make(seed=0)
    # The lock belongs to the open file, so another thread stands for another process.
    with ThreadPoolExecutor(1) as pool, FileLock(package_folder() / ".rlhive-build.lock") as lock:
        waiting = pool.submit(make, "rpFrankaRobotiqPoseRandom-v0", seed=0)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=2)
        lock.release()
        assert waiting.result(timeout=60).reset()[keys.OBSERVATION].isfinite().all()


def test_robohives_warnings_come_through_and_its_banners_do_not(make, capfd):
    from rlhive.envs._robohive import RoboHiveWarning

    with pytest.warns(RoboHiveWarning, match="Unused kwargs found"):
        make(nonsense=3)
    with pytest.warns(RoboHiveWarning, match="default interaction site"):
        make(interact_site="end_effector")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        make()
    assert capfd.readouterr() == ("", "")


def test_a_mujoco_that_reads_one_element_for_all_is_refused(make, monkeypatch):
    import mujoco
    import numpy as np

    # The arrays that MuJoCo 3.1.3 returns beside NumPy 2.
    broken = SimpleNamespace(flags=np.lib.stride_tricks.as_strided(np.zeros(4, np.uint8), strides=(0,)))
    make(seed=0)
    monkeypatch.setattr(mujoco, "MjvOption", lambda: broken)
    with pytest.raises(RoboHiveMissingError, match=r"first element of small arrays .* expected NumPy 1\.26"):
        make(seed=0)
