"""What a push is about to publish: secrets are found wherever they stand, and the provenance is listed."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhive.data._schema import Field, Schema
from rlhive.data.hub._inspection import describe_files, describe_provenance, require_no_secret
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from rlhive.errors import CheckFailedError
from tests.data.hub.transfers import assert_raises, push_version
from tests.data.strategies import records
from tests.hub_client import TOKEN

SECRET = "ghp_" + "aB3" * 12


def columns(text):
    """Return columns of every type that can hold text, with a text in the third of four rows."""
    texts = ["a", None, f"x {text} y", "b"]
    nested = [["c"], [], ["d", texts[2]], None]
    return {
        "string": pa.array(texts),
        "large_string": pa.array(texts, pa.large_string()),
        "dictionary": pa.array(texts).dictionary_encode(),
        "list": pa.array(nested, pa.list_(pa.string())),
        "struct": pa.array([{"a": {"b": value}} for value in texts]),
        "list_of_structs": pa.array([[{"a": value}] for value in texts]),
    }


def search(path):
    require_no_secret({path.name: path}, next_step="Revoke it.")


@pytest.mark.parametrize("kind", columns(""))
def test_a_secret_in_any_column_of_text_is_found_with_its_address(kind, tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"number": [1, 2, 3, 4], kind: columns(SECRET)[kind]}), path, row_group_size=2)

    with pytest.raises(CheckFailedError) as refused:
        search(path)
    expected = f"a.parquet, column {kind}, row 2: expected no secret, it holds a GitHub token. Nothing was sent. Rev"
    assert str(refused.value).startswith(expected)
    pq.write_table(pa.table({kind: columns("harmless")[kind]}), path)
    search(path)


def test_a_secret_in_the_schema_of_a_parquet_file_is_found(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"note": SECRET}), path)

    with pytest.raises(CheckFailedError, match=r"a\.parquet, schema: expected no secret"):
        search(path)


@pytest.mark.parametrize("before", [0, 4 * 2**20 - 20])
def test_a_secret_in_any_other_file_is_found_across_the_borders_of_chunks(before, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(before) + f" {SECRET} ".encode() + bytes(range(256)))

    with pytest.raises(CheckFailedError, match=f"byte {before + 1}: expected no secret, it holds a GitHub token"):
        search(path)
    path.write_bytes(bytes(range(256)) * 100)
    search(path)


def test_a_secret_of_this_environment_is_found(tmp_path, monkeypatch):
    path = tmp_path / "card.md"
    path.write_text("key: 0123456789abcdef0123")
    search(path)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123")

    with pytest.raises(CheckFailedError, match=r"card\.md, byte 5: expected no secret, it holds a secret of this env"):
        search(path)


@pytest.mark.parametrize("place", ["metadata", "policy", "description", "column", "runs"])
def test_a_version_with_a_secret_is_not_pushed(hub, online, tmp_path, place):
    schema, episodes = records([3, 2])
    fields = (*schema.fields, Field("instruction", "string", (), observed=False))
    schema = Schema(tuple(sorted(fields, key=lambda item: item.column)))
    for record in episodes:
        record.columns["instruction"] = np.array(["turn"] * record.length, dtype=object)
    options = {"schema": schema, "license": "mit", "store": tmp_path / "store"}
    if place == "metadata":
        episodes[1].metadata["note"] = f"use {SECRET}"
    elif place == "policy":
        episodes[1].__dict__["policy"] = SECRET
    elif place == "column":
        episodes[1].columns["instruction"][1] = f"say {SECRET}"
    else:
        options[place] = SECRET if place == "description" else [{"run": "run", "note": SECRET}]
    folder = export(episodes, "org/knob", version="1.0.0", **options)

    message = assert_raises("CheckFailedError", "holds a GitHub token", push_version, online, folder)

    address = {"metadata": "meta/episodes.parquet, column metadata, row 1", "column": "column instruction, row 1"}
    assert address.get(place, ":") in message
    assert "rlhive scrub org/knob --version 1.0.0" in message
    assert SECRET not in message
    assert hub.requests == []


PUSH_FOLDER = """
from pathlib import Path
from rlhive.data.hub import push_folder
answer = push_folder(Path(folder), "org/other", version="1.0.0", tag="v3.0", progress=False).commit
"""


def test_a_folder_with_a_secret_is_not_pushed(hub, online, tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text(f'{{"note": "{TOKEN}"}}')

    message = "meta/info.json, byte 10: expected no secret, it quotes your Hub token"
    assert_raises("CheckFailedError", message, online.run, PUSH_FOLDER, folder=str(tmp_path))

    assert hub.requests == []
    (tmp_path / "meta/info.json").write_text("{}")
    online.run(PUSH_FOLDER, folder=str(tmp_path))
    assert "org/other v3.0 publishes: 1 files (1 .json); columns of text: none" in online.log.read_text()


def test_a_push_lists_the_provenance_before_it_sends_anything(hub, online, tmp_path):
    schema, episodes = records([3, 2])
    episodes[0].metadata["operator"] = "Ünal"
    host = {"name": "pc-7\x1b[2J"}
    runs = [{"run": "run", "env": {"env_name": "x"}, "command": ["collect.py"], "host": host}]
    folder = export(
        episodes, "org/knob", version="1.0.0", schema=schema, license="mit", store=tmp_path / "store", runs=runs
    )
    hub.broken = 403
    assert_raises("HubAccessDeniedError", "may not do this", push_version, online, folder)

    manifest = Manifest.read(folder)
    listing = describe_provenance(manifest, folder)
    assert f"org/knob 1.0.0 publishes: {listing}" in online.log.read_text()
    assert "1 runs with command, env, host, run; metadata of the episodes: " in listing
    assert "operator" in listing
    assert "this machine: command (['collect.py']); host ({'name': 'pc-7\\x1b[2J'})" in listing
    assert describe_files({"a/b.parquet": folder / "meta/episodes.parquet"}).startswith("1 files (1 .parquet); columns")
