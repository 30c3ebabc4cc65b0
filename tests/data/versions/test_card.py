"""The card describes the version, and the Hub, datasets, pandas, Polars and DuckDB read its files."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml

from rlhive.data.versions import _reference_scores
from rlhive.data.versions._card import render_card
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from rlhive.errors import InvalidLicenseError
from tests.data.checks.walks import SCHEMA, make_walk
from tests.data.strategies import records, teleoperated_records

RUN = {
    "run": "run",
    "env": {"horizon": 30, "model_hash": "ab12", "versions": {"mujoco": "3.1.3", "robohive": "0.7.0"}},
    "versions": {"rlhive": "0.1.0"},
    "policies": {"train": {"noise": 0.5}},
    "seeds": "each episode's id",
}


@pytest.fixture(scope="module")
def episodes():
    return [make_walk(number) for number in range(6)]


@pytest.fixture(scope="module")
def folder(episodes, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    options = {"description": "A walk.", "env_name": "Walk-v0", "certificate": "6 bit-exact", "license": "cc-by-4.0"}
    return export(episodes, "my/walk", version="1.2.0", schema=SCHEMA, runs=[RUN], store=store, **options)


@pytest.fixture(scope="module")
def card(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def scores(monkeypatch):
    """Scores of one task of a benchmark."""
    result = {"num_episodes": 100, "return_mean": -12.345, "success_rate": 0.25}
    split = {"bc": [44.2, 38.0, 49.6], "iql": [79.5, 75.1, 83.8]}
    row = {"policies": {"random": result}, "fingerprint": "ab" * 32, "scores": {"mixed": split}}
    monkeypatch.setattr(_reference_scores, "_read_score_rows", lambda: {"bench_walk": row})


def test_the_card_of_a_benchmark_dataset_has_its_reference_scores(folder, scores):
    manifest = replace(Manifest.read(folder), task="bench_walk", fingerprint="ab" * 32)
    outcomes = dict.fromkeys(manifest.splits, (1.0, 0.5))

    card = render_card(manifest, outcomes)
    other = render_card(replace(manifest, fingerprint="cd" * 32), outcomes)

    assert "## Reference scores" in card
    assert "| random | 100 | -12.35 | 25% |" in card
    assert "| split | bc | iql |\n|---|---:|---:|\n| mixed | 44 (38 to 50) | 80 (75 to 84) |" in card
    assert "| random | 100 | -12.35 | 25% |" in other
    assert "| mixed |" not in other
    assert "known for the content `abababababababab`, which this is not" in other
    assert "Reference scores" not in render_card(replace(manifest, task="walk"), outcomes)


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_the_front_matter_is_what_the_hub_reads(card):
    head = front_matter(card)

    assert head["license"] == "cc-by-4.0"
    assert head["configs"] == [
        {
            "config_name": "default",
            "default": True,
            "data_files": [{"split": name, "path": f"data/{name}-*.parquet"} for name in ("test", "train")],
        },
        {"config_name": "episodes", "data_files": "meta/episodes.parquet"},
    ]
    assert head["size_categories"] == ["n<1K"]


def test_the_card_describes_the_data(card, folder, episodes):
    train = [record for record in episodes if record.split == "train"]
    mean = np.mean([record.episode_return for record in train])
    success = np.mean([record.success for record in train])
    actions = np.concatenate([record.columns["action"] for record in episodes])
    for text in (
        "# my/walk 1.2.0",
        "A walk.",
        f"| train | 3 | 90 | {mean:.2f} | {success:.0%} |",
        f"| `action` | float32 | 2 |  | {actions.min():.4g} | {actions.mean():.4g} | {actions.max():.4g} |",
        "- Environment: `Walk-v0`",
        "- Recorded with rlhive 0.1.0, robohive 0.7.0, mujoco 3.1.3",
        "- Compiled model: `ab12`",
        '- Policy of `train`: `{"noise": 0.5}`',
        "- Seeds: each episode's id",
        "- Replay: 6 bit-exact",
        "- Licence: cc-by-4.0",
        Manifest.read(folder).fingerprint,
        'RoboHiveDataset("my/walk", version="1.2.0").as_replay_buffer()',
        'load_dataset("my/walk", revision="v1.2.0")',
        "![Returns per split](returns.svg)",
    ):
        assert text in card, text


def test_a_licence_is_required(episodes, tmp_path):
    with pytest.raises(TypeError, match="license"):
        export(episodes, "my/walk", version="1.0.0", schema=SCHEMA, store=tmp_path)
    for license in ("", "my own", None):
        with pytest.raises(InvalidLicenseError, match=r"expected an identifier such as 'apache-2\.0'"):
            export(episodes, "my/walk", version="1.0.0", schema=SCHEMA, license=license, store=tmp_path)


def test_text_from_a_manifest_is_escaped(folder):
    manifest = Manifest.read(folder)
    markup = "x\n---\nlicense: mit\n---\n<script>alert(1)</script> [a](http://b) | `c`"
    returns = dict.fromkeys(manifest.splits, (0.0, 0.0))
    card = render_card(replace(manifest, description=markup, env_name=markup, parents=({"name": markup},)), returns)

    assert front_matter(card)["license"] == "cc-by-4.0"
    assert "\n---\n" not in card.split("---\n", 2)[2]
    shown = card.replace("`x --- license: mit --- <script>alert(1)</script> [a](http://b) ¦ 'c'`", "")
    assert "<script" not in shown.replace("\\<", "")
    assert "[a](" not in shown


@pytest.mark.parametrize("text", ["\x1b[2J", "\u202eevil", "\ud800", "\x9b31m", "</script><script>", "\u2028"])
def test_no_text_of_a_manifest_acts_in_a_card(folder, text):
    manifest = Manifest.read(folder)
    run = {"run": text, "env": {"model_hash": text, "versions": {"mujoco": text}}, "seeds": text}
    run |= {"policies": {text: {text: [text]}}, "versions": {"rlhive": text}}
    hostile = replace(
        manifest,
        **dict.fromkeys(("license", "description", "env_name", "task", "created"), text),
        runs=(run,),
        parents=({"name": text, "version": text}, {"other": text}),
        schema=replace(manifest.schema, fields=tuple(replace(item, unit=text) for item in manifest.schema.fields)),
    )

    card = render_card(hostile, dict.fromkeys(manifest.splits, (0.0, 0.0)), certificate=text)

    assert front_matter(card)["license"] == "other"
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]", card)
    assert "<script>" not in re.sub(r"`[^`\n]*`", "", card).replace("\\<", "")


def test_the_picture_is_in_the_version_and_not_in_the_fingerprint(folder, episodes, tmp_path):
    manifest = Manifest.read(folder)
    other = export(episodes, "my/walk", version="1.2.0", schema=SCHEMA, license="mit", runs=[], store=tmp_path)

    assert "returns.svg" in [entry.path for entry in manifest.files]
    assert Manifest.read(other).fingerprint == manifest.fingerprint
    assert (other / "returns.svg").read_bytes() == (folder / "returns.svg").read_bytes()


def expected_rows(episodes, split):
    split_episodes = [record for record in episodes if record.split == split]
    return {
        "episode": [record.episode for record in split_episodes for _ in range(record.length)],
        "step_count": [step for record in split_episodes for step in range(record.length)],
        "next.reward": [x for record in split_episodes for x in record.columns["next.reward"].ravel().tolist()],
        "observation": [row.tolist() for record in split_episodes for row in record.columns["observation"]],
        "action": [row.tolist() for record in split_episodes for row in record.columns["action"]],
        "next.truncated": [x for record in split_episodes for x in record.columns["next.truncated"].ravel().tolist()],
    }


def test_datasets_reads_one_row_per_transition_where_rlhive_is_not_importable(folder, episodes, tmp_path):
    script = """
