"""The three answers that only a person can give of a dataset: asked once, kept in ``release.yaml``.

They are text from outside: a release folder can come from anyone, as a file of answers can.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from rlhive._text import printable
from rlhive.data import _untrusted
from rlhive.errors import InvalidOptionError

ANSWERS_NAME = "release.yaml"
#: What is asked, by the name of the answer.
QUESTIONS = {
    "intended_use": "What is the dataset meant for, what should it not be used for, and what can its use do to people?",
    "limitations": "Which limits and biases does it have: what is missing, over-represented or known to be wrong?",
    "personal_information": "Which personal or sensitive information does it hold? 'None.' is an answer.",
}
_MAX_BYTES = 2**20


@dataclass(frozen=True)
class Answers:
    """What a person says about a dataset.

    Attributes:
        intended_use: Uses that it is meant for and uses that it is not, with their effect on people.
        limitations: Limits and biases.
        personal_information: Personal or sensitive information in it.
    """

    intended_use: str
    limitations: str
    personal_information: str

    def to_yaml(self) -> str:
        """Return the content of ``release.yaml``."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True, width=100)


def read_answers_file(path: Path) -> dict[str, str]:
    """Return the answers in a YAML file, by name; some may be missing.

    Raises:
        InvalidOptionError: The file cannot be read, or holds something else than answers.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            msg = f"{path}: expected answers of at most {_MAX_BYTES} bytes, got {path.stat().st_size} bytes."
            raise InvalidOptionError(msg)
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        if isinstance(error, InvalidOptionError):
            raise
        msg = f"{path}: expected a YAML file of answers, got: {str(error)[:300]}"
        raise InvalidOptionError(msg) from error
    return parse_answers({} if content is None else content, context=str(path))


def parse_answers(content: Any, *, context: str) -> dict[str, str]:
    """Return untrusted answers by name; some may be missing.

    Args:
        content: A mapping from names of QUESTIONS to text.
        context: Address for error messages.

    Raises:
        InvalidOptionError: A name is unknown, or an answer is empty, no text, or has control characters.
    """
    if not isinstance(content, Mapping):
        msg = f"{context}: expected a mapping of {', '.join(QUESTIONS)} to text, got {type(content).__name__}."
        raise InvalidOptionError(msg)
    for name in content:
        if name not in QUESTIONS:
            similar = difflib.get_close_matches(str(name), QUESTIONS, n=1)
            advice = f" Did you mean {similar[0]}?" if similar else ""
            got = printable(name)[:80]
            msg = f"{context}: expected answers named {', '.join(QUESTIONS)}, got {got!r}.{advice}"
            raise InvalidOptionError(msg)
    return {name: _parse_answer(content[name], f"{context}, {name}") for name in QUESTIONS if name in content}


def complete_answers(
    given: Mapping[str, str], earlier: Mapping[str, str], ask: Callable[[str, str], str] | None
) -> Answers:
    """Return all answers: those that were given, else those of an earlier release, else what the asked person says.

    Args:
        given: Answers of this call.
        earlier: Answers of an earlier release.
        ask: Function of an answer's name and its question; None where nobody can be asked.

    Raises:
        InvalidOptionError: An answer is missing, and nobody can be asked; the message names all that are.
    """
    answers = {**earlier, **given}
    missing = [name for name in QUESTIONS if name not in answers]
    if missing and ask is None:
        lines = "\n".join(f"  {name}: {QUESTIONS[name]}" for name in missing)
        msg = (
            f"A release needs an answer to {', '.join(missing)}. Nothing was written. Write them into a YAML file, and "
            f"pass it: --answers FILE (answers= in Python).\n{lines}"
        )
        raise InvalidOptionError(msg)
    for name in missing:
        if ask is not None:
            answers[name] = _parse_answer(ask(name, QUESTIONS[name]), name)
    return Answers(**{name: answers[name] for name in QUESTIONS})


def _parse_answer(value: Any, context: str) -> str:
    if not isinstance(value, str) or not value.strip():
        msg = f"{context}: expected text, got {printable(repr(value))[:80]}."
        raise InvalidOptionError(msg)
    try:
        return _untrusted.parse_text(value.strip())
    except ValueError as error:
        msg = f"{context}: {error}. Remove the control characters."
        raise InvalidOptionError(msg) from error
