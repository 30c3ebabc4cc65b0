"""What a training reads instead of ``observation``, and the checkpoints of policies that read it."""

import json

import pytest
import torch

from rlhive import (
    Recorder,
    RoboHiveDataset,
    RoboHiveEnv,
    evaluate,
    load_policy,
    make_config,
    make_env,
    train,
    train_on_buffer,
)
from rlhive.errors import (
    CheckpointMismatchError,
    InvalidOptionError,
    RenderingUnavailableError,
    SchemaMismatchError,
)
from rlhive.policies import read_checkpoint
from rlhive.policies._checkpoint import CHECKPOINT_FILE
from rlhive.rollouts import rollout_episode
from tests.sim_algos.toy import PIXEL_OPTIONS, QUICK_SAC, collect_pixels

QUICK = ["train.num_steps=3", "train.batch_size=8", "logger=null", "network.hidden_sizes=[8]"]


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """Folder of the toy with pictures."""
    return collect_pixels(tmp_path_factory.mktemp("pixels"), expert=3, random=3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "has pictures .pixels., which bc cannot read without an encoder: add encoder=cnn, or obs_keys="),
        (["obs_keys=[pixels]"], "obs_keys=.'pixels'. and encoder=None: expected pictures together .* add encoder=cnn"),
        (["encoder=cnn", "obs_keys=[goal]"], "and encoder=cnn: expected pictures .*; pictures here: pixels"),
        (
            ["encoder=cnn", "obs_keys=[pixels,gaol]"],
            "no observation 'gaol', expected some of goal, observation, pixels",
        ),
        (["encoder=cnn", "obs_keys=[pixels,pixels]"], "no observation twice"),
        (["encoder=cnn", "obs_keys=pixels"], "obs_keys: expected a list of names"),
        (
            ["encoder=cnn", "encoder.image_size=[8,8]"],
            "image_size=.8, 8.: robohive/toy_pixels 1.0.0 holds its pictures",
        ),
        (["encoder=r3m"], "no embeddings of pixels by r3m resnet18 at 244 px. Compute them: rlhive embed"),
        (["encoder=r3n"], "encoder=r3n: expected one of cnn, r3m, torchvision, vip, or null. Did you mean r3m"),
        (["encoder.lr=1"], "bc has no option encoder.lr"),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_is_written(tmp_path, pixels, overrides, message) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        train("bc", pixels, overrides=[*QUICK, *overrides], output_dir=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_an_encoder_without_pictures_is_refused(tmp_path, filled) -> None:
    with pytest.raises(InvalidOptionError, match=r"toy_point 1\.0\.0 has no pictures for the encoder"):
        train("bc", "toy_point", overrides=[*QUICK, "encoder=cnn"], output_dir=tmp_path / "run", progress=False)


def test_vectors_are_joined_in_the_order_of_their_names(tmp_path, pixels) -> None:
    overrides = [*QUICK, "obs_keys=[goal,observation]", "split=null"]
    result = train("bc", pixels, overrides=overrides, output_dir=tmp_path, progress=False)
    policy = load_policy(result.checkpoint)
    rows = RoboHiveDataset(pixels).as_tensordict()
    joined = torch.cat([rows["goal"], rows["observation"]], -1)
    normalizer = policy.module[0].normalizer
    assert policy.in_keys == ["goal", "observation"]
    assert torch.allclose(normalizer.mean, joined.mean(0))
    assert torch.allclose(normalizer.std, joined.std(0, correction=0))
    action = policy(rows.clone())["action"]
    assert torch.equal(action, policy.module[1](normalizer(joined)))


def test_a_policy_of_pictures_acts_in_an_environment_that_returns_them(tmp_path, pixels) -> None:
    overrides = [*QUICK, "encoder=cnn", *PIXEL_OPTIONS, "obs_keys=[pixels,goal]"]
    result = train("bc", pixels, overrides=overrides, output_dir=tmp_path, progress=False)
    record = read_checkpoint(result.checkpoint)
    assert record["env_kwargs"]["image_size"] == [16, 32]
    policy = load_policy(result.checkpoint)
    assert policy.in_keys == ["goal", "pixels"]
    evaluation = evaluate(result.checkpoint, "toy_point", num_episodes=2, num_workers=1, progress=False)
    again = evaluate(policy, "toy_point", num_episodes=2, num_workers=1, progress=False)
    env = make_env("toy_point", **policy.env_kwargs)
    by_hand = [rollout_episode(env, policy, seed=1_000_000 + index).episode_return for index in range(2)]
    assert list(evaluation.returns) == list(again.returns) == by_hand
    with pytest.raises(CheckpointMismatchError, match=r"its policy reads goal, expected shape \[1\], got no such key"):
        load_policy(result.checkpoint, env=make_env("toy_point"))
    with pytest.raises(
        CheckpointMismatchError, match=r"reads pixels, expected shape \[1, 16, 32, 3\], got shape \[1, 8"
    ):
        load_policy(
            result.checkpoint, env=make_env("toy_point", from_pixels=True, image_size=(8, 8), obs_keys=["goal"])
        )


def test_pictures_that_a_policy_does_not_read_are_not_rendered(tmp_path, pixels) -> None:
    overrides = [*QUICK, "obs_keys=[observation]"]
    result = train("bc", pixels, overrides=overrides, output_dir=tmp_path, progress=False)
    env_kwargs = load_policy(result.checkpoint).env_kwargs
    env = make_env("toy_point", **env_kwargs)
    assert "pixels" not in env.observation_spec
    assert env_kwargs == {"obs_keys": ["goal"], "from_pixels": False}
    assert evaluate(result.checkpoint, "toy_point", num_episodes=1, num_workers=1, progress=False).num_episodes == 1


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("env_kwargs", {"config_path": "/etc/passwd"}, "expected env_kwargs of"),
        ("env_kwargs", [1], "expected env_kwargs of"),
        ("inputs", 3, "inputs: expected an object"),
        ("inputs", {"vectors": {"goal": 1}, "pictures": {"pixels": [1, 16, 32, 4]}, "encoder": {}}, "colour pictures"),
        ("inputs", {"vectors": {"goal": -1}, "pictures": {}, "encoder": None}, "a size of at least 1"),
        ("inputs", {"vectors": {"a\x1b": 1}, "pictures": {}, "encoder": None}, "expected the name of a key"),
        ("inputs", {"vectors": {}, "pictures": {"pixels": [9, 9, 3]}, "encoder": None}, "inputs.encoder"),
        ("inputs", {"vectors": {}, "pictures": {"pixels": [9, 9, 3]}, "encoder": {"name": "os"}}, "encoder.name"),
        ("inputs", {"vectors": {str(i): 1 for i in range(99)}, "pictures": {}, "encoder": None}, "at most 64"),
    ],
)
def test_a_hostile_checkpoint_builds_nothing(tmp_path, pixels, entry, value, message) -> None:
    overrides = [*QUICK, "encoder=cnn", *PIXEL_OPTIONS, "obs_keys=[pixels,goal]"]
    folder = train("bc", pixels, overrides=overrides, output_dir=tmp_path, progress=False).checkpoint
    path = folder / CHECKPOINT_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {entry: value}))
    with pytest.raises(CheckpointMismatchError, match=message):
        load_policy(folder)


