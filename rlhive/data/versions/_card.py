"""The dataset card: the README.md of a version. YAML for the Hub's viewer, then description, picture and tables.

A manifest can come from anyone, and a browser shows the card as Markdown. So text from the manifest is escaped.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import yaml

from rlhive import keys
from rlhive._text import escape_markdown, to_inline_code
from rlhive.data._dtypes import BFLOAT16_NAME
from rlhive.data._schema import Schema, find_unrecorded
from rlhive.data.versions._manifest import EPISODES_PATH, Manifest
from rlhive.data.versions._reference_scores import render_reference_scores

# Size categories of the Hub: number of rows below which each applies.
_SIZE_CATEGORIES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
_LIBRARIES = ("rlhive", "robohive", "mujoco", "torch")
#: Simulators that are tags of a dataset whose environment ran in them.
_SIMULATORS = ("robohive", "mujoco")
_NOT_RECORDED = "not recorded"
_FLAGS = (keys.key_to_column(keys.NEXT_TERMINATED), keys.key_to_column(keys.NEXT_TRUNCATED))
#: Mean return and success rate of each split; None for what was not recorded.
Outcomes: TypeAlias = Mapping[str, tuple[float | None, float | None]]
#: Identifiers of the Hub and of SPDX.
LICENSE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")
_MAX_PARAMETERS = 400  # characters of a policy's parameters
_MAX_PARENT = 200  # characters of a parent without a name


def render_card(
    manifest: Manifest,
    outcomes: Outcomes,
    *,
    picture: str = "",
    certificate: str = "",
    has_seeds: bool = True,
    has_start_states: bool = True,
) -> str:
    """Return the card of a version.

    Args:
        manifest: Manifest of the version; its files may be missing.
        outcomes: Mean return and success rate of each split; None for what was not recorded.
        picture: Path of the picture in the version; none by default.
        certificate: Result of replaying the episodes, as a sentence; none by default.
        has_seeds: Whether the seed of any episode was recorded.
        has_start_states: Whether the simulator's start state of any episode was recorded.
    """
    front_matter = yaml.safe_dump(_build_front_matter(manifest), sort_keys=False, allow_unicode=True)
    return "\n".join(
        [
            f"---\n{front_matter}---\n",
            f"# {manifest.name} {manifest.version}\n",
            f"{escape_markdown(manifest.description)}\n",
            *_render_usage(manifest),
            *([f"![Returns per split]({picture})\n"] if picture else []),
            "| split | episodes | transitions | mean return | success |\n|---|---:|---:|---:|---:|",
            *_render_split_rows(manifest, outcomes),
            "",
            f"{_describe_rows(manifest, has_seeds=has_seeds, has_start_states=has_start_states)}\n",
            *render_reference_scores(manifest),
            "## Columns\n",
            "| column | dtype | shape | unit | minimum | mean | maximum |\n|---|---|---|---|---:|---:|---:|",
            *_render_column_rows(manifest),
            "",
            "Minimum, mean and maximum are over all elements and splits. `rlhive.json` has them per split and element, "
            "with standard deviations and quantiles.\n",
            "## Provenance\n",
            *_render_provenance(manifest),
            *([f"- Replay: {escape_markdown(certificate)}"] if certificate else []),
            f"- Licence: {escape_markdown(manifest.license)}",
            f"- Fingerprint of the content: `{manifest.fingerprint}`",
            "",
        ]
    )


def front_matter_license(license: str) -> str:
    """Return a licence for a card's front matter: an identifier, or ``"other"`` for what a foreign manifest may say."""
    return license if LICENSE_ID.fullmatch(license) else "other"


def _build_front_matter(manifest: Manifest) -> dict[str, Any]:
    size = next((name for limit, name in _SIZE_CATEGORIES if manifest.num_transitions < limit), "n>10M")
    data_files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in manifest.splits]
    return {
        "license": front_matter_license(manifest.license),
        "pretty_name": manifest.name.split("/")[-1],
        "task_categories": ["robotics", *(["reinforcement-learning"] if _has_reward(manifest) else [])],
        "tags": _list_tags(manifest),
        "size_categories": [size],
        "configs": [
            {"config_name": "default", "default": True, "data_files": data_files},
            {"config_name": "episodes", "data_files": EPISODES_PATH},
        ],
    }


