"""What the page gets, compared with the stored episodes."""

import base64
import io
import json

import numpy as np
import pyarrow as pa
import pytest
from tensordict import TensorDict

from rlhive import Recorder, RoboHiveDataset
from rlhive.data.versions import SCORE_COLUMNS
from rlhive.errors import InvalidExpressionError, ReplayRefusedError, SchemaMismatchError
from rlhive.viewer import ViewedDataset, _neighbours, _pictures, _rows, _series
from rlhive.viewer._flags import FlagFile
from rlhive.viewer._json import encode_json, to_cell, to_tree


def record(name, episodes, *, fps=None, **options):
    """Record a dataset of episodes, each a dict with observation [T + 1, n], action [T, n], reward [T]."""
    with Recorder(name, fps=fps) as recorder:
        for index, episode in enumerate(episodes):
            observation, action = episode["observation"], episode["action"]
            done = np.arange(len(action))[:, None] == len(action) - 1
            following = {"observation": observation[1:], "reward": episode["reward"][:, None]}
            following |= {"done": done, "terminated": done, "truncated": done & ~done}
            transitions = {"observation": observation[:-1], "action": action, "next": following}
            if "pixels" in episode:
                transitions["pixels"], following["pixels"] = episode["pixels"][:-1], episode["pixels"][1:]
            metadata = episode.get("metadata", {})
            recorder.add_episode(TensorDict(transitions, batch_size=len(action)), seed=index, metadata=metadata)
        return recorder.commit(license="mit", **options)


def episode(length=3, seed=0, **fields):
    generator = np.random.default_rng(seed)
    return {
        "observation": generator.normal(size=(length + 1, 2)),
        "action": generator.normal(size=(length, 1)).astype(np.float32),
        "reward": generator.normal(size=length),
    } | fields


def test_the_list_holds_the_episode_table(viewer):
    columns = viewer.ask("episodes")["columns"]
    table = RoboHiveDataset("toy_point").episodes

    for name in ("episode", "split", "length", "return", "success", "ended", "seed", "policy", "run"):
        assert columns[name] == table[name].to_pylist()
    assert "duplicate of" not in columns


def test_the_filter_is_where(viewer):
    condition = "success and return > 15"
    expected = RoboHiveDataset("toy_point").where(condition).episodes["episode"].to_pylist()

    assert 0 < len(expected) < 24
    assert viewer.ask("where?condition=success%20and%20return%20%3E%2015")["episodes"] == expected
    assert "there is no column retrun" in viewer.refused("where?condition=retrun%20%3E%201")


def test_scores_are_in_the_list_once_they_are_computed(viewer):
    assert "jerk" not in viewer.ask("episodes")["columns"]

    columns = viewer.ask("scores")["columns"]
    scores = RoboHiveDataset("toy_point").score()

    assert list(columns) == [name for name in SCORE_COLUMNS if name != "distance_to_goal"]  # not known for any episode
    assert columns["outlier"] == scores["outlier"].to_pylist()
    assert columns["jerk"] == pytest.approx(scores["jerk"].to_pylist(), rel=1e-5)
    assert viewer.ask("episodes")["columns"].items() >= columns.items()


def test_hostile_metadata_is_short_text_in_columns(store):
    metadata = {"operator": "<img src=x onerror=alert(1)>\x1b[2J", "deep": {"table": 2}, "not a word": 1, "list": [1]}
    folder = record("hostile", [episode(metadata=metadata), episode(seed=1, metadata={"operator": "x" * 1000})])
    columns = ViewedDataset(folder).episodes()["columns"]

    assert {name for name in columns if name.startswith("metadata.")} == {"metadata.deep.table", "metadata.operator"}
    assert columns["metadata.deep.table"] == [2, None]
    assert columns["metadata.operator"][0] == "<img src=x onerror=alert(1)>\\x1b[2J"  # a text node shows it as it is
    assert len(columns["metadata.operator"][1]) == 301