def test_episodes_with_pictures_are_collected_as_the_options_say(tmp_path) -> None:
    overrides = [*QUICK_SAC, "train.num_steps=4", "encoder=cnn", *PIXEL_OPTIONS, "encoder.image_size=[16,20]"]
    overrides += ["obs_keys=[goal,pixels]"]
    result = train("sac", env="toy_point", overrides=overrides, output_dir=tmp_path, progress=False)
    record = read_checkpoint(result.checkpoint)
    assert record["env_kwargs"] == {"obs_keys": ["goal"], "from_pixels": True, "image_size": [16, 20]}
    assert record["inputs"]["pictures"] == {"pixels": [1, 16, 20, 3]}
    assert evaluate(result.checkpoint, "toy_point", num_episodes=1, num_workers=1, progress=False).num_episodes == 1


def test_a_buffer_that_normalises_is_refused_beside_obs_keys(tmp_path, pixels) -> None:
    buffer = RoboHiveDataset(pixels).as_replay_buffer(8, normalize=True)
    for overrides in (["encoder=cnn", *PIXEL_OPTIONS], ["obs_keys=[goal]"]):
        config = make_config("bc", overrides=[*QUICK, *overrides])
        with pytest.raises(SchemaMismatchError, match="expected one without normalize= beside obs_keys or an encoder"):
            train_on_buffer(buffer, config, env_name="ToyPoint-v0", output_dir=tmp_path)


@pytest.mark.slow
def test_the_cameras_of_a_recording_are_those_of_the_policy(store, tmp_path) -> None:
    pytest.importorskip("robohive")
    options = {"cameras": ["left_cam"], "image_size": (16, 20), "render_quality": "fast", "obs_keys": ["qp_robot"]}
    try:
        env = RoboHiveEnv("FrankaReachFixed-v0", from_pixels=True, **options)
    except RenderingUnavailableError as error:
        pytest.skip(str(error))
    with Recorder("my/reach", env=env, policy="random") as recorder:
        recorder.extend(env.rollout(5))
    folder = recorder.commit(license="mit", version="0.1.0")
    env.close()
    small = ["encoder.channels=[4]", "encoder.kernel_sizes=[4]", "encoder.strides=[4]", "split=null"]
    overrides = [*QUICK, "encoder=cnn", *small, "obs_keys=[pixels,qp_robot]"]
    result = train("bc", folder, overrides=overrides, output_dir=tmp_path / "run", progress=False)
    expected = {"from_pixels": True, "cameras": ["left_cam"], "image_size": [16, 20], "render_quality": "fast"}
    assert read_checkpoint(result.checkpoint)["env_kwargs"] == expected | {"obs_keys": ["qp_robot"]}
    evaluation = evaluate(result.checkpoint, "FrankaReachFixed-v0", num_episodes=1, num_workers=1, progress=False)
    assert evaluation.num_episodes == 1