def _list_tags(manifest: Manifest) -> list[str]:
    """Return the tags by which the Hub finds the dataset; they say what it holds and where it was recorded."""
    versions = [_as_mapping(_as_mapping(run.get("env")).get("versions")) for run in manifest.runs]
    simulators = [name for name in _SIMULATORS if any(name in names for names in versions)]
    return ["rlhive", *simulators, "offline-rl" if _has_reward(manifest) else "imitation-learning", "torchrl"]


def _has_reward(manifest: Manifest) -> bool:
    return "return" not in find_unrecorded(manifest.schema)


def _describe_rows(manifest: Manifest, *, has_seeds: bool, has_start_states: bool) -> str:
    """Return what a row is, where the last observation of an episode is, and what its flags say."""
    sentences = ["Each row is one transition; `episode` and `step_count` identify it."]
    extras = [*(["the episode's seed"] * has_seeds), *(["the simulator's start state"] * has_start_states)]
    if manifest.schema.observed:
        also = f", with {' and '.join(extras)}" if extras else ""
        sentences.append(
            "Each observation is stored once: the next observation is in the row below, and the last observation of "
            f"every episode is in the `final.*` columns of `{EPISODES_PATH}`{also}."
        )
    elif extras:
        sentences.append(f"`{EPISODES_PATH}` has {' and '.join(extras)}.")
    if _is_any_flag_set(manifest):
        sentences.append("A time limit sets `next.truncated`, the end of the task sets `next.terminated`.")
    else:
        sentences.append(
            "Why an episode ends was not recorded: `next.terminated` and `next.truncated` are set in no row."
        )
    sentences += describe_pictures(manifest.schema)
    if any(item.dtype == BFLOAT16_NAME for item in manifest.schema.fields):
        sentences.append(
            "Parquet has no bfloat16: such columns hold their 16 bits as uint16, and "
            "`torch.tensor(values, dtype=torch.uint16).view(torch.bfloat16)` gives the numbers."
        )
    return " ".join(sentences)


def describe_pictures(schema: Schema) -> list[str]:
    """Return how readers get the pictures of a schema, in one sentence or two for each way."""
    lossless, lossy, videos = (
        ", ".join(to_inline_code(item.column) for item in items)
        for items in (
            [item for item in schema.encoded if not item.is_lossy and not item.is_video],
            [item for item in schema.encoded if item.is_lossy and not item.is_video],
            [item for item in schema.encoded if item.is_video],
        )
    )
    files = (
        "`datasets` gives `PIL.Image` objects, and other readers of Parquet get the bytes of the files. Where the "
        "channels come first, the picture has them last."
    )
    return [
        *([f"Pictures ({lossless}) are encoded without loss: {files}"] if lossless else []),
        *([f"Pictures ({lossy}) are JPEG files, with a loss that `rlhive.json` notes: {files}"] if lossy else []),
        *(
            [
                f"Pictures ({videos}) are frames of the MP4 files below `videos/`: each row names the file, and the "
                "number of its frame in it."
            ]
            if videos
            else []
        ),
    ]


def _is_any_flag_set(manifest: Manifest) -> bool:
    """Return whether a row ends the task or cuts it off, as far as statistics are known."""
    splits = [split for split in manifest.statistics.values() if any(flag in split for flag in _FLAGS)]
    largest = [value for split in splits for flag in _FLAGS for value in split.get(flag, {}).get("max") or []]
    return not largest or any(largest)