def test_what_json_cannot_say_is_text():
    assert [to_cell(value) for value in (None, True, 2**53, 2**53 + 1, 0.5, float("nan"), float("-inf"))] == [
        None,
        True,
        2**53,
        "9007199254740993",
        0.5,
        "nan",
        "-inf",
    ]
    assert to_tree({"a": [{"b": float("inf")}]}) == {"a": [{"b": "inf"}]}
    deep = json.loads("[" * 100 + "]" * 100)
    assert encode_json(to_tree(deep)) == b"[" * 12 + b'"\xe2\x80\xa6"' + b"]" * 12
    assert len(to_tree(list(range(1000)))) == 501


@pytest.mark.usefixtures("filled")
def test_scores_that_are_not_finite_are_shown_as_text():
    scores = RoboHiveDataset("toy_point").score()
    values = [float("nan"), float("inf"), *scores["jerk"].to_pylist()[2:]]
    columns = _rows.list_scores(scores.set_column(scores.column_names.index("jerk"), "jerk", pa.array(values)))

    assert columns["jerk"][:2] == ["nan", "inf"]
    assert json.loads(encode_json(columns)) == columns


def test_a_long_list_is_cut_and_says_so(viewer, monkeypatch):
    monkeypatch.setattr(_rows, "MAX_ROWS", 10)
    answer = viewer.ask("episodes")

    assert answer["omitted"] == 14
    assert answer["columns"]["episode"] == list(range(10))


def test_duplicates_are_named(store):
    same = episode(4)
    assert ViewedDataset(record("twice", [same, episode(seed=1), same])).episodes()["columns"]["duplicate of"] == [
        None,
        None,
        0,
    ]


def test_a_series_has_a_value_for_each_state(store):
    made = episode(3)
    answer = ViewedDataset(record("plain", [made], fps=5)).series(0)
    columns = {column["name"]: column for column in answer["columns"]}

    assert (answer["length"], answer["fps"], answer["stride"]) == (3, 5, 1)
    assert columns["observation"]["values"] == [
        [pytest.approx(v, rel=1e-5) for v in made["observation"][:, i]] for i in (0, 1)
    ]
    assert columns["action"]["values"][0][:3] == pytest.approx(made["action"][:, 0], rel=1e-5)
    assert columns["action"]["values"][0][3] is None  # no step begins in the last state
    assert columns["next.reward"]["values"][0][0] is None  # none ends in the first
    assert columns["next.reward"]["values"][0][1:] == pytest.approx(made["reward"], rel=1e-5)
    assert {column["not_finite"] for column in columns.values()} == {0}


def test_a_series_is_bounded_and_counts_what_is_not_finite(store, monkeypatch):
    made = episode(9)
    made["observation"][5, 1] = np.inf
    dataset = ViewedDataset(record("long", [made]))
    monkeypatch.setattr(_series, "MAX_VALUES", 20)  # 10 states with 4 numbers each
    monkeypatch.setattr(_series, "MAX_DIMENSIONS", 1)
    answer = dataset.series(0)
    observation = next(column for column in answer["columns"] if column["name"] == "observation")

    assert answer["stride"] == 2
    assert observation["omitted"] == 1
    assert observation["values"] == [[pytest.approx(v, rel=1e-5) for v in made["observation"][::2, 0]]]
    monkeypatch.undo()
    observation = next(column for column in dataset.series(0)["columns"] if column["name"] == "observation")
    assert observation["not_finite"] == 1
    assert observation["values"][1][5] is None


def test_stored_pictures_come_as_jpeg_of_every_camera(store):
    image = pytest.importorskip("PIL.Image")
    shades = np.arange(4, dtype=np.uint8) * 60
    pixels = np.broadcast_to(shades[:, None, None, None, None], (4, 2, 16, 16, 3)).copy()
    pixels[:, 1] //= 2
    dataset = ViewedDataset(record("film", [episode(3, pixels=pixels)]))
    answer = dataset.frames(0, 2, 10)

    assert answer["total"] == 4
    assert [camera["name"] for camera in answer["cameras"]] == ["pixels 1", "pixels 2"]
    for index, camera in enumerate(answer["cameras"]):
        shown = [np.asarray(image.open(io.BytesIO(base64.b64decode(frame)))) for frame in camera["frames"]]
        assert [picture.shape for picture in shown] == [(16, 16, 3)] * 2
        assert np.abs(np.stack(shown).astype(int) - pixels[2:, index]).max() <= 2
    wide = _pictures.encode_frames(np.zeros((1, 10, 1000, 3), np.uint8))
    assert image.open(io.BytesIO(base64.b64decode(wide[0]))).size == (480, 5)


