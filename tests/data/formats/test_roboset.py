"""RoboHive logs, written by RoboHive's writer, compared with the values that its environment returned."""

import shutil

import h5py
import numpy as np
import pytest
import torch

pytest.importorskip("robohive")

from rlhive import RoboHiveDataset, keys
from rlhive.data.formats._convert import import_dataset
from rlhive.data.formats._roboset import read_roboset
from rlhive.errors import SchemaMismatchError, UnsupportedFormatError

ENV = "FrankaReachRandom-v0"
EPISODES, STEPS = 12, 6


class Truth:
    """What the environment returned, and the actions that it was given."""

    def __init__(self, env):
        self.env, self.episodes, self.generator = env, [], np.random.default_rng(0)

    def get_action(self, observation):
        action = self.generator.uniform(-1, 1, self.env.action_space.shape)
        self.episodes[-1]["actions"].append(action)
        return action, {"evaluation": action}

    def reset(self, **kwargs):
        self.episodes.append({"actions": [], "states": [], "rewards": [], "done": []})
        return type(self.env).reset(self.env, **kwargs)

    def step(self, action, **kwargs):
        kwargs.pop("update_exteroception", None)
        result = type(self.env).step(self.env, action, **kwargs)
        self.episodes[-1]["states"].append(result[0].copy())
        self.episodes[-1]["rewards"].append(result[1])
        self.episodes[-1]["done"].append(result[2])
        return result

    def forward(self, **kwargs):
        result = type(self.env).forward(self.env)
        if not self.episodes[-1]["states"]:
            self.episodes[-1]["states"].append(result[0].copy())
        return result


@pytest.fixture(scope="module")
def truth():
    from rlhive import RoboHiveEnv

    owner = RoboHiveEnv(ENV)
    env = owner.unwrapped
    env.seed(3)
    truth = Truth(env)
    env.reset, env.step, env.forward = truth.reset, truth.step, truth.forward
    yield truth
    owner.close()


@pytest.fixture(scope="module")
def log(truth, tmp_path_factory):
    """A file of RoboHive's current writer, in full precision."""
    trace = truth.env.examine_policy_new(truth, horizon=STEPS, num_episodes=EPISODES, render=None)
    path = tmp_path_factory.mktemp("roboset") / f"{ENV}.h5"
    trace.save(str(path), f_res=np.float64, verify_length=True)
    return path


@pytest.fixture
def copy(log, tmp_path):
    """A copy of the log to change, opened for writing."""
    path = tmp_path / log.name
    shutil.copy(log, path)
    with h5py.File(path, "r+") as h5:
        yield path, h5


def test_every_value_is_what_the_environment_returned(log, truth):
    source = read_roboset(log)
    records = list(source.records())
    assert source.num_episodes == len(records) == EPISODES
    assert source.env_name == ENV
    assert source.schema.columns == (
        "action",
        "next.reward",
        "next.terminated",
        "next.truncated",
        "observation",
        "success",
    )
    for record, expected in zip(records, truth.episodes, strict=True):
        np.testing.assert_array_equal(record.columns["action"], expected["actions"])
        states = np.array(expected["states"])
        np.testing.assert_array_equal(record.columns["observation"], states[:-1])
        np.testing.assert_array_equal(record.final["observation"], states[-1])
        np.testing.assert_array_equal(record.columns["next.reward"].ravel(), expected["rewards"])
        assert record.ended == "truncated"
        assert record.length == STEPS
        assert record.start_state["qpos"].shape == (9,)
    # Trial10 comes after Trial2, and ids count on.
    assert [record.metadata["trial"] for record in records] == [f"Trial{index}" for index in range(EPISODES)]


def test_an_end_of_the_task_is_terminated_one_row_earlier(copy):
    path, h5 = copy
    h5["Trial0/done"][-1] = True
    h5["Trial1/env_infos/solved"][3] = True
    h5.flush()
    first, second, *_ = read_roboset(path).records()
    assert first.columns["next.terminated"].ravel().tolist() == [False] * 5 + [True]
    assert not first.columns["next.truncated"].any()
    assert second.columns["success"].ravel().tolist() == [False, False, False, True, False, False]
    assert second.success


