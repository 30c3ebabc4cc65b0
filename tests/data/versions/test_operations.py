"""Views and operations: what they serve, what they write, and what they refuse."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, TensorDictReplayBuffer

from rlhive.data.recording._recording import Recording
from rlhive.data.recording._writer import StreamWriter
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.errors import InvalidExpressionError, InvalidLicenseError, SchemaMismatchError, SplitNotFoundError
from tests.data.strategies import records, same, teleoperated_records, transitions


def export_and_open(episodes, store, name="my/knob", **kwargs):
    kwargs = {"license": "mit", "store": store, "env_name": "ToyPoint-v0", "runs": [{"run": "run"}]} | kwargs
    return RoboHiveDataset(export(episodes, name, **kwargs), store=store)


def read_episodes(dataset):
    """Return the episodes of a dataset as they are on disk, by id."""
    return {record.episode: record for record in dataset.as_source().records()}


@pytest.fixture
def episodes():
    return records([4, 2, 7, 3, 5, 1], splits=("a", "b"))[1]


@pytest.fixture
def dataset(episodes, tmp_path):
    return export_and_open(episodes, tmp_path, shard_bytes=2000)


def read_files(dataset):
    return {path: path.read_bytes() for path in dataset.path.rglob("*") if path.is_file()}


# -- views ------------------------------------------------------------------------------------------------------------


def test_a_view_serves_its_episodes_everywhere(dataset, episodes):
    view = dataset.where("length > 2")
    long_episodes = [record for record in episodes if record.length > 2]
    order = [record.episode for split in "ab" for record in long_episodes if record.split == split]

    assert view.episodes["episode"].to_pylist() == [record.episode for record in long_episodes]
    assert len(view) == sum(record.length for record in long_episodes) == len(view.as_replay_buffer(4, dtype=None))
    assert view.as_tensordict()["episode"].unique_consecutive().tolist() == order
    expected = torch.cat([dataset.select([e]).as_tensordict()["observation"] for e in order])
    assert (view.as_tensordict()["observation"] == expected).all()
    assert view.as_arrow()["episode"].unique().to_pylist() == order
    assert view.as_arrow()["next.reward"].to_pylist() == view.as_tensordict()["next", "reward"].flatten().tolist()
    assert view.to_hf()["next.reward"][:] == view.as_arrow()["next.reward"].to_pylist()
    assert "where('length > 2')" in repr(view)
    assert len(dataset) == sum(record.length for record in episodes)


def test_views_of_views(dataset):
    view = dataset.where("length > 2").filter(lambda row: row["metadata"]["note"] != "№ 0")["b"]

    assert view.episodes["episode"].to_pylist() == [12]
    assert view.splits == ["b"]
    assert len(dataset.where("length > 1000")) == 0
    assert len(dataset.where("length > 1000").as_tensordict()) == 0
    with pytest.raises(SplitNotFoundError, match="expected one of b"):
        view["a"]
    with pytest.raises(SchemaMismatchError, match="There is no episode 3"):
        view.select([3])
    with pytest.raises(InvalidExpressionError, match="there is no column x"):
        dataset.where("x > 1")


def test_a_view_reads_no_transitions_until_it_is_used(dataset):
    for path in (dataset.path / "data").iterdir():
        path.unlink()

    view = dataset.where("success or return > -1e9").split({"train": 0.5, "test": 0.5})

    assert len(view) == 22
    assert len(view.episodes) == 6


def test_splits_partition_the_episodes_and_depend_on_the_seed_alone(dataset):
    parts = dataset.split({"train": 0.5, "test": 0.3, "rest": 0.2}, seed=3)

    ids = {name: parts[name].episodes["episode"].to_pylist() for name in parts.splits}
    assert sorted(e for split_ids in ids.values() for e in split_ids) == [3, 6, 9, 12, 15, 18]
    assert [len(split_ids) for split_ids in ids.values()] == [3, 2, 1]
    assert ids == {"train": [6, 15, 18], "test": [3, 9], "rest": [12]}
    assert parts["test"].as_tensordict()["episode"].unique().tolist() == ids["test"]
    assert dataset.split({"x": [18, 3]})["x"].episodes["episode"].to_pylist() == [3, 18]
    with pytest.raises(SchemaMismatchError, match=r"sum to 1, got \{.*\} \(sum 0\.9\)"):
        dataset.split({"train": 0.5, "test": 0.4})
    with pytest.raises(SchemaMismatchError, match="Episode 3: expected one split, got 'x' and 'y'"):
        dataset.split({"x": [3], "y": [3]})


def test_statistics_and_normalization_are_those_of_the_view(episodes, tmp_path):
    for record in episodes:  # without infinities
        values = np.random.default_rng(record.episode).normal(2, 3, (record.length, 3))
        record.columns["observation"][:] = values
        record.columns["observation"][:, 2] = 5
    dataset = export_and_open(episodes, tmp_path)
    for view in (dataset, dataset["a"], dataset.where("length > 2")):
        rows = view.as_tensordict()["observation"].numpy()
        row = view.statistics["observation"]
        np.testing.assert_allclose(row["mean"], rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(row["std"], rows.std(axis=0), rtol=1e-12, atol=1e-12)
        true = np.quantile(rows, 0.9, axis=0, method="lower")
        assert (np.abs(row["q90"] - true) <= 0.01 * np.ptp(rows, axis=0) + 1e-9).all()

        batch = view.normalization("observation", dtype=None)(view.as_tensordict())
        scale = np.where(rows.std(axis=0) > 1e-12, rows.std(axis=0), 1)
        np.testing.assert_allclose(batch["observation"], (rows - rows.mean(axis=0)) / scale, atol=1e-9)
        following = view.as_tensordict()["next", "observation"].numpy()
        np.testing.assert_allclose(batch["next", "observation"], (following - rows.mean(axis=0)) / scale, atol=1e-9)
        assert batch["observation"].dtype == torch.float64

    spread = dataset.normalization("observation", how="min_max", dtype=None)(dataset.as_tensordict())["observation"][
        :, :2
    ]
    np.testing.assert_allclose([spread.min(), spread.max()], [-1, 1], rtol=1e-12)
    with pytest.raises(SchemaMismatchError, match="expected floats"):
        dataset.normalization("gripper")


# -- new versions -----------------------------------------------------------------------------------------------------


def test_saving_a_view_writes_its_episodes_and_names_the_parent(dataset, episodes, tmp_path):
    before = read_files(dataset)
    view = dataset.where("length > 2").split({"train": 0.75, "test": 0.25})
    saved = view.save("my/good")

    split_of = {e: name for name in view.splits for e in view[name].episodes["episode"].to_pylist()}
    expected = {r.episode: replace(r, split=split_of[r.episode]) for r in episodes if r.length > 2}
    assert all(same(record, expected[episode]) for episode, record in read_episodes(saved).items())
    assert read_episodes(saved).keys() == expected.keys()
    assert (saved.name, saved.version, saved.splits) == ("my/good", "1.0.0", ["train", "test"])
    assert saved.manifest.license == "mit"
    assert saved.manifest.env_name == "ToyPoint-v0"
    parent = saved.manifest.parents[0]
    assert parent["fingerprint"] == dataset.fingerprint
    assert parent["operations"] == ["where('length > 2')", "split({'train': 0.75, 'test': 0.25}, seed=0)"]
    assert read_files(dataset) == before


def test_saving_a_split_names_it(dataset):
    saved = dataset["b"].save("my/b")

    assert saved.episodes["episode"].to_pylist() == [6, 12, 18]
    assert saved.manifest.parents[0]["operations"] == ["split='b'"]


def test_saving_under_the_same_name_makes_the_right_version(dataset):
    assert dataset.where("length > 2").save("my/knob").version == "2.0.0"
    assert dataset.save("my/knob", version="1.0.1", description="the same").version == "1.0.1"
    assert dataset.save("my/knob", version="1.0.2", description="again").fingerprint == dataset.fingerprint


def test_merging_drops_duplicates_and_keeps_the_metadata_of_the_first(dataset, episodes, tmp_path, caplog):
    more = [replace(record, episode=record.episode + 1, seed=900, policy="clone") for record in episodes[:2]]
    fresh = records([6, 8], splits=("b", "c"))[1]
    for record in fresh:
        record.columns["action"][:] += 1
    other = export_and_open(
        sorted([*more, *(replace(r, episode=r.episode + 50) for r in fresh)], key=lambda record: record.episode),
        tmp_path,
        "my/other",
        runs=[{"run": "second"}],
    )

    merged = dataset.merge(other, name="my/both")

    assert "dropped 2 episodes" in caplog.text
    back = read_episodes(merged)
    assert list(back) == list(range(8))
    for new, old in zip(back.values(), [*episodes, *fresh], strict=True):
        assert new.content_hash() == old.content_hash()
        assert (new.seed, new.split, new.policy, dict(new.metadata)) == (old.seed, old.split, old.policy, old.metadata)
        assert new.start_state.keys() == old.start_state.keys()
    assert merged.splits == ["a", "b", "c"]
    assert [run["run"] for run in merged.manifest.runs] == ["run", "second"]
    assert [parent["name"] for parent in merged.manifest.parents] == ["my/knob", "my/other"]


def test_merging_refuses_another_schema_and_names_the_difference(dataset, episodes, tmp_path):
    wide = [replace(r, columns=r.columns | {"action": np.zeros((r.length, 5), np.float32)}) for r in episodes]
    other = export_and_open(wide, tmp_path, "my/wide")

    with pytest.raises(
        SchemaMismatchError, match=r"source 2 .* key action: expected float32 \(2,\), got float32 \(5,\)"
    ):
        dataset.merge(other, name="my/both")
    with pytest.raises(InvalidLicenseError, match="License ''"):
        dataset.merge(export_and_open(episodes, tmp_path, "my/third", license="gpl-3.0"), name="my/both")


def test_values_in_other_units_are_not_merged(store):
    plain = RoboHiveDataset(export(teleoperated_records([5, 6]), "lab/plain", license="mit"))

    def with_speed(unit, name):
        compute = lambda columns, final: np.ones((len(columns["action"]), 1))  # noqa: E731
        return plain.add_column("speed", compute, name=name, unit=unit)

    metric, other, unknown = (with_speed(unit, f"lab/{n}") for n, unit in enumerate(("m/s", "km/h", None)))
    with pytest.raises(SchemaMismatchError, match=r"source 2 .*: speed is in 'km/h', expected 'm/s'"):
        metric.select([0]).merge(other.select([1]), name="lab/both")
    both = metric.select([0]).merge(unknown.select([1]), name="lab/both")
    assert both.schema["speed"].unit == "m/s"


def test_recordings_with_and_without_reward_are_merged_once_they_are_alike(store):
    plain = RoboHiveDataset(export(teleoperated_records([5, 6]), "lab/plain", license="mit"))
    rewarded = plain.select([1]).add_column(
        "next.reward", lambda columns, final: np.ones((len(columns["action"]), 1)), name="lab/rewarded"
    )

    with pytest.raises(SchemaMismatchError, match=r"source 2 .*: the first lacks next\.reward\. drop_column"):
        plain.merge(rewarded, name="lab/both")
    with pytest.raises(SchemaMismatchError, match=r"source 2 .*: it lacks next\.reward\. drop_column"):
        rewarded.append(plain, name="lab/both")
    alike = rewarded.drop_column("next.reward", name="lab/alike")
    both = plain.select([0]).merge(alike, name="lab/both")

    assert rewarded.episodes["return"].to_pylist() == [6.0]
    assert rewarded.where("return > 5").counts == rewarded.counts
    assert both.episodes.select(["length", "return"]).to_pylist() == [
        {"length": 5, "return": None},
        {"length": 6, "return": None},
    ]
    with pytest.raises(SchemaMismatchError, match="no reward was recorded"):
        plain.relabel(lambda columns, final: np.ones(5), name="lab/relabelled")


def test_appending_keeps_ids_and_numbers_new_episodes_after_them(dataset, episodes, tmp_path):
    schema, fresh = records([6, 8], splits=("b", "c"))
    recording = Recording.create(
        tmp_path / "recording", schema, start_state=fresh[0].start_state, provenance={"run": "late"}
    )
    with StreamWriter(recording, "w") as writer:
        for record in fresh:
            record.columns["action"][:] += 1
            writer.write([record])

    longer = dataset.append(recording)

    back = read_episodes(longer)
    assert longer.version == "2.0.0"
    assert list(back) == [3, 6, 9, 12, 15, 18, 19, 20]
    assert all(same(record, back[record.episode]) for record in episodes)
    assert back[20].content_hash() == fresh[1].content_hash()
    assert longer.manifest.env_name == "ToyPoint-v0"
    assert {run["run"] for run in longer.manifest.runs} == {"run", "late"}


def test_columns_are_renamed_dropped_and_added(dataset, episodes):
    renamed = dataset.rename_column("parts.camera", "parts.left", name="my/renamed")
    dropped = dataset.drop_column("gripper", "count", name="my/dropped")
    added = dataset.add_column(
        "speed",
        lambda columns, final: np.diff(np.concatenate([columns["count"], final["count"][None]])).astype(np.float32),
        name="my/knob",
        unit="m/s",
    )
    observed = dataset.add_column(
        "twice", lambda columns, final: 2 * np.append(columns["count"], final["count"]), name="my/observed"
    )

    for record in episodes:
        assert (read_episodes(renamed)[record.episode].columns["parts.left"] == record.columns["parts.camera"]).all()
        assert (read_episodes(renamed)[record.episode].final["parts.left"] == record.final["parts.camera"]).all()
        left = {name: array for name, array in record.columns.items() if name not in ("gripper", "count")}
        assert read_episodes(dropped)[record.episode].columns.keys() == left.keys()
        states = np.append(record.columns["count"], record.final["count"])
        assert read_episodes(added)[record.episode].columns["speed"].tolist() == np.diff(states).tolist()
        assert read_episodes(observed)[record.episode].final["twice"] == 2 * record.final["count"]
    assert added.version == "1.1.0"
    assert added.schema["speed"].unit == "m/s"
    assert ("next", "twice") in observed.as_tensordict().keys(True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.rename_column("nothing", "x", name="my/x"), "There is no column nothing: expected one of action"),
        (lambda d: d.rename_column("action", "gripper", name="my/x"), "gripper exists already"),
        (lambda d: d.rename_column("count", "next.count2", name="my/x"), "expected a new name"),
        (lambda d: d.rename_column("action", "episode", name="my/x"), "episode exists already or is derived"),
        (
            lambda d: d.rename_column("count", "two\nlines", name="my/x"),
            r"'two\\nlines' cannot name a column: expected printable",
        ),
        (lambda d: d.normalization("obs"), "There is no column obs: expected one of action"),
        (lambda d: d.split({}), "expected at least one name"),
        (lambda d: d.split({"a": float("nan"), "b": 1.0}), r"sum to 1, got .*\(sum nan\)"),
        (lambda d: d.drop_column("next.truncated", name="my/x"), "says where episodes end"),
        (lambda d: d.add_column("x", lambda c, f: np.zeros(99), name="my/x"), "expected 4 or 5 rows of x"),
        (lambda d: d.add_column("x", lambda c, f: c["count"].astype("c8"), name="my/x"), "got complex64"),
        (lambda d: d.relabel(lambda c, f: np.zeros(99), name="my/x"), "expected 4 rewards, got shape"),
    ],
)
def test_an_invalid_change_is_refused_and_nothing_is_written(dataset, change, message, tmp_path):
    with pytest.raises(SchemaMismatchError, match=message):
        change(dataset)

    assert not (tmp_path / "my/x/1.0.0").exists()


def test_shares_of_a_recording_and_ids_of_a_list(episodes, tmp_path):
    by_share = Manifest.read(export(episodes, "my/shares", license="mit", splits={"p": 0.5, "q": 0.5}, store=tmp_path))
    ids = {"p": [3, 9], "q": [6, 12, 15, 18], "empty": []}
    by_id = Manifest.read(export(episodes, "my/ids", license="mit", splits=ids, store=tmp_path))

    assert [split["num_episodes"] for split in by_share.splits.values()] == [3, 3]
    assert {name: split["num_episodes"] for name, split in by_id.splits.items()} == {"p": 2, "q": 4, "empty": 0}
    with pytest.raises(SchemaMismatchError, match="got 5 in none, 6 for example"):
        export(episodes, "my/x", license="mit", splits={"p": [3]}, store=tmp_path)
    with pytest.raises(SchemaMismatchError, match="got a stream"):
        export(iter(episodes), "my/x", license="mit", splits={"p": 1.0}, store=tmp_path)
    for wrong in ("", None, "mit license", "../x"):
        with pytest.raises(InvalidLicenseError, match="License"):
            export(episodes, "my/x", license=wrong, store=tmp_path)


def test_a_view_exports_like_any_source(dataset, tmp_path):
    folder = export(dataset.select([6, 9]), "my/two", license="mit", splits={"all": 1.0}, store=tmp_path)

    content = json.loads((folder / "rlhive.json").read_text())
    assert content["splits"] == {"all": {"num_episodes": 2, "num_transitions": 9}}
    assert content["parents"][0]["operations"] == ["select(2 ids)"]


@pytest.mark.parametrize("storage", [LazyTensorStorage, LazyMemmapStorage])
def test_a_replay_buffer_is_exported_as_the_episodes_that_it_holds(storage, tmp_path):
    flows = [transitions(length, length, ended=ended) for length, ended in ((4, "truncated"), (7, "terminated"))]
    buffer = TensorDictReplayBuffer(storage=storage(100), batch_size=4)
    for flow in flows:
        buffer.extend(flow)

    folder = export(buffer, "my/buffer", license="mit", splits={"train": 0.5, "test": 0.5}, store=tmp_path)

    dataset = RoboHiveDataset(folder, store=tmp_path)
    assert dataset.episodes["ended"].to_pylist() == ["truncated", "terminated"]
    assert sorted(dataset.episodes["split"].to_pylist()) == ["test", "train"]
    for number, flow in enumerate(flows):
        back = dataset.select([number]).as_tensordict()
        for key in flow.keys(True, True):
            assert back[key].numpy().tobytes() == flow[key].contiguous().numpy().tobytes(), key


def test_an_episode_that_lost_its_beginning_is_left_out(tmp_path, caplog):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10), batch_size=4)
    for seed in range(3):
        buffer.extend(transitions(4, seed))

    folder = export(buffer, "my/buffer", license="mit", store=tmp_path)

    assert RoboHiveDataset(folder).episodes["length"].to_pylist() == [4, 4]
    assert "dropped 1 episodes (2 transitions) whose beginning was overwritten" in caplog.text


def test_the_error_for_text_given_to_filter_names_where(dataset):
    with pytest.raises(TypeError, match=r"filter\('length > 1'\): expected a function.*where\(\)"):
        dataset.filter("length > 1")


# -- scrubbing --------------------------------------------------------------------------------------------------------


def test_a_scrubbed_version_is_a_patch_with_the_same_transitions(tmp_path):
    schema, episodes = records([4, 2, 7])
    token = "ghp_" + "aB3" * 12
    episodes[1].metadata.update(source="/home/alice/robot/log.h5", login={"api_key": "k1"}, note=f"see {token}", n=3)
    env = {"env_name": "ToyPoint-v0", "path": "/home/alice/secret-project/env.xml", "horizon": 7}
    runs = [{"run": "run", "env": env, "command": ["x", "--token=abc"], "host": {"name": "pc-7"}, "git": None}]
    options = {"schema": schema, "license": "mit", "store": tmp_path, "runs": runs, "description": f"By {token}."}
    old = RoboHiveDataset(export(episodes, "my/knob", **options), store=tmp_path)
    before = read_files(old)

    new = old.scrub()

    assert (new.name, new.version) == ("my/knob", "1.0.1")
    scrubbed_env = {"env_name": "ToyPoint-v0", "path": "env.xml", "horizon": 7}
    assert new.manifest.runs == ({"run": "run", "env": scrubbed_env, "git": None},)
    assert new.manifest.description == "By ***."
    assert new.manifest.parents[0]["operations"] == ["scrub"]
    records_before, records_after = read_episodes(old), read_episodes(new)
    metadata = {"note": "see ***", "source": "log.h5", "login": {"api_key": "***"}, "n": 3}
    assert records_after[6].metadata == metadata
    changed = replace(records_before[6], metadata=metadata)
    assert same(records_after[6], changed)
    assert all(same(records_after[episode], records_before[episode]) for episode in (3, 9))
    assert read_files(old) == before
    assert not [path for path, content in read_files(new).items() if token.encode() in content]
    assert old.scrub().version == "1.0.2"
