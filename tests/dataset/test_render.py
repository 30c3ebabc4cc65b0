"""Pictures of a version's states, rendered again: those of the live environment, or none."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("robohive")

from rlhive import Recorder, RoboHiveDataset, RoboHiveEnv
from rlhive.data.versions import Manifest, read_records
from rlhive.envs._rendering import CameraRenderer
from rlhive.errors import InvalidOptionError, ReplayRefusedError
from rlhive.rollouts import _rerender, find_rendered
from tests.cli.conftest import invoke
from tests.data.strategies import records

pytestmark = pytest.mark.usefixtures("opengl")

ENV = "FrankaReachRandom-v0"
CAMERAS = {"cameras": ("left_cam", "right_cam"), "image_size": (32, 40)}


def record(name, num_episodes=2, **options):
    """Record episodes of 4 steps and return the version."""
    env = RoboHiveEnv(ENV, seed=0, **options)
    with Recorder(name, env=env, policy="random") as recorder:
        for _ in range(num_episodes):
            recorder.extend(env.rollout(4))
            recorder.end_episode()
    env.close()
    return RoboHiveDataset(recorder.commit(license="mit"))


def test_rendered_pictures_are_those_of_the_live_environment_bit_for_bit(store):
    live = record("my/live", from_pixels=True, depth=True, segmentation=True, render_quality="fast", **CAMERAS)
    states = live.drop_column("pixels", "depth", "segmentation", name="my/states")

    rendered = states.render(**CAMERAS, depth=True, segmentation=True, num_workers=1, progress=False)

    assert rendered.version == "1.1.0"
    assert rendered.schema["pixels"].storage == "png"
    assert rendered.schema["depth"].dtype == "float32"
    for got, expected in zip(rendered.iter_episodes(), live.iter_episodes(), strict=True):
        for key in ("pixels", "depth", "segmentation", ("next", "pixels"), "observation"):
            np.testing.assert_array_equal(got[key].numpy(), expected[key].numpy())
    operations = rendered.manifest.parents[0]["operations"]
    assert operations[-1].startswith("render(cameras=('left_cam', 'right_cam'), image_size=(32, 40), depth=True, segm")
    assert not list((store / ".renders").iterdir())


def test_every_state_is_drawn_once(store, monkeypatch):
    """A picture costs as much as 30 steps: the state of the reset, which is replaced, is not drawn."""
    (episode,) = read_records(
        record("my/states", num_episodes=1).path, Manifest.read(store / "my/states/1.0.0"), ["train"]
    )
    env = RoboHiveEnv(ENV, from_pixels=True, render_quality="fast", **CAMERAS)
    draw, num_drawn = CameraRenderer.draw, []

    def count(self):
        num_drawn.append(1)
        return draw(self)

    monkeypatch.setattr(CameraRenderer, "draw", count)
    pictures = _rerender._render_episode(env, episode)
    assert len(pictures["pixels"]) == len(num_drawn) == 5
    seeded = _rerender._render_episode(env, replace(episode, start_state={}, seed=episode.seed))
    assert len(num_drawn) == 10
    assert len(seeded["pixels"]) == 5
    env.close()


def test_episodes_of_equal_content_have_pictures_of_their_own(tmp_path):
    """An observation need not show what a camera sees."""
    _, (first, *_) = records([3])

    paths = {find_rendered(tmp_path, replace(first, episode=episode)) for episode in (0, 1)}

    assert len(paths) == 2
    assert find_rendered(tmp_path, replace(first, split="b")) == find_rendered(tmp_path, first)


@pytest.mark.slow
def test_an_interrupted_rendering_goes_on_and_a_view_is_rendered(store, monkeypatch):
    states = record("my/states", num_episodes=3)
    render_until_written(states, monkeypatch)
    (folder,) = (store / ".renders").iterdir()
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    next(folder.iterdir()).unlink()

    render_until_written(states, monkeypatch)

    again = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(times) == len(again) == 3
    assert len(set(times.items()) & set(again.items())) == 2
    part = states.where("episode == 1").render(**CAMERAS, name="my/part", num_workers=1, progress=False)
    assert part.episodes["episode"].to_pylist() == [1]


def render_until_written(states, monkeypatch):
    """Interrupt a rendering when its version is to be written."""
    with monkeypatch.context() as patch:
        patch.setattr("rlhive.dataset._render.save_rendered", interrupt)
        with pytest.raises(KeyboardInterrupt):
            states.render(**CAMERAS, num_workers=1, progress=False)


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_episodes_that_do_not_replay_are_refused_and_nothing_is_written(store):
    states = record("my/states", num_episodes=1)
    changed = states.relabel(lambda columns, final: columns["next.reward"] + 1, name="my/rewards")

    with pytest.raises(ReplayRefusedError, match=r"would not show what was recorded: episode 0 diverges .*next.reward"):
        changed.render(**CAMERAS, num_workers=1, progress=False)
    assert changed.version == RoboHiveDataset("my/rewards").version


@pytest.mark.slow
def test_what_cannot_be_rendered_is_said(filled):
    states = record("my/states", num_episodes=1)
    with pytest.raises(InvalidOptionError, match="left_cam"):
        states.render(cameras=["nowhere"], progress=False)
    with pytest.raises(InvalidOptionError, match="has a column observation already"):
        states.render(**CAMERAS, column="observation", progress=False)
    with pytest.raises(InvalidOptionError, match="expected a RoboHive environment to render, got one of toy"):
        RoboHiveDataset("toy_point").render(progress=False)
    manifest = json.loads((states.path / "rlhive.json").read_text())
    manifest["runs"][0]["env"]["model_hash"] = "0" * 64
    (states.path / "rlhive.json").write_text(json.dumps(manifest))
    ran = invoke("render", "my/states", "--camera", "left_cam", "--image-size", "32", "--workers", "1")
    assert ran.exit_code == 1
    assert "the installed assets compile to another model than the recorded one" in ran.stderr
    words = ["render", "my/states", "--camera", "left_cam", "--image-size", "32", "--workers", "1", "--force", "--json"]
    forced = invoke(*words)
    folder = filled / "my/states" / json.loads(forced.stdout)["version"]
    assert "force=True, model_hash=" in Manifest.read(folder).parents[0]["operations"][-1]