def test_rendering_goes_on_only_while_it_is_wanted(store):
    pytest.importorskip("PIL.Image")
    started, closed = [], []

    def render(record):
        started.append(record.episode)
        try:
            for _ in range(record.length + 1):
                yield np.zeros((4, 4, 3), np.uint8)
        finally:
            closed.append(record.episode)

    folder = record("states", [episode(3, seed=seed) for seed in range(3)])
    records = list(ViewedDataset(folder).view.iter_records())
    renderer = _pictures.Renderer(render)
    assert len(renderer.read(records[0], 0, 2)) == 2
    assert len(renderer.read(records[0], 2, 99)) == 2
    assert started == closed == [0]  # the second answer is from memory
    renderer.read(records[1], 0, 1)
    renderer.read(records[2], 0, 1)
    renderer.close()
    assert started == [0, 1, 2]


def test_an_episode_that_cannot_be_rendered_says_why(store):
    pytest.importorskip("PIL.Image")
    dataset = ViewedDataset(record("stateless", [episode()]))
    try:
        with pytest.raises(ReplayRefusedError, match="expected an environment in its provenance"):
            dataset.frames(0, 0, 1)
    finally:
        dataset.close()


def test_the_nearest_episodes_are_those_with_like_rows(store):
    base = episode(10)
    shifted = {name: values + 0.01 for name, values in base.items()}
    folder = record("near", [base, episode(10, seed=1), shifted, base])
    nearest = ViewedDataset(folder).neighbours(0)

    assert [row["episode"] for row in nearest["nearest"]] == [3, 2, 1]
    assert nearest["nearest"][0]["distance"] == 0
    assert nearest["compared"] == 4
    with pytest.raises(SchemaMismatchError, match="column of numbers"):
        _neighbours.Neighbours([], [])


def test_dimensions_and_coverage_are_those_of_the_figures(viewer):
    dataset = RoboHiveDataset("toy_point")
    dimensions = viewer.ask("dimensions")
    expert = dataset["expert"].as_tensordict()["observation"].numpy()

    assert dimensions["columns"] == ["action", "observation"]
    assert dimensions["splits"]["expert"]["observation"]["percentiles"][2] == pytest.approx(
        np.median(expert, axis=0), rel=1e-5
    )
    coverage = viewer.ask("coverage?key=observation")
    assert [part["split"] for part in coverage["parts"]] == ["expert", "medium", "random"]
    assert sum(coverage["fractions"]) == pytest.approx(1)
    assert sum(len(part["x"]) for part in coverage["parts"]) == len(dataset)
    assert coverage["parts"][0]["episode"][0] == 0
    assert "column 'nothing': expected one of" in viewer.refused("coverage?key=nothing")


def test_flags_become_a_condition_and_a_version(viewer, store):
    status, answer = viewer.send({"dataset": 0, "flagged": [17, 3]})

    assert (status, answer) == (200, {"flagged": [3, 17], "where": "episode not in [3, 17]"})
    dataset = RoboHiveDataset("toy_point")
    (file,) = (store / ".flags").iterdir()
    assert file.read_text() == "episode not in [3, 17]\n"
    kept = dataset.where(file.read_text()).episodes["episode"].to_pylist()
    assert kept == [number for number in range(24) if number not in (3, 17)]
    assert viewer.ask("flags") == answer

    status, answer = viewer.send({"dataset": 0, "flagged": [3, 17], "save_as": "kept", "where": "split == 'random'"})
    assert (status, answer["saved"]) == (200, {"name": "robohive/kept", "version": "1.0.0", "episodes": 7})
    saved = RoboHiveDataset("kept", generate=False)
    assert saved.episodes["episode"].to_pylist() == [number for number in range(16, 24) if number != 17]
    assert viewer.send({"dataset": 0, "flagged": []})[1] == {"flagged": [], "where": ""}
    assert not file.exists()


