"""Figures of a dataset: what they draw, compared with the stored episodes."""

import numpy as np
import pytest
from tensordict import TensorDict

from rlhive import Recorder, RoboHiveDataset
from rlhive.dataset import _plots
from rlhive.dataset._plots import project, summarize_dimensions
from rlhive.errors import InvalidOptionError, SchemaMismatchError, StoreNotWritableError

pytest.importorskip("matplotlib")


def test_the_histogram_counts_every_return_of_every_split(filled) -> None:
    dataset = RoboHiveDataset("toy_point")
    (axis,) = dataset.plot.returns().axes
    filled_bars = axis.containers
    counts = [int(sum(bar.get_height() for bar in container)) for container in filled_bars]

    assert counts == [8, 8, 8]
    labels = [text.get_text() for text in axis.figure.legends[0].get_texts()]
    assert labels == ["expert (8)", "medium (8)", "random (8)"]
    edges = [bar.get_x() for bar in filled_bars[0]]
    assert edges[0] == pytest.approx(min(dataset.episodes["return"].to_pylist()))
    references = [line.get_xdata()[0] for line in axis.lines]
    assert references == pytest.approx([9.2, 18.8], abs=0.1)  # as `rlhive envs` prints them
    assert [text.get_text() for text in axis.texts] == ["random", "expert"]


def test_an_episode_is_drawn_from_its_own_rows(filled) -> None:
    dataset = RoboHiveDataset("toy_point")
    episode = next(td for td in dataset.iter_episodes() if int(td["episode"][0]) == 9)
    figure = dataset.plot.episode(9)
    reward, action, observation = figure.axes[:3]

    assert np.array_equal(reward.lines[0].get_ydata(), episode["next", "reward"][:, 0].numpy())
    assert np.allclose(action.images[0].get_array(), episode["action"].numpy().T)
    statistics = dataset.statistics["observation"]
    expected = (episode["observation"].numpy() - statistics["mean"]) / statistics["std"]
    assert np.allclose(observation.images[0].get_array(), expected.T)
    assert "episode 9" in figure.get_suptitle()
    with pytest.raises(SchemaMismatchError, match="There is no episode 99"):
        dataset.plot.episode(99)


def test_dead_and_saturated_dimensions_are_found() -> None:
    generator = np.random.default_rng(0)
    spread = generator.normal(size=200)
    clipped = np.clip(spread, -1, 1)
    rows = np.stack([spread, clipped, np.full(200, 3.0)], axis=1)
    summary = summarize_dimensions(np.concatenate([rows, [[np.nan, 0, 0]]]))

    assert summary.is_dead.tolist() == [False, False, True]
    assert summary.is_saturated.tolist() == [False, True, False]
    assert np.allclose(summary.percentiles[2], np.median(rows, axis=0))
    # in a few rows a single smallest value is no saturation
    assert not summarize_dimensions(rows[:10, :1]).is_saturated.any()
    with pytest.raises(SchemaMismatchError, match="rows of finite numbers"):
        summarize_dimensions(np.full((3, 1), np.nan))


def test_the_dimensions_are_those_of_each_split(filled) -> None:
    dataset = RoboHiveDataset("toy_point", split="expert+random")
    action, observation = dataset.plot.dimensions().axes
    medians = [line.get_ydata() for line in action.lines if line.get_marker() == "o"]
    expected = [np.median(dataset[split].as_tensordict()["action"].numpy(), axis=0) for split in ("expert", "random")]

    assert np.allclose(medians, expected, atol=1e-6)
    assert action.get_ylabel() == "action"
    assert [len(line.get_ydata()) for line in observation.lines if line.get_marker() == "o"] == [2, 2]


def test_the_projection_is_that_of_principal_components() -> None:
    generator = np.random.default_rng(0)
    latent = generator.normal(size=(500, 2)) * [5.0, 1.0]
    rows = np.concatenate([latent @ generator.normal(size=(2, 4)), np.ones((500, 1))], axis=1)
    points, fractions = project(rows)

    standardised = (rows[:, :4] - rows[:, :4].mean(0)) / rows[:, :4].std(0)
    variances = np.sort(np.linalg.eigvalsh(standardised.T @ standardised / 500))[::-1]
    assert points.var(axis=0) == pytest.approx(variances[:2])
    assert fractions == pytest.approx(variances[:2] / 4)
    assert fractions.sum() == pytest.approx(1.0)
    assert project(np.ones((4, 3)))[0].tolist() == [[0.0, 0.0]] * 4


def test_coverage_shows_every_split_and_reads_some_episodes_of_a_large_dataset(filled, monkeypatch) -> None:
    dataset = RoboHiveDataset("toy_point")
    (axis,) = dataset.plot.coverage().axes
    assert [len(points.get_offsets()) for points in axis.collections] == [160, 160, 160]
    monkeypatch.setattr(_plots, "MAX_EPISODES", 12)
    monkeypatch.setattr(_plots, "MAX_POINTS", 120)
    (axis,) = dataset.plot.coverage("action").axes
    assert [len(points.get_offsets()) for points in axis.collections] == [40, 40, 40]
    with pytest.raises(InvalidOptionError, match="key='pixels': expected a column of numbers out of"):
        dataset.plot.coverage("pixels")


def test_figures_are_saved_in_every_format(filled, tmp_path) -> None:
    dataset = RoboHiveDataset("toy_point")
    files = dataset.plot.save(tmp_path / "a" / "b", episode=3, formats=["svg", "pdf", "png"])

    assert [file.name for file in files[:3]] == ["returns.svg", "returns.pdf", "returns.png"]
    assert [file.stem for file in files[::3]] == ["returns", "dimensions", "coverage", "episode-3"]
    assert ">expert (8)</text>" in files[0].read_text()  # text stays text
    assert files[1].read_bytes().startswith(b"%PDF")
    assert files[2].read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidOptionError, match="figures: expected some of returns, dimensions, coverage, got 'pie'"):
        dataset.plot.save(tmp_path, ["pie"])
    with pytest.raises(InvalidOptionError, match="format: expected some of pdf, png, svg, got 'jpg'"):
        dataset.plot.save(tmp_path, ["returns"], formats=["jpg"])
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreNotWritableError, match="No figures can be written to"):
        dataset.plot.save(tmp_path / "file", ["returns"])


def test_what_was_not_recorded_is_not_drawn(filled) -> None:
    generator = np.random.default_rng(0)
    done = np.arange(3)[:, None] == 2
    with Recorder("plain") as recorder:
        for _ in range(2):
            observation, action = generator.normal(size=(4, 3)), generator.normal(size=(3, 2))
            following = {"observation": observation[1:], "done": done, "terminated": done, "truncated": done & ~done}
            transitions = {"observation": observation[:3], "action": action, "next": following}
            recorder.add_episode(TensorDict(transitions, batch_size=3))
        recorder.commit(license="mit")
    dataset = RoboHiveDataset("plain")
    with pytest.raises(SchemaMismatchError, match="expected recorded returns, but no rewards were recorded"):
        dataset.plot.returns()
    assert [axis.get_ylabel() for axis in dataset.plot.episode(0).axes[:2]] == ["action", "observation"]


def test_a_column_without_finite_numbers_is_named(filled, monkeypatch) -> None:
    plots = RoboHiveDataset("toy_point").plot
    monkeypatch.setattr(_plots, "sample_rows", lambda view, names: {"expert": {names[0]: np.full((3, 2), np.nan)}})
    with pytest.raises(SchemaMismatchError, match="toy_point: expected finite numbers in observation, got none"):
        plots.coverage()
