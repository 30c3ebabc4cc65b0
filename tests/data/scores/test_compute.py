"""Scores of a version, and where they are kept."""

import collections
import errno
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tqdm

from rlhive import RoboHiveDataset, export
from rlhive.data import _parquet
from rlhive.data.scores import add_scores, compute_scores, read_stored_scores, score_path
from rlhive.data.scores._measures import take_moments
from rlhive.data.scores._nearest import measure_isolation
from rlhive.data.versions import SCORE_COLUMNS, Manifest
from rlhive.errors import SchemaMismatchError
from tests.data.scores.arms import KINDS, SCHEMA, make_arm, make_planted

OPTIONS = {"schema": SCHEMA, "license": "mit", "version": "1.0.0"}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The folder of a version with planted episodes."""
    return export(make_planted(), "my/arms", store=tmp_path_factory.mktemp("planted"), **OPTIONS)


def test_planted_bad_episodes_are_found_and_good_ones_are_not_accused(planted):
    manifest = Manifest.read(planted)
    outliers = compute_scores(planted, manifest)["outlier"].to_pylist()
    kinds = [record.metadata["kind"] for record in make_planted()]
    reasons = collections.defaultdict(list)
    for kind, outlier in zip(kinds, outliers, strict=True):
        reasons[kind].append(outlier)

    named = {"jerky": "jerk", "idle": "idle", "saturated": "saturation", "duplicated": "duplicate"}
    for kind in KINDS:
        assert all(named.get(kind, "isolation") in outlier for outlier in reasons[kind]), (kind, reasons[kind])
    assert sum(bool(outlier) for outlier in reasons["good"]) <= 0.05 * len(reasons["good"])


def test_scores_are_those_of_the_stored_numbers(planted):
    table = compute_scores(planted, Manifest.read(planted)).to_pylist()
    dataset = RoboHiveDataset(planted)
    std = np.array(dataset.statistics["observation"]["std"])

    for record in make_planted()[::17]:
        states = np.concatenate([record.columns["observation"], record.final["observation"][None]])
        actions = record.columns["action"].astype(np.float64)
        row = table[record.episode]
        assert row["episode"] == record.episode
        assert row["jerk"] == pytest.approx(np.sqrt(np.mean(np.diff(actions, 3, axis=0) ** 2)))
        assert row["path_length"] == pytest.approx(np.sqrt(np.mean((np.diff(states, axis=0) / std) ** 2, 1)).sum())
        assert row["distance_to_goal"] is None


def test_isolation_compares_each_action_with_the_state_that_it_was_chosen_in(planted):
    statistics = RoboHiveDataset(planted).statistics
    parts = []
    for column in ("observation", "action"):
        std = np.array(statistics[column]["std"])
        rows = np.stack([take_moments(record.columns[column], 16) for record in make_planted()])
        parts.append(rows / std / np.sqrt(len(std)))  # every column counts like one number
    expected = measure_isolation(np.concatenate(parts, axis=2))

    assert compute_scores(planted, Manifest.read(planted))["isolation"].to_pylist() == pytest.approx(expected, rel=1e-4)


def test_the_passes_over_all_episodes_show_their_progress(planted, monkeypatch, capsys):
    def show_at_once(*args, **options):
        return bar(*args, **(options | {"delay": 0}))

    bar = tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", show_at_once)
    compute_scores(planted, Manifest.read(planted))
    printed = capsys.readouterr().err

    assert "score my/arms" in printed
    assert "compare episodes" in printed


def test_an_episode_without_scores_has_null(planted):
    scores = compute_scores(planted, Manifest.read(planted))
    table = add_scores(pa.table({"episode": [4, 7, 2]}), scores.filter(pa.array(np.arange(len(scores)) != 7)), ["jerk"])

    assert table["jerk"].to_pylist() == [scores["jerk"][4].as_py(), None, scores["jerk"][2].as_py()]


def test_jerk_is_per_second_where_the_rate_is_known(tmp_path):
    records = [make_arm(episode) for episode in range(9)]
    folders = [
        export(records, f"my/{name}", store=tmp_path, runs=runs, **OPTIONS)
        for name, runs in (("slow", []), ("fast", [{"run": "", "fps": 20.0}]))
    ]
    slow, fast = (compute_scores(folder, Manifest.read(folder))["jerk"].to_numpy() for folder in folders)

    assert fast == pytest.approx(20.0**3 * slow)


def test_scores_do_not_depend_on_how_files_divide_the_episodes(tmp_path):
    lengths = [40, 5, 3, 1, 17, 40, 2, 30, 30]
    records = [make_arm(episode, length=length) for episode, length in enumerate(lengths)]
    one = export(records, "my/one", store=tmp_path, **OPTIONS)
    many = export(records, "my/many", store=tmp_path, shard_bytes=1, **OPTIONS)

    first, second = (compute_scores(folder, Manifest.read(folder)) for folder in (one, many))

    assert len(Manifest.read(many).files) > len(Manifest.read(one).files)
    for name in first.column_names[:-1]:
        values = [table[name].to_numpy(zero_copy_only=False).astype(float) for table in (first, second)]
        assert values[1] == pytest.approx(values[0], nan_ok=True), name
    assert first["outlier"].to_pylist() == second["outlier"].to_pylist()
    assert [value is None for value in first["jerk"].to_pylist()] == [length < 4 for length in lengths]


def test_pictures_are_not_read(tmp_path, monkeypatch):
    from rlhive.data._schema import Field, Schema

    pixels = Field("pixels", "uint8", (4, 4, 3), observed=True)
    records = [
        replace(
            record,
            columns=record.columns | {"pixels": np.zeros((record.length, 4, 4, 3), np.uint8)},
            final=record.final | {"pixels": np.zeros((4, 4, 3), np.uint8)},
        )
        for record in map(make_arm, range(3))
    ]
    options = OPTIONS | {"schema": Schema((*SCHEMA.fields[:4], pixels))}
    folder = export(records, "my/pictures", store=tmp_path, **options)
    read, original = [], _parquet.read_table

    def remember(path, columns=None, **options):
        read.extend(columns)
        return original(path, columns, **options)

    monkeypatch.setattr(_parquet, "read_table", remember)
    compute_scores(folder, Manifest.read(folder))

    assert "observation" in read
    assert not [name for name in read if "pixels" in name]


def test_a_version_without_numbers_is_refused(tmp_path):
    from rlhive.data._schema import Schema

    schema = Schema(tuple(field for field in SCHEMA.fields if field.column.startswith("next.")))
    records = [
        replace(record, columns={name: record.columns[name] for name in schema.columns}, final={})
        for record in map(make_arm, range(2))
    ]
    folder = export(records, "my/flags", store=tmp_path, **(OPTIONS | {"schema": schema}))

    with pytest.raises(SchemaMismatchError, match="expected actions or observed numbers to score, got neither"):
        compute_scores(folder, Manifest.read(folder))


def test_scores_are_kept_beside_the_dataset_and_computed_once(planted, store, monkeypatch):
    dataset = RoboHiveDataset(planted, store=store)
    first = dataset.score()
    path = score_path(dataset.fingerprint, store=store)
    monkeypatch.setattr("rlhive.dataset._scores.compute_scores", lambda *_, **__: pytest.fail("computed again"))

    assert path.is_file()
    assert RoboHiveDataset(planted, store=store).score().equals(first)
    assert first.column_names == ["episode", "split", *SCORE_COLUMNS]
    assert not list(planted.rglob("*scores*"))


@pytest.mark.parametrize("damage", ["cut", "other columns", "other episodes"])
def test_a_damaged_file_of_scores_is_computed_again(planted, store, damage):
    dataset = RoboHiveDataset(planted, store=store)
    first = dataset.score()
    path = score_path(dataset.fingerprint, store=store)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "other columns":
        pq.write_table(first.drop_columns(["split", "jerk"]), path)
    else:
        pq.write_table(pq.read_table(path).slice(3), path)

    assert read_stored_scores(dataset.manifest, store=store) is None
    assert dataset.score().equals(first)
    assert read_stored_scores(dataset.manifest, store=store) is not None


def test_a_store_that_cannot_be_written_gives_the_scores_and_a_warning(planted, store, caplog, monkeypatch):
    def refuse(path, content):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("rlhive.data._store.write_atomically", refuse)

    assert len(RoboHiveDataset(planted, store=store).score()) == 100
    assert "The scores are not kept" in caplog.text


def test_where_takes_scores_and_metadata_together(planted, store):
    dataset = RoboHiveDataset(planted, store=store)
    rows = dataset.score().to_pylist()
    limit = float(np.median([row["jerk"] for row in rows]))

    smooth = dataset.where(f"jerk < {limit!r} and not duplicate")
    expected = [row["episode"] for row in rows if row["jerk"] < limit and not row["duplicate"]]

    assert smooth._view.episode_ids() == expected
    assert 30 < len(expected) < 50
    assert RoboHiveDataset(planted, store=store, where="outlier == ''")._view.episode_ids() == [
        row["episode"] for row in rows if not row["outlier"]
    ]
    held = dataset.where("metadata.kind == 'idle' and idle > 0.3")
    assert {json.loads(row)["kind"] for row in held.episodes["metadata"].to_pylist()} == {"idle"}
    assert len(held.episodes) == 4


def test_a_view_has_the_scores_of_its_episodes_among_all_of_the_version(planted, store):
    dataset = RoboHiveDataset(planted, store=store)
    rows = dataset.score().to_pylist()

    selected = dataset.select([50, 7]).split({"test": [7, 50]}).score().to_pylist()

    assert selected == [rows[7] | {"split": "test"}, rows[50] | {"split": "test"}]


def test_a_saved_selection_has_scores_of_its_own(planted, store):
    dataset = RoboHiveDataset(planted, store=store)
    saved = dataset.where("not duplicate").save("my/unique")

    assert saved.fingerprint != dataset.fingerprint
    assert not any(saved.score()["duplicate"].to_pylist())