def _render_usage(manifest: Manifest) -> list[str]:
    return [
        "```python\nfrom rlhive import RoboHiveDataset\n",
        f'buffer = RoboHiveDataset("{manifest.name}", version="{manifest.version}").as_replay_buffer()\n```\n',
        "Without RLHive, from the Hub or from a copy of this folder:\n",
        "```python\nimport datasets\n",
        f'rows = datasets.load_dataset("{manifest.name}", revision="v{manifest.version}")\n```\n',
    ]


def _render_split_rows(manifest: Manifest, outcomes: Outcomes) -> Iterator[str]:
    for name, split in manifest.splits.items():
        mean, success = outcomes[name]
        cells = [
            _NOT_RECORDED if mean is None else f"{mean:.2f}",
            _NOT_RECORDED if success is None else f"{success:.0%}",
        ]
        yield f"| {name} | {split['num_episodes']} | {split['num_transitions']} | {' | '.join(cells)} |"


def _render_column_rows(manifest: Manifest) -> Iterator[str]:
    for item in manifest.schema.fields:
        column = to_inline_code(item.column)
        splits = [split[item.column] for split in manifest.statistics.values() if item.column in split]
        splits = [statistics for statistics in splits if statistics.get("count")]
        shape = ", ".join(map(str, item.shape)) or "scalar"
        unit = escape_markdown(item.unit or "")
        minimum = _format_extreme(splits, "min", min)
        maximum = _format_extreme(splits, "max", max)
        dtype = f"{item.dtype}, {item.storage}" if item.is_encoded else item.dtype
        yield f"| {column} | {dtype} | {shape} | {unit} | {minimum} | {_format_mean(splits)} | {maximum} |"


def _format_extreme(
    splits: Sequence[Mapping[str, Any]], statistic: str, reduce: Callable[[Sequence[float]], float]
) -> str:
    """Return the minimum or maximum over splits and elements; empty where it is unknown or not finite."""
    values = [value for statistics in splits for value in statistics[statistic]]
    return f"{reduce(values):.4g}" if values and None not in values else ""


def _format_mean(splits: Sequence[Mapping[str, Any]]) -> str:
    """Return the mean over splits and elements; empty where it is unknown or not finite."""
    num_values = sum(statistics["count"] * len(statistics["mean"]) for statistics in splits)
    if not num_values or any(value is None for statistics in splits for value in statistics["mean"]):
        return ""
    total = sum(statistics["count"] * sum(statistics["mean"]) for statistics in splits)
    return f"{total / num_values:.4g}"


def _render_provenance(manifest: Manifest) -> Iterator[str]:
    if manifest.env_name:
        yield f"- Environment: {to_inline_code(manifest.env_name)}"
    if manifest.fps is not None:
        yield f"- Rate: {manifest.fps:g} frames per second"
    for run in manifest.runs:
        yield from _render_run(run)
    for parent in manifest.parents:
        name = " ".join(str(parent[key]) for key in ("name", "version") if key in parent)
        yield f"- Derived from {escape_markdown(name or json.dumps(parent, default=repr)[:_MAX_PARENT])}"


def _render_run(run: Mapping[str, Any]) -> Iterator[str]:
    env = _as_mapping(run.get("env"))
    versions = {**_as_mapping(run.get("versions")), **_as_mapping(env.get("versions"))}
    libraries = [f"{name} {versions[name]}" for name in _LIBRARIES if name in versions]
    if libraries:
        yield f"- Recorded with {escape_markdown(', '.join(libraries))}"
    if env.get("model_hash"):
        yield f"- Compiled model: {to_inline_code(env['model_hash'])}"
    for split, parameters in _as_mapping(run.get("policies")).items():
        text = json.dumps(parameters, default=repr, sort_keys=True).replace("<", "\\u003c")[:_MAX_PARAMETERS]
        yield f"- Policy of {to_inline_code(split)}: {to_inline_code(text)}"
    if run.get("seeds"):
        yield f"- Seeds: {escape_markdown(run['seeds'])}"


def _as_mapping(value: Any) -> Mapping[str, Any]:
    """Return an untrusted value if it is a mapping, and an empty mapping otherwise."""
    return value if isinstance(value, Mapping) else {}