def test_pictures_and_half_precision(copy):
    path, h5 = copy
    pictures = np.random.default_rng(0).integers(0, 256, (STEPS + 1, 6, 8, 3), dtype=np.uint8)
    for trial in h5:
        h5[f"{trial}/env_infos/visual_dict/rgb:left_cam:6x8:2d"] = pictures
        halved = np.asarray(h5[f"{trial}/observations"]).astype(np.float16)
        del h5[f"{trial}/observations"]
        h5[f"{trial}/observations"] = halved
    h5.flush()
    source = read_roboset(path)
    record = next(source.records())
    np.testing.assert_array_equal(record.columns["pixels.left_cam"], pictures[:-1])
    np.testing.assert_array_equal(record.final["pixels.left_cam"], pictures[-1])
    assert record.columns["observation"].dtype == np.float32
    halved = np.asarray(h5["Trial0/observations"])
    np.testing.assert_array_equal(record.columns["observation"], halved[:-1].astype(np.float32))
    assert any("half precision" in note for note in source.notes)


def test_older_logs_hold_the_reward_in_the_row_of_its_action(copy, truth):
    path, h5 = copy
    as_paths(h5)
    source = read_roboset(path)
    assert "taken as they are" in source.notes[0]
    record, expected = next(source.records()), truth.episodes[0]
    np.testing.assert_array_equal(record.columns["next.reward"].ravel(), expected["rewards"])
    np.testing.assert_array_equal(record.columns["observation"], expected["states"][:-1])
    # Nothing but obs_dict holds the last state.
    np.testing.assert_array_equal(record.final["observation"], expected["states"][-1])


def test_a_final_observation_that_was_not_logged_is_not_invented(copy, truth):
    path, h5 = copy
    as_paths(h5)
    for trial in h5:
        del h5[f"{trial}/env_infos/obs_dict"]
    h5.flush()
    record = next(read_roboset(path).records())
    assert record.length == STEPS - 1
    np.testing.assert_array_equal(record.final["observation"], truth.episodes[0]["states"][-2])


def as_paths(h5):
    """Rewrite a log as `examine_policy` would have: every value in the row of the action that led to it."""
    for trial in h5.values():
        ahead = ["rewards", "done", *(f"env_infos/{name}" for name in ("time", "solved"))]
        ahead += [f"env_infos/obs_dict/{name}" for name in trial["env_infos/obs_dict"]]
        for name in (*ahead, "observations", "actions"):
            values = np.asarray(trial[name])
            del trial[name]
            trial[name] = values[1:] if name in ahead else values[:-1]
    h5.file.flush()


def test_a_file_of_ambiguous_alignment_is_refused_without_the_option(copy, truth):
    path, h5 = copy
    h5["Trial3/actions"][-1] = 0.0
    h5.flush()
    with pytest.raises(
        SchemaMismatchError, match="Trial3: cannot tell whether row t holds the reward of its own state"
    ):
        read_roboset(path)
    as_state, as_path = (list(read_roboset(path, alignment=side).records())[3] for side in ("state", "path"))
    rewards = truth.episodes[3]["rewards"]
    np.testing.assert_array_equal(as_state.columns["next.reward"].ravel(), rewards)
    np.testing.assert_array_equal(as_path.columns["next.reward"].ravel()[1:], rewards[:-1])


def test_episodes_of_several_files_are_numbered_consecutively(log, tmp_path, truth):
    for name in ("b_seed1", "a_seed0"):
        (tmp_path / ENV / name).mkdir(parents=True)
        shutil.copy(log, tmp_path / ENV / name / "rollouts.h5")
    folder = import_dataset(
        "roboset", tmp_path, "lab/reach", license="cc0-1.0", store=tmp_path / "store", progress=False
    )
    dataset = RoboHiveDataset(folder)
    assert dataset.env_name == ENV
    assert dataset.episodes["episode"].to_pylist() == list(range(2 * EPISODES))
    runs = {run["run"]: run for run in dataset.manifest.runs}
    assert [runs[run]["file"] for run in dataset.episodes["run"].to_pylist()[::EPISODES]] == [
        f"{ENV}/a_seed0/rollouts.h5",
        f"{ENV}/b_seed1/rollouts.h5",
    ]
    td = dataset.as_tensordict()
    np.testing.assert_array_equal(td[keys.NEXT_REWARD][:STEPS].flatten(), truth.episodes[0]["rewards"])
    assert td[keys.NEXT_DONE].sum() == 2 * EPISODES