def test_a_version_that_cannot_be_written_leaves_nothing(viewer, store):
    before = sorted(path.name for path in store.iterdir())
    status, answer = viewer.send({"dataset": 0, "flagged": [], "save_as": "../escape"})

    assert status == 200
    assert "Dataset name '../escape'" in answer["error"]
    status, answer = viewer.send({"dataset": 0, "flagged": [], "save_as": "none", "where": "length > 999"})
    assert (status, answer["error"]) == (200, "none: no episode is left without a flag. Nothing was written.")
    assert sorted(path.name for path in store.iterdir()) == before
    status, answer = viewer.send({"dataset": 0, "flagged": [99]})
    assert (status, answer["error"]) == (200, "flags: there is no episode 99 here")


def test_a_view_shows_and_flags_its_own_episodes(version):
    whole, view = ViewedDataset(version), ViewedDataset(version, split="expert", where="success")
    whole.flag([20])
    shown = view.episodes()["columns"]["episode"]
    view.flag([shown[0]])

    assert set(view.episodes()["columns"]["split"]) == {"expert"}
    assert view.flags()["flagged"] == [shown[0]]
    assert whole.flags()["flagged"] == [shown[0], 20]
    with pytest.raises(SchemaMismatchError, match="no episode 20"):
        view.series(20)
    with pytest.raises(InvalidExpressionError):
        view.select("__import__('os')")


@pytest.mark.parametrize(
    "content", ["episode not in [1", "success", "", "episode not in [1, 2]; drop", "x" * 2_000_000]
)
def test_a_damaged_flag_file_has_no_flags(store, content):
    flags = FlagFile("a" * 64)
    flags.path.parent.mkdir(parents=True)
    flags.path.write_text(content)

    assert flags.read() == set()


def test_checks_certificate_and_provenance(viewer):
    report = viewer.ask("checks")
    (description,) = viewer.ask("datasets")["datasets"]
    provenance = viewer.ask("provenance")

    assert report["ok"]
    assert {check["name"] for check in report["checks"]} >= {"files", "duplicates", "near_duplicates"}
    assert description["certificate"] is None
    assert description["references"] == {"random": pytest.approx(9.2, abs=0.1), "expert": pytest.approx(18.8, abs=0.1)}
    assert provenance["runs"][0]["env"]["env_name"] == "ToyPoint-v0"
    assert provenance["splits"]["expert"] == "8 episodes, 160 transitions"


def test_the_terms_of_the_reward_are_aligned_with_it(viewer):
    terms = viewer.ask("terms?episode=3")["terms"]
    series = viewer.ask("series?episode=3")["columns"]
    reward = next(column for column in series if column["name"] == "next.reward")["values"][0]

    assert terms["dense"] == reward
    assert "solved" not in terms


@pytest.mark.slow
def test_states_are_rendered_and_rewards_taken_apart_where_robohive_is(store):
    pytest.importorskip("robohive")
    image = pytest.importorskip("PIL.Image")
    from dataclasses import replace

    from rlhive.envs import Recipe, get_task
    from rlhive.rollouts import collect

    task = replace(get_task("reach"), name="few", recipe=Recipe("1.0.0", {"expert": 1}, "mit"))
    dataset = ViewedDataset(collect(task, num_workers=1, progress=False))
    try:
        answer = dataset.frames(0, 0, 1)
        later = dataset.frames(0, 20, 21)
        terms = dataset.terms(0)["terms"]
    finally:
        dataset.close()
    first, second = (
        np.asarray(image.open(io.BytesIO(base64.b64decode(part["cameras"][0]["frames"][0])))).astype(int)
        for part in (answer, later)
    )
    reward = next(column for column in dataset.series(0)["columns"] if column["name"] == "next.reward")["values"][0]

    assert (answer["cameras"][0]["name"], answer["total"]) == ("rendered from the states", 51)
    assert first.shape == (360, 480, 3)
    assert np.abs(first - second).max() > 30  # the arm has moved
    assert terms["dense"] == reward
    assert {"reach", "bonus", "penalty"} <= terms.keys()
