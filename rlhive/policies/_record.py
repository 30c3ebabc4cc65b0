"""Validation of ``checkpoint.json``: a checkpoint can come from anyone, so every value is checked before it is used."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhive.policies._mlp import ACTIVATIONS
from rlhive.policies._networks import MLP_KIND, MLP_OPTIONS_KINDS

FORMAT_VERSION = 1
#: A record holds the configuration of one training: some kilobytes.
MAX_RECORD_BYTES = 16 * 2**20
_MAX_DIM = 2**31


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of ``checkpoint.json``, with the entries that loading needs checked.

    Raises:
        ValueError: The file is no such record; the message says which entry, what was expected and what was found.
    """
    with path.open("rb") as file:
        content = file.read(MAX_RECORD_BYTES + 1)
    if len(content) > MAX_RECORD_BYTES:
        msg = f"expected at most {MAX_RECORD_BYTES} bytes"
        raise ValueError(msg)
    try:
        record = json.loads(content.decode("utf-8"))
    except RecursionError as error:
        msg = "expected JSON, got a document that is nested too deeply"
        raise ValueError(msg) from error
    if not isinstance(record, dict) or "format_version" not in record:
        msg = "expected a JSON object with a format_version"
        raise ValueError(msg)
    if type(record["format_version"]) is not int or record["format_version"] != FORMAT_VERSION:
        msg = (
            f"expected format_version {FORMAT_VERSION}, got {_to_short_json(record['format_version'])}. "
            f"Open it with the RLHive that wrote it."
        )
        raise ValueError(msg)
    return record


def require_network(record: Mapping[str, Any]) -> None:
    """Raise ValueError unless a record describes a network and the environment that it acts in."""
    env_name = record.get("env_name")
    if not isinstance(env_name, str) or not env_name.isprintable():  # bidi marks and surrogates are not printable
        msg = f"env_name: expected the id of an environment, got {_to_short_json(env_name)}"
        raise ValueError(msg)
    for name in ("observation_dim", "action_dim"):
        _require_dim(record.get(name), name)
    network = record.get("network")
    if not isinstance(network, dict):
        msg = f"network: expected an object, got {_to_short_json(network)}"
        raise ValueError(msg)
    kind = network.get("kind", MLP_KIND)
    if not isinstance(kind, str) or not kind.isprintable():
        msg = f"network.kind: expected the name of a kind of network, got {_to_short_json(kind)}"
        raise ValueError(msg)
    if kind in MLP_OPTIONS_KINDS:
        require_mlp(network)


def require_mlp(network: Mapping[str, Any]) -> None:
    """Raise ValueError unless a section ``network`` has the options of a perceptron."""
    hidden_sizes, activation, dropout = (network.get(name) for name in ("hidden_sizes", "activation", "dropout"))
    if not isinstance(hidden_sizes, list):
        msg = f"network.hidden_sizes: expected a list, got {_to_short_json(hidden_sizes)}"
        raise ValueError(msg)
    for size in hidden_sizes:
        _require_dim(size, "network.hidden_sizes")
    if activation not in list(ACTIVATIONS):  # a list: the value may be unhashable
        msg = f"network.activation: expected one of {', '.join(ACTIVATIONS)}, got {_to_short_json(activation)}"
        raise ValueError(msg)
    if not isinstance(dropout, int | float) or isinstance(dropout, bool) or not 0 <= dropout < 1:
        msg = f"network.dropout: expected a probability below 1, got {_to_short_json(dropout)}"
        raise ValueError(msg)
    if not isinstance(network.get("layer_norm", False), bool):
        msg = f"network.layer_norm: expected true or false, got {_to_short_json(network['layer_norm'])}"
        raise ValueError(msg)


def _require_dim(value: Any, name: str) -> None:
    if type(value) is not int or not 1 <= value <= _MAX_DIM:
        msg = f"{name}: expected a size of at least 1, got {_to_short_json(value)}"
        raise ValueError(msg)


def _to_short_json(value: Any) -> str:
    """Return the first characters of a value's JSON, in ASCII."""
    return json.dumps(value)[:80]
