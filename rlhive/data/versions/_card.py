"""The dataset card: the README.md of a version. YAML that the Hub's viewer reads, then words, a picture and tables.

A manifest comes from anyone and a card is Markdown that a browser shows, so what goes into it is escaped.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from rlhive.data.versions._manifest import EPISODES_PATH, Manifest

_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))


def render_card(
    manifest: Manifest, returns: Mapping[str, tuple[float, float]], *, picture: str = "", certificate: str = ""
) -> str:
    """Return the card of a version.

    Args:
        manifest: Of the version; its files need not be known yet.
        returns: Mean return and success rate of each split.
        picture: Path of the picture in the version; none by default.
        certificate: What a replay of its episodes found, in a sentence; nothing by default.
    """
    head = yaml.safe_dump(_front_matter(manifest), sort_keys=False, allow_unicode=True)
    return "\n".join(
        [
            f"---\n{head}---\n",
            f"# {manifest.name} {manifest.version}\n",
            f"{_plain(manifest.description)}\n",
            *_loading(manifest),
            *([f"![Returns per split]({picture})\n"] if picture else []),
            "| split | episodes | transitions | mean return | success |\n|---|---:|---:|---:|---:|",
            *_split_rows(manifest, returns),
            "",
            "One row per transition; `episode` and `step_count` say where it stands. Each observation is stored once: "
            f"the next one is the row below, and the last of every episode is `final.*` in `{EPISODES_PATH}`, beside "
            "its seed and the simulator's start state. A time limit is `next.truncated`, an end of the task "
            "`next.terminated`.\n",
            "## Columns\n",
            "| column | dtype | shape | unit | smallest | mean | largest |\n|---|---|---|---|---:|---:|---:|",
            *_column_rows(manifest),
            "",
            "Smallest, mean and largest of all elements and splits; `rlhive.json` has them, standard deviations and "
            "quantiles per split and element.\n",
            "## Where it comes from\n",
            *_provenance(manifest),
            *([f"- Replay: {_plain(certificate)}"] if certificate else []),
            f"- Licence: {_plain(manifest.license)}",
            f"- Fingerprint of the content: `{manifest.fingerprint}`",
            "",
        ]
    )


def _loading(manifest: Manifest) -> list[str]:
    return [
        "```python\nfrom rlhive import RoboHiveDataset\n",
        f'buffer = RoboHiveDataset("{manifest.name}", version="{manifest.version}").as_replay_buffer()\n```\n',
        "Without RLHive, from the Hub or from a copy of this folder:\n",
        "```python\nimport datasets\n",
        f'rows = datasets.load_dataset("{manifest.name}", revision="v{manifest.version}")\n```\n',
    ]


def _split_rows(manifest: Manifest, returns: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    for name, split in manifest.splits.items():
        mean, success = returns[name]
        yield f"| {name} | {split['num_episodes']} | {split['num_transitions']} | {mean:.2f} | {success:.0%} |"


def _column_rows(manifest: Manifest) -> Iterator[str]:
    for item in manifest.schema.fields:
        rows = [part[item.column] for part in manifest.statistics.values() if part.get(item.column, {}).get("count")]
        low, high = (_extreme(rows, name, pick) for name, pick in (("min", min), ("max", max)))
        total = sum(row["count"] * len(row["mean"]) for row in rows)
        known = all(value is not None for row in rows for value in row["mean"])
        mean = f"{sum(row['count'] * sum(row['mean']) for row in rows) / total:.4g}" if total and known else ""
        shape = ", ".join(map(str, item.shape)) or "scalar"
        yield f"| `{item.column}` | {item.dtype} | {shape} | {_plain(item.unit or '')} | {low} | {mean} | {high} |"


def _extreme(rows: list[Mapping[str, Any]], name: str, pick: Any) -> str:
    values = [value for row in rows for value in row[name]]
    return f"{pick(values):.4g}" if values and None not in values else ""


def _provenance(manifest: Manifest) -> Iterator[str]:
    if manifest.env_name:
        yield f"- Environment: {_code(manifest.env_name)}"
    for run in manifest.runs:
        env = run.get("env") if isinstance(run.get("env"), Mapping) else {}
        versions = {**_mapping(run.get("versions")), **_mapping(env.get("versions"))}
        known = [f"{name} {versions[name]}" for name in ("rlhive", "robohive", "mujoco", "torch") if name in versions]
        if known:
            yield f"- Made with {_plain(', '.join(known))}"
        if env.get("model_hash"):
            yield f"- Compiled model: {_code(env['model_hash'])}"
        for split, parameters in _mapping(run.get("policies")).items():
            yield f"- Policy of {_code(split)}: {_code(json.dumps(parameters, default=repr, sort_keys=True)[:400])}"
        if run.get("seeds"):
            yield f"- Seeds: {_plain(str(run['seeds']))}"
    for parent in manifest.parents:
        named = " ".join(str(parent[name]) for name in ("name", "version") if name in parent)
        yield f"- Made from {_plain(named or json.dumps(parent, default=repr)[:200])}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is: no HTML, no link, no table, no front matter."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", " ".join(str(text).split()))


def _code(text: str) -> str:
    return "`" + " ".join(str(text).split()).replace("`", "'").replace("|", "¦") + "`"


def _front_matter(manifest: Manifest) -> dict[str, Any]:
    size = next((name for limit, name in _SIZES if manifest.num_transitions < limit), "n>10M")
    data_files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in manifest.splits]
    return {
        "license": manifest.license,
        "pretty_name": manifest.name.split("/")[-1],
        "task_categories": ["robotics", "reinforcement-learning"],
        "tags": ["rlhive", "robohive", "mujoco", "offline-rl", "torchrl"],
        "size_categories": [size],
        "configs": [
            {"config_name": "default", "default": True, "data_files": data_files},
            {"config_name": "episodes", "data_files": EPISODES_PATH},
        ],
    }
