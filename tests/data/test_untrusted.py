"""Malicious manifests, files and names are refused with a short error, and no reader of datasets unpickles."""

import ast
import json
import os
from pathlib import Path

import pytest

import rlhive
from rlhive.data import _store, _untrusted
from rlhive.data.replay import open_packed
from rlhive.data.versions import _reader
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from rlhive.errors import CorruptDatasetError, InvalidNameError, UnsupportedFormatError
from tests.data.checks.walks import update_hashes
from tests.data.strategies import records

UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@pytest.fixture
def folder(tmp_path):
    schema, episodes = records([2, 3])
    return export(episodes, "my/knob", version="1.0.0", schema=schema, license="mit", store=tmp_path)


def change_manifest(folder, **changes):
    content = json.loads((folder / "rlhive.json").read_text())
    for key, change in changes.items():
        content[key] = change(content[key])
    (folder / "rlhive.json").write_text(json.dumps(content))


def unpickles(source: str):
    """Yield what may unpickle: imports, torch.load without weights_only=True, and allow_pickle."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        yield from (name for name in names if name.split(".")[0] in UNPICKLING)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            arguments = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            if (
                node.func.attr == "load"
                and getattr(node.func.value, "id", "") == "torch"
                and not arguments.get("weights_only")
            ):
                yield "torch.load"
            if arguments.get("allow_pickle"):
                yield "allow_pickle"


def test_nothing_is_ever_unpickled():
    names_by_path = {
        str(path): list(unpickles(path.read_text(encoding="utf-8")))
        for path in Path(rlhive.__file__).parent.rglob("*.py")
    }
    assert {path: names for path, names in names_by_path.items() if names} == {}
    assert list(unpickles("import pickle\ntorch.load(x)\nnp.load(x, allow_pickle=True)\nfrom dill import load")) == [
        "pickle",
        "dill",
        "torch.load",
        "allow_pickle",
    ]


OUTSIDE = ["../x", "data/../../x", "/etc/passwd", "data\\x", "C:x", "C:/x", "data//x", "", ".", "data/", "\x00"]
RESERVED = ["data/a\nb", "data/nul.parquet", "con", "data/x.", "a/b.lock", "é", "data/" + "x" * 300, None, 3, ["data"]]


@pytest.mark.parametrize("path", [*OUTSIDE, *RESERVED])
def test_a_path_that_leaves_the_folder_or_means_something_else_is_refused(folder, path):
    change_manifest(folder, files=lambda files: [files[0] | {"path": path}, *files[1:]])

    with pytest.raises(CorruptDatasetError, match="is not a manifest that RLHive wrote") as refused:
        Manifest.read(folder)
    assert "\n" not in str(refused.value)


def test_a_link_that_leaves_the_folder_is_refused_even_with_the_right_hash(folder, tmp_path):
    shard = next(folder.glob("data/*.parquet"))
    shard.rename(tmp_path / "elsewhere.parquet")
    shard.symlink_to(tmp_path / "elsewhere.parquet")
    manifest = Manifest.read(folder)

    with pytest.raises(CorruptDatasetError, match="is a link that leaves the version's folder"):
        _reader.read_rows(folder, manifest, list(manifest.splits))


def test_episodes_that_the_manifest_places_in_another_shard_are_not_dropped(tmp_path):
    schema, episodes = records([5, 3], splits=("a",))
    folder = export(episodes, "lab/two", version="1.0.0", schema=schema, license="mit", store=tmp_path, shard_bytes=1)
    counts = {0: 2, 1: 0}  # number of episodes per shard in the manifest; each shard has one
    shards = [entry.path for entry in Manifest.read(folder).shards("a")]
    change_manifest(
        folder,
        files=lambda files: [
            row | {"num_episodes": counts[shards.index(row["path"])]} if row["path"] in shards else row for row in files
        ],
    )

    with pytest.raises(CorruptDatasetError, match="expected 8 rows, got 5"):
        list(_reader.read_records(folder, Manifest.read(folder), ["a"]))


def test_a_linked_folder_is_accepted(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    manifest = Manifest.read(tmp_path / "link")

    assert _reader.read_rows(tmp_path / "link", manifest, list(manifest.splits)).num_rows == 5


def test_a_manifest_of_a_gigabyte_is_refused_unread(folder):
    with (folder / "rlhive.json").open("r+b") as file:
        file.truncate(2**30)

    with pytest.raises(CorruptDatasetError, match="expected a file of at most 67108864 bytes, got 1073741824 bytes"):
        Manifest.read(folder)


def test_a_manifest_that_is_a_pipe_or_a_device_is_refused_at_once(folder):
    (folder / "rlhive.json").unlink()
    os.mkfifo(folder / "rlhive.json")
    with pytest.raises(CorruptDatasetError, match="got something else"):
        Manifest.read(folder)
    (folder / "rlhive.json").unlink()
    (folder / "rlhive.json").symlink_to("/dev/zero")
    with pytest.raises(CorruptDatasetError, match="got something else"):
        Manifest.read(folder)


def test_a_manifest_of_a_newer_format_asks_for_an_upgrade(folder):
    change_manifest(folder, format_version=lambda version: version + 3)

    with pytest.raises(
        UnsupportedFormatError, match=r"expected format_version 1 to 3, got 4\. Upgrade: pip install -U rlhive"
    ):
        Manifest.read(folder)


@pytest.mark.parametrize(
    ("falsify", "message"),
    [
        (lambda rows: [row for row in rows if row["column"] != "action"], "column action: expected none, got"),
        (
            lambda rows: [row | {"dtype": "int64"} if row["column"] == "count" else row for row in rows],
            r"column (final\.)?count",
        ),
        (lambda rows: [row | {"shape": [4]} if row["column"] == "observation" else row for row in rows], "observation"),
        (lambda rows: [row | {"observed": True} if row["column"] == "action" else row for row in rows], "final.action"),
        (lambda rows: [row | {"shape": [2**20, 2**20]} for row in rows], "larger than a row may be"),
        (lambda rows: [*rows, rows[0]], "expected each column once"),
        (lambda rows: [row for row in rows if row["column"] != "next.truncated"], "next.truncated"),
        (lambda rows: [row | {"column": "episode"} if row["column"] == "count" else row for row in rows], "episode"),
    ],
)
def test_a_schema_that_lies_about_the_data_is_refused(folder, falsify, message):
    change_manifest(folder, schema=falsify)

    with pytest.raises(CorruptDatasetError, match=message):
        open_packed(folder, Manifest.read(folder))


@pytest.mark.parametrize(
    ("key", "falsify"),
    [
        ("splits", lambda splits: splits | {"a": {"num_episodes": 2, "num_transitions": 2}}),
        ("splits", lambda splits: splits | {"a b": {"num_episodes": 0, "num_transitions": 0}}),
        ("splits", lambda splits: splits | {"c": {"num_episodes": 10**30, "num_transitions": 0}}),
        ("files", lambda files: [files[0] | {"split": "b"}, *files[1:]]),
        ("files", lambda files: [files[0] | {"num_transitions": 3}, *files[1:]]),
        ("files", lambda files: [*files, files[0]]),
        ("files", lambda files: [row for row in files if row["path"] != "meta/episodes.parquet"]),
        ("description", lambda _: "a\x1b[2Jb"),
        ("statistics", lambda statistics: statistics | {"a": {"action": {"count": 1}}}),
        ("runs", lambda _: "run"),
    ],
)
def test_other_false_values_are_refused_too(folder, key, falsify):
    change_manifest(folder, **{key: falsify})

    with pytest.raises(CorruptDatasetError):
        open_packed(folder, Manifest.read(folder))


def test_a_table_of_other_columns_is_refused_even_with_the_right_hash(folder):
    (folder / "meta/episodes.parquet").write_bytes(next(folder.glob("data/*.parquet")).read_bytes())
    update_hashes(folder)

    with pytest.raises(CorruptDatasetError, match="column split: expected"):
        _reader.read_episodes(folder, Manifest.read(folder))


ODD = [
    "",
    "/",
    "a/",
    "/a",
    "a/b/c",
    "..",
    "a/..",
    "a\\b",
    "a b",
    "a\x00",
    "a\n",
    "é",
    "-a",
    ".cache",
    ".cache/a",
    "a/.lock",
]
DEVICES = ["con", "CON", "nul/a", "a/aux.txt", "com1", "LPT9/x"]
HUB = ["a.", "a-", "a--b", "a..b", "x.git", "x.lock", "x" * 97, "a/x.partial-1", "~", "~/a", "a:b", "a*", "a?", "$HOME"]


@pytest.mark.parametrize("name", [*ODD, *DEVICES, *HUB])
def test_a_name_that_a_folder_or_the_hub_cannot_have_is_refused(name):
    with pytest.raises(InvalidNameError, match="expected 'name' or 'namespace/name'") as refused:
        _store.parse_name(name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["a", "kitchen_knob1", "my-org/Data.Set_2", "7/x", "console", "a/lpt10", "null"])
def test_valid_names_are_accepted(name):
    assert _store.parse_name(name) == tuple(name.split("/")) if "/" in name else ("robohive", name)


@pytest.mark.parametrize("version", ["1.0", "1.0.0.0", "01.0.0", "1.0.0\n", "1\u0663.0.0", "-1.0.0", "1.0.x", ""])
def test_a_version_that_is_not_three_plain_numbers_is_refused(version):
    with pytest.raises(InvalidNameError, match="expected MAJOR"):
        _store.parse_version(version)


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (_untrusted.parse_count, [0, 1, 2**63 - 1], [-1, 2**63, 1.0, True, "1", None]),
        (_untrusted.parse_split_name, ["train", "a_1", "x" * 64], ["", "a b", "a-b", "x" * 65, "a\n", 3, None]),
        (_untrusted.parse_sha256, ["0" * 64, "0123456789abcdef" * 4], ["0" * 63, "A" * 64, "0" * 64 + "\n", 0, None]),
        (_untrusted.parse_text, ["", "a\tb\nc", "№"], ["\x1b[2J", "\x00", "\u202eabc", "\x85", 3, None]),
        (_untrusted.parse_file_path, ["a", "data/a-0.parquet", "_x/y.z"], ["../a", "/a", "a/", "a\\b", "con", "é", 3]),
        (_untrusted.parse_objects, [[], [{}]], [{}, [[]], [None], "a", None]),
    ],
)
def test_a_value_is_returned_or_an_error_names_what_was_expected(parse, good, bad):
    for value in good:
        assert parse(value) == (tuple(value) if isinstance(value, list) else value)
    for value in bad:
        with pytest.raises(ValueError, match=r"expected|leaves the version's folder"):
            parse(value)


NUMBERS = {"count": 2, "mean": [0.5, None], "std": [0, 1], "min": [0, 0], "max": [1, 2.5]}


def test_statistics_have_a_number_or_null_per_element():
    statistics = {"train": {"action": NUMBERS}, "test": {"action": NUMBERS | {"q50": [0, 0]}}}

    assert _untrusted.parse_statistics(statistics) is statistics


@pytest.mark.parametrize(
    "change",
    [
        {"count": -1},
        {"mean": [0.5]},
        {"mean": [0.5, "1"]},
        {"std": [0, True]},
        {"min": None},
        {"max": [1, float("inf")]},
        {"max": [1, float("nan")]},
        {"max": [1, 10**400]},
        {"q50": [1]},
    ],
    ids=str,
)
def test_malformed_statistics_are_refused(change):
    with pytest.raises(ValueError, match="expected"):
        _untrusted.parse_statistics({"train": {"action": NUMBERS | change}})