def test_the_roboset_schema(tmp_path):
    from robohive.logger.roboset_logger import RoboSet_Trace

    generator = np.random.default_rng(1)
    trace = RoboSet_Trace("hardware")
    logged = []
    for trial in range(2):
        trace.create_group(f"Trial{trial}")
        logged.append([])
        for row in range(4):
            parts = {"qp_arm": generator.normal(size=7), "qv_arm": generator.normal(size=7), "qp_ee": np.float64(row)}
            datum = {
                "env_infos": {"obs_dict": {"time": np.array([row / 12.5]), **parts}},
                "actions": generator.normal(size=8),
                "rgb:left_cam": generator.integers(0, 256, (4, 6, 3), dtype=np.uint8),
            }
            logged[-1].append(datum)
            trace.append_datums(f"Trial{trial}", datum)
    path = tmp_path / "slide_open.h5"
    trace.save(str(path), f_res=np.float64)
    record = list(read_roboset(path).records())[1]
    assert record.length == 3
    assert keys.NEXT_REWARD not in record.columns
    np.testing.assert_array_equal(record.columns["action"], [row["actions"] for row in logged[1][:3]])
    np.testing.assert_array_equal(record.final["observation.qp_arm"], logged[1][3]["env_infos"]["obs_dict"]["qp_arm"])
    np.testing.assert_array_equal(record.columns["pixels.left"], [row["rgb:left_cam"] for row in logged[1][:3]])
    assert record.ended == "unfinished"


def test_a_file_that_is_not_a_log_is_refused(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"no HDF5")
    with h5py.File(tmp_path / "y.h5", "w") as h5:
        h5["Trial0/images"] = np.zeros(3)
    for source, words in [
        (tmp_path / "x.h5", "readable HDF5"),
        (tmp_path / "y.h5", "got images"),
        (tmp_path / "trace.pickle", "never loaded"),
        (tmp_path / "nothing", "no such path"),
    ]:
        with pytest.raises(SchemaMismatchError, match=words):
            read_roboset(source)
    with pytest.raises(UnsupportedFormatError, match="expected one of roboset"):
        import_dataset("hdf4", tmp_path, "a", license="mit", store=tmp_path)


def test_torchrls_loader_puts_rewards_a_row_too_early_and_gives_nan(log, tmp_path, truth, monkeypatch):
    """Why RLHive has a reader of its own, on the same file: TorchRL's own preprocessing, then IQL's losses on both."""
    from tensordict import TensorDict
    from torchrl.data.datasets.roboset import RobosetExperienceReplay

    monkeypatch.setattr(RobosetExperienceReplay, "data_path_root", str(tmp_path / "torchrl"))
    loader = object.__new__(RobosetExperienceReplay)
    theirs = RobosetExperienceReplay._preproc_h5(loader, [str(log)])
    folder = import_dataset("roboset", log, "lab/reach", license="cc0-1.0", store=tmp_path / "store", progress=False)
    ours = RoboHiveDataset(folder).as_tensordict()
    assert theirs["action"].isnan().any()
    assert not ours["action"].isnan().any()
    first = truth.episodes[0]["rewards"]
    np.testing.assert_array_equal(ours[keys.NEXT_REWARD][:STEPS].flatten(), first)
    assert not np.array_equal(theirs[keys.NEXT_REWARD][:STEPS].flatten(), first)
    losses = [iql_losses(TensorDict(pick(data), [len(data)])) for data in (ours, theirs)]
    assert torch.isfinite(losses[0]).all()
    assert losses[1].isnan().any()


def pick(data):
    names = ["observation", "action", *(("next", name) for name in ("observation", "reward", "done", "terminated"))]
    return {name: data[name].to(torch.float32) if data[name].is_floating_point() else data[name] for name in names}


def iql_losses(data):
    """Return TorchRL's three IQL losses for a batch."""
    from tensordict.nn import (
        InteractionType,
        NormalParamExtractor,
        ProbabilisticTensorDictModule,
        ProbabilisticTensorDictSequential,
        TensorDictModule,
    )
    from torch import nn
    from torchrl.modules import TanhNormal, ValueOperator
    from torchrl.objectives import IQLLoss

    torch.manual_seed(0)
    width, act = data["observation"].shape[-1], data["action"].shape[-1]
    net = nn.Sequential(nn.Linear(width, 2 * act), NormalParamExtractor())
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ProbabilisticTensorDictModule(
            ["loc", "scale"], ["action"], distribution_class=TanhNormal, default_interaction_type=InteractionType.RANDOM
        ),
    )

    class Critic(nn.Linear):
        def forward(self, action, observation):
            return super().forward(torch.cat([action, observation], -1))

    q = ValueOperator(Critic(width + act, 1), in_keys=["action", "observation"])
    v = ValueOperator(nn.Linear(width, 1), in_keys=["observation"])
    loss = IQLLoss(actor, q, v)
    loss.make_value_estimator(gamma=0.99)
    out = loss(data)
    return torch.stack([out["loss_actor"], out["loss_qvalue"], out["loss_value"]]).detach()
