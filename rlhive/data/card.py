"""The dataset card: the README.md of a version. YAML that the Hub's viewer reads, then words and a table."""

from collections.abc import Mapping
from typing import Any

import yaml

from rlhive.data.manifest import EPISODES_PATH, Manifest

_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))


def card_of(manifest: Manifest, returns: Mapping[str, tuple[float, float]]) -> str:
    """Return the card of a version.

    Args:
        manifest: Of the version; its files need not be known yet.
        returns: Mean return and success rate of each split.
    """
    head = yaml.safe_dump(_front_matter(manifest), sort_keys=False, allow_unicode=True)
    rows = [
        f"| {name} | {split['num_episodes']} | {split['num_transitions']} | {returns[name][0]:.2f} | "
        f"{returns[name][1]:.0%} |"
        for name, split in manifest.splits.items()
    ]
    columns = [
        f"| `{item.column}` | {item.dtype} | {list(item.shape)} | {item.unit or ''} |"
        for item in manifest.schema.fields
    ]
    return "\n".join(
        [
            f"---\n{head}---\n",
            f"# {manifest.name} {manifest.version}\n",
            f"{manifest.description}\n",
            f"Environment: `{manifest.env_name}`. One row per transition; `episode` and `step_count` say where it "
            "stands. Each observation is stored once: the next one is the row below, and the last of every episode is "
            f"`final.*` in `{EPISODES_PATH}`, beside its seed and the simulator's start state. A time limit is "
            "`next.truncated`, an end of the task `next.terminated`.\n",
            "| split | episodes | transitions | mean return | success |\n|---|---:|---:|---:|---:|",
            *rows,
            "\n| column | dtype | shape | unit |\n|---|---|---|---|",
            *columns,
            "\nWith RLHive:\n",
            "```python\nfrom rlhive import RoboHiveDataset\n",
            f'buffer = RoboHiveDataset("{manifest.name}", version="{manifest.version}").as_replay_buffer()\n```\n',
            "Without it:\n",
            "```python\nimport datasets\n",
            'rows = datasets.load_dataset("path/to/this/folder")\n```\n',
            f"Fingerprint of the content: `{manifest.fingerprint}`\n",
        ]
    )


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
