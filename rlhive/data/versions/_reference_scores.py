"""Reference scores of the benchmark's datasets, a section of their cards.

The numbers are stored in ``reference_scores.json``, which ``python -m benchmarks.offline_rl.report`` writes: for each
task what the random policy and the expert reach, and the scores of the policies that were trained on its dataset, with
the fingerprint of the content that they learned from.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from rlhive.data.versions._manifest import Manifest


def render_reference_scores(manifest: Manifest) -> list[str]:
    """Return the section of a benchmark dataset's card as lines of Markdown; none of another dataset.

    Scores of trained policies are those of one content. Where the fingerprint is another one, for example in a
    selection of the episodes, the section says so instead.
    """
    row = _read_score_rows().get(manifest.task)
    if row is None:
        return []
    lines = [
        "## Reference scores\n",
        "| policy | episodes | mean return | success |\n|---|---:|---:|---:|",
        *(
            f"| {policy} | {result['num_episodes']} | {result['return_mean']:.2f} | {result['success_rate']:.0%} |"
            for policy, result in row["policies"].items()
        ),
        "",
    ]
    if not row["scores"]:
        return lines
    if row["fingerprint"] != manifest.fingerprint:
        text = f"Scores of trained policies are known for the content `{row['fingerprint'][:16]}`, which this is not."
        return [*lines, f"{text}\n"]
    return [*lines, *_render_scores(row["scores"]), ""]


def _render_scores(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Return the table of the trained policies: a row per split and a column per algorithm."""
    algorithms = list(dict.fromkeys(name for row in scores.values() for name in row))
    lines = [
        "Normalised scores of policies that learned from a split, 0 for the random policy and 100 for the expert: mean "
        "of 5 training seeds with 50 episodes each on unseen seeds (95 % interval over both). RLHive's "
        "`docs/benchmark/protocol.md` says how they were trained.\n",
        f"| split | {' | '.join(algorithms)} |",
        f"|---|{'---:|' * len(algorithms)}",
    ]
    for split, row in scores.items():
        cells = ["{:.0f} ({:.0f} to {:.0f})".format(*row[name]) if name in row else "" for name in algorithms]
        lines.append(f"| {split} | {' | '.join(cells)} |")
    return lines


@cache
def _read_score_rows() -> Mapping[str, Any]:
    text = resources.files("rlhive.data.versions").joinpath("reference_scores.json").read_text(encoding="utf-8")
    rows: dict[str, Any] = json.loads(text)["tasks"]
    return rows