import sys, json
sys.modules["rlhive"] = None
import datasets
loaded = datasets.load_dataset(sys.argv[1])
print(json.dumps({split: {name: rows[name][:] for name in json.loads(sys.argv[2])} for split, rows in loaded.items()}))
"""
    names = json.dumps(list(expected_rows(episodes, "train")))
    ran = subprocess.run(
        [sys.executable, "-c", script, str(folder), names], capture_output=True, text=True, check=True, cwd=tmp_path
    )

    assert json.loads(ran.stdout) == {split: expected_rows(episodes, split) for split in ("test", "train")}


def test_pandas_polars_and_duckdb_read_the_same_rows(folder, episodes):
    pattern = str(folder / "data/train-*.parquet")
    columns = expected_rows(episodes, "train")
    ordered = duckdb.sql(f"SELECT * FROM read_parquet('{pattern}') ORDER BY episode, step_count")
    frames = {
        "pandas": pd.read_parquet(next(folder.glob("data/train-*.parquet"))),
        "polars": pl.read_parquet(pattern),
        "duckdb": ordered.to_arrow_table(),
    }
    for name, values in columns.items():
        assert [plain(value) for value in frames["pandas"][name]] == values, name
        assert frames["polars"][name].to_list() == values, name
        assert frames["duckdb"][name].to_pylist() == values, name
    table = folder / "meta/episodes.parquet"
    total = duckdb.sql(f"SELECT sum(\"return\") AS total FROM read_parquet('{table}')").to_arrow_table()
    assert total["total"].to_pylist() == [pytest.approx(sum(record.episode_return for record in episodes))]


def test_text_and_pictures_are_read_by_others_too(tmp_path):
    schema, episodes = records([3, 2], splits=("a",))
    other = export(episodes, "my/knob", version="1.0.0", schema=schema, license="mit", store=tmp_path)
    frame = pl.read_parquet(str(other / "data/*.parquet"))
    images = np.concatenate([record.columns["parts.camera"] for record in episodes])

    assert np.array_equal(np.array(frame["parts.camera"].to_list()).reshape(images.shape), images)


def plain(value):
    return value.tolist() if hasattr(value, "tolist") else value


def test_the_card_of_a_teleoperated_robot_says_what_was_not_recorded(tmp_path):
    folder = export(teleoperated_records([5, 6]), "lab/teleop", license="mit", store=tmp_path)
    card = (folder / "README.md").read_text(encoding="utf-8")
    head = front_matter(card)

    assert "| train | 2 | 11 | not recorded | not recorded |" in card
    assert "Why an episode ends was not recorded: `next.terminated` and `next.truncated` are set in no row." in card
    for absent in ("robohive", "mujoco", "start state", "seed", "0%", "0.00 |", "returns.svg", "time limit"):
        assert absent not in card.lower().replace("from rlhive import robohivedataset", "").replace(
            "robohivedataset(", ""
        ), absent
    assert head["tags"] == ["rlhive", "imitation-learning", "torchrl"]
    assert head["task_categories"] == ["robotics"]
    assert not (folder / "returns.svg").exists()


def test_tags_say_where_the_episodes_were_recorded(folder, card):
    assert front_matter(card)["tags"] == ["rlhive", "robohive", "mujoco", "offline-rl", "torchrl"]
    manifest = replace(Manifest.read(folder), runs=({"run": "a", "env": {"env_name": "Real-v0"}},))
    elsewhere = render_card(manifest, dict.fromkeys(manifest.splits, (0.0, 0.0)))
    assert front_matter(elsewhere)["tags"] == ["rlhive", "offline-rl", "torchrl"]
