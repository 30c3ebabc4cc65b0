"""The datasheet of a version: the questions of "Datasheets for Datasets" (Gebru et al., 2021), as far as they apply.

The manifest answers some, the three answers of a person some more; the others say that a person has to answer them.
The text of both comes from outside, and a browser shows the datasheet as Markdown: it is escaped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rlhive._text import escape_markdown, to_inline_code
from rlhive.data._schema import find_unrecorded
from rlhive.data.release import _description
from rlhive.data.release._answers import Answers
from rlhive.data.versions import Manifest, read_certificate

_UNANSWERED = "*For a person to answer.*"


@dataclass(frozen=True)
class _Subject:
    """What the questions are about."""

    manifest: Manifest
    answers: Answers
    address: _description.Address


#: An answer in Markdown, or None where a person has to give it.
_Answer: TypeAlias = Callable[[_Subject], str | None]


def render_datasheet(manifest: Manifest, answers: Answers, address: _description.Address) -> str:
    """Return ``DATASHEET.md``.

    Args:
        manifest: Manifest of the version.
        answers: What a person says about the dataset.
        address: Where the version is published.
    """
    subject = _Subject(manifest, answers, address)
    lines = [
        f"# Datasheet of {manifest.name} {manifest.version}\n",
        "The questions are those of Gebru et al., Datasheets for Datasets, Communications of the ACM 64 (12), 2021. "
        "Questions about people as the subject of the data are answered together, under personal information.\n",
    ]
    for section, questions in _SECTIONS.items():
        lines.append(f"## {section}\n")
        for question, answer in questions:
            lines.append(f"**{question}**\n\n{answer(subject) or _UNANSWERED}\n")
    return "\n".join(lines)


def _paragraphs(text: str) -> str:
    return "\n\n".join(escape_markdown(line) for line in text.splitlines() if line.strip())


def _unanswered(subject: _Subject) -> None:
    del subject


def _describe_instances(subject: _Subject) -> str:
    manifest = subject.manifest
    rate = f" at {manifest.fps:g} steps per second" if manifest.fps is not None else ""
    env = f" The environment is {to_inline_code(manifest.env_name)}." if manifest.env_name else ""
    description = f"{escape_markdown(manifest.description)}\n\n" if manifest.description else ""
    return f"{description}Transitions of a robot{rate}, in whole episodes.{env}"


def _count_instances(subject: _Subject) -> str:
    rows = [
        f"| {split} | {counts['num_episodes']} | {counts['num_transitions']} |"
        for split, counts in subject.manifest.splits.items()
    ]
    return "\n".join(["| split | episodes | transitions |\n|---|---:|---:|", *rows])


def _tabulate_columns(subject: _Subject) -> str:
    rows = [
        f"| {to_inline_code(field.column)} | {field.dtype} | {', '.join(map(str, field.shape)) or 'scalar'} "
        f"| {escape_markdown(field.unit or '')} |"
        for field in subject.manifest.schema.fields
    ]
    return "\n".join(["| column | dtype | shape | unit |\n|---|---|---|---|", *rows])


def _describe_labels(subject: _Subject) -> str:
    unrecorded = find_unrecorded(subject.manifest.schema)
    parts = {"return": "the reward of every step", "success": "whether the task is solved"}
    labels = [text for name, text in parts.items() if name not in unrecorded]
    return f"Yes: {' and '.join(labels)}." if labels else "No."


def _describe_relations(subject: _Subject) -> str:
    del subject
    return (
        "`episode` and `step_count` identify a transition and put the transitions of an episode in order; "
        "`meta/episodes.parquet` has a row for every episode."
    )


def _describe_splits(subject: _Subject) -> str:
    return f"Yes: {', '.join(subject.manifest.splits)}. Each shard of a split holds whole episodes."


def _describe_noise(subject: _Subject) -> str:
    certificate = read_certificate(subject.manifest.fingerprint)
    replayed = f"\n\nReplay of the actions: {escape_markdown(certificate)}." if certificate else ""
    return f"{_paragraphs(subject.answers.limitations)}{replayed}"


def _answer_missing(subject: _Subject) -> str:
    return _description.describe_missing(subject.manifest)


def _is_self_contained(subject: _Subject) -> str:
    del subject
    return "Yes. Plain Parquet and JSON, which no program of RLHive is needed to read."


def _describe_people(subject: _Subject) -> str:
    return _paragraphs(subject.answers.personal_information)


def _describe_acquisition(subject: _Subject) -> str:
    text = escape_markdown(_description.describe_collection(subject.manifest))
    tools = ", ".join(escape_markdown(tool) for tool in _description.list_tools(subject.manifest))
    return f"{text}\n\nPackages: {tools}." if tools else text


def _describe_timeframe(subject: _Subject) -> str | None:
    timeframe = _description.find_timeframe(subject.manifest)
    return None if timeframe is None else f"Recording runs started between {timeframe[0]} and {timeframe[1]}."


def _describe_processing(subject: _Subject) -> str:
    processing = _description.list_processing(subject.manifest)
    return "\n".join(f"- {escape_markdown(text)}" for text in processing) or "No: these are the recorded episodes."


def _describe_use(subject: _Subject) -> str:
    return _paragraphs(subject.answers.intended_use)


def _describe_distribution(subject: _Subject) -> str:
    return (
        f"As the tag {subject.address.tag} of <{subject.address.page}>, where `rlhive push` publishes it; "
        f"content {subject.manifest.fingerprint[:16]}. `SHA256SUMS` has the hash of every file."
    )


def _describe_license(subject: _Subject) -> str:
    return f"Yes: {escape_markdown(_description.spdx_license(subject.manifest.license))}."


def _describe_maintenance(subject: _Subject) -> str:
    del subject
    return _description.MAINTENANCE


def _describe_extension(subject: _Subject) -> str:
    del subject
    return "Yes: `rlhive append` and `rlhive merge` write versions that name this one as their parent."


_SECTIONS: dict[str, Sequence[tuple[str, _Answer]]] = {
    "Motivation": (
        ("For what purpose was the dataset created?", _describe_use),
        ("Who created it, on behalf of which entity, and who funded it?", _unanswered),
    ),
    "Composition": (
        ("What do the instances represent?", _describe_instances),
        ("How many instances are there of each type?", _count_instances),
        ("Is it a sample of a larger set, and is it representative?", _unanswered),
        ("What data does each instance consist of?", _tabulate_columns),
        ("Is there a label or target for each instance?", _describe_labels),
        ("Is information missing from instances?", _answer_missing),
        ("Are relationships between instances made explicit?", _describe_relations),
        ("Are there recommended splits?", _describe_splits),
        ("Are there errors, noise, biases or redundancies?", _describe_noise),
        ("Is it self-contained?", _is_self_contained),
        ("Does it hold confidential, offensive, personal or sensitive data?", _describe_people),
    ),
    "Collection process": (
        ("How was the data of each instance acquired, and by which mechanisms?", _describe_acquisition),
        ("What was the sampling strategy, and who collected the data?", _unanswered),
        ("Over what timeframe was it collected?", _describe_timeframe),
        ("Were ethical reviews conducted?", _unanswered),
    ),
    "Preprocessing, cleaning, labelling": (
        ("Was the data preprocessed, and is the raw data kept?", _describe_processing),
    ),
    "Uses": (
        ("For which tasks should it be used, for which not, and which effects can its use have?", _describe_use),
        ("Has it been used already, and where are papers and systems that use it listed?", _unanswered),
    ),
    "Distribution": (
        ("How is it distributed?", _describe_distribution),
        ("Is it under a licence?", _describe_license),
        ("Do third parties or export controls restrict it?", _unanswered),
    ),
    "Maintenance": (
        ("Who supports it, and how can they be reached?", _unanswered),
        ("Will it be updated, and do older versions stay?", _describe_maintenance),
        ("Can others extend it?", _describe_extension),
    ),
}
