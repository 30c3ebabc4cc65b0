"""Pushes and pulls in separate processes, with the unmodified huggingface_hub, against a Hub on loopback."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.hub_client import TOKEN, ClientError, HubClient

OPEN = """
import os
os.environ["RLHIVE_DATASETS_PATH"] = store
from rlhive import RoboHiveDataset
dataset = RoboHiveDataset(name, **options)
answer = [dataset.version, dataset.as_tensordict()["next", "reward"].flatten().tolist()]
"""
PUSH = """
from pathlib import Path
from rlhive import RoboHiveDataset
answer = RoboHiveDataset(Path(folder)).push_to_hub(name, **options).__dict__
"""


def open_version(client: HubClient, store: Path, name: str = "org/knob", **options: Any) -> list[Any]:
    """Open a dataset and return its version and rewards."""
    return client.run(OPEN, store=str(store), name=name, options=options)


def push_version(client: HubClient, folder: Path, name: str = "org/knob", **options: Any) -> dict[str, str]:
    """Push a version and return repo_id, version, commit and url."""
    return client.run(PUSH, folder=str(folder), name=name, options=options)


def assert_raises(kind: str, part: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """Check that a client raises an error of one line without the token; return its message.

    Args:
        kind: Name of the error's class.
        part: Part of the message.
        function: Function that is called with the other arguments.
        *arguments: Its arguments.
        **options: Its keyword arguments.
    """
    with pytest.raises(ClientError) as caught:
        function(*arguments, **options)
    assert caught.value.kind == kind, caught.value.traceback
    assert part in caught.value.message
    assert "\n" not in caught.value.message
    assert TOKEN not in caught.value.traceback
    return caught.value.message


def read_rewards(folder: Path, split: str | None = None) -> list[float]:
    """Return the rewards of a version, or of one of its splits."""
    manifest = json.loads((folder / "rlhive.json").read_text())
    shards = [row["path"] for row in manifest["files"] if row["split"] and split in (None, row["split"])]
    return [reward for path in shards for reward in pq.read_table(folder / path)["next.reward"].to_pylist()]
