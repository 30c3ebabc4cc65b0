"""The verbs that derive a version: select, split, merge, append, rename, drop."""

import json

import pytest

from rlhive import RoboHiveDataset
from tests.cli.conftest import invoke

pytestmark = pytest.mark.usefixtures("filled")


def made(*words):
    """Type a command; return the dataset that it says it made."""
    ran = invoke(*words, "--json")
    assert ran.exit_code == 0, ran.stderr
    described = json.loads(ran.stdout)
    return RoboHiveDataset(described["name"], version=described["version"])


def ids(dataset):
    return dataset.episodes["episode"].to_pylist()


def test_select_keeps_the_episodes_that_meet_the_condition():
    dataset = RoboHiveDataset("toy_point")
    solved = made("select", "toy_point", "--into", "my/solved", "--where", "success and return > 15")
    experts = made("select", "toy_point", "--into", "my/experts", "--split", "expert")

    assert ids(solved) == ids(dataset.where("success and return > 15"))
    assert ids(experts) == ids(dataset["expert"])
    assert solved.manifest.license == dataset.manifest.license
    assert made("select", "toy_point", "--into", "my/all", "--license", "mit").manifest.license == "mit"


def test_split_draws_by_share_and_seed():
    for seed in (0, 1):
        parts = made("split", "toy_point", "train=0.75", "test=0.25", "--into", f"my/parts{seed}", "--seed", seed)
        expected = RoboHiveDataset("toy_point").split({"train": 0.75, "test": 0.25}, seed=seed)
        assert ids(parts["test"]) == ids(expected["test"])
        assert parts.counts["train"]["num_episodes"] == 18


def test_merge_joins_and_append_adds():
    made("select", "toy_point", "--into", "my/a", "--split", "expert")
    made("select", "toy_point", "--into", "my/b", "--split", "random")
    both = made("merge", "my/a", "my/b", "--into", "my/both")
    longer = made("append", "my/a", "toy_point", "--split", "medium", "--where", "not success")

    assert {split: count["num_episodes"] for split, count in both.counts.items()} == {"expert": 8, "random": 8}
    failed = len(RoboHiveDataset("toy_point", split="medium").where("not success").episodes)
    assert (longer.name, longer.version) == ("my/a", "2.0.0")
    assert {split: count["num_episodes"] for split, count in longer.counts.items()} == {"expert": 8, "medium": failed}


def test_collect_refuses_a_storage_before_it_records():
    ran = invoke("collect", "toy_point", "--name", "my/other", "--storage", "pixels=av1")

    assert ran.exit_code == 1
    assert "storage: expected columns of action, next.reward" in ran.stderr


def test_encode_takes_columns_that_can_be_stored_so():
    before = RoboHiveDataset("toy_point")

    encoded = made("encode", "toy_point", "--keys", "action=raw, observation=raw", "--into", "my/raw")

    assert encoded.fingerprint == before.fingerprint
    for keys, message in (
        ("action=png", "storage of action: png holds pictures uint8"),
        ("camera=png", "storage: expected columns of action"),
        ("action", "'action': expected COLUMN=STORAGE, pixels=png for example"),
    ):
        ran = invoke("encode", "toy_point", "--keys", keys)
        assert ran.exit_code == 1
        assert message in ran.stderr


def test_rename_and_drop_change_the_columns():
    renamed = made("rename", "toy_point", "success", "solved", "--into", "my/renamed")
    dropped = made("drop", "my/renamed", "solved")

    assert set(renamed.schema.columns) - set(RoboHiveDataset("toy_point").schema.columns) == {"solved"}
    assert (dropped.name, dropped.version) == ("my/renamed", "2.0.0")
    assert "solved" not in dropped.schema.columns


def test_without_json_the_version_is_printed():
    ran = invoke("select", "toy_point", "--into", "my/solved", "--where", "success")
    assert ran.exit_code == 0
    assert ran.stdout.splitlines()[0] == "RoboHiveDataset my/solved 1.0.0"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["split", "toy_point", "train=a", "--into", "x"], "train=a: expected a share of the episodes"),
        (["split", "toy_point", "train", "--into", "x"], "'train': expected SPLIT=SHARE, train=0.9 for example"),
        (["split", "toy_point", "train=0.5", "--into", "x"], "sum to 1, got {'train': 0.5} (sum 0.5)"),
        (["merge", "toy_point", "--into", "x"], "expected at least two datasets, got toy_point"),
        (["drop", "toy_point", "nothing"], "There is no column nothing: expected one of action"),
        (["rename", "toy_point", "nothing", "x"], "There is no column nothing"),
        (["select", "toy_point", "--into", "x", "--where", "succes"], "there is no column succes"),
        (
            ["select", "toy_point", "--into", "x", "--split", "train"],
            "no split 'train' here: expected one of expert",
        ),
        (["append", "toy_point", "missing"], "missing"),
    ],
)
def test_wrong_words_are_one_sentence_and_write_nothing(words, says, filled):
    before = sorted(path for path in filled.rglob("*") if "lock" not in path.name)
    ran = invoke(*words)

    assert ran.exit_code == 1
    assert says in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr
    assert sorted(path for path in filled.rglob("*") if "lock" not in path.name) == before
