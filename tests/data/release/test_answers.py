"""The answers of a person: read from YAML that may hold anything, asked where they are missing."""

import pytest
from hypothesis import given, settings, strategies as st

from rlhive.data.release._answers import QUESTIONS, Answers, complete_answers, parse_answers, read_answers_file
from rlhive.errors import InvalidOptionError
from tests.data.release.samples import ANSWERS

#: Text that a person may write; YAML and Markdown could take parts of it for something else.
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cf"]), min_size=1).filter(lambda text: text.strip())


@settings(max_examples=30, deadline=None)
@given(st.tuples(TEXTS, TEXTS, TEXTS))
def test_answers_survive_the_file_in_which_they_are_kept(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("answers") / "release.yaml"
    answers = Answers(*(text.strip() for text in texts))
    path.write_text(answers.to_yaml(), encoding="utf-8")

    assert complete_answers(read_answers_file(path), {}, None) == answers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "expected a mapping of intended_use, limitations, personal_information to text, got list"),
        ("just text", "got str"),
        ("limitation: x", "got 'limitation'. Did you mean limitations?"),
        ("7: x", "got '7'"),
        ("limitations: ''", "limitations: expected text, got ''"),
        ("limitations: '  '", "expected text"),
        ("limitations:", "expected text, got None"),
        ("limitations: 3", "expected text, got 3"),
        ("limitations: [a, b]", "expected text"),
        ('limitations: "\\e[2J"', "Remove the control characters"),
        ('limitations: "\\u202Egnp"', "Remove the control characters"),
        ("a: &a [x]\nb: {<<: *a}", "expected"),
        ("limitations: !!python/object/apply:os.system ['true']", "expected a YAML file of answers"),
        ("{" * 1500, "expected a YAML file of answers"),
        ("limitations: 'x", "expected a YAML file of answers"),
    ],
)
def test_a_file_of_something_else_is_refused_with_its_address(tmp_path, text, message):
    path = tmp_path / "answers.yaml"
    path.write_text(text)

    with pytest.raises(InvalidOptionError) as refused:
        read_answers_file(path)
    assert message in str(refused.value)
    assert "answers.yaml" in str(refused.value)
    assert "\x1b" not in str(refused.value)


def test_a_missing_binary_or_huge_file_is_refused(tmp_path):
    for path, content in (
        (tmp_path / "none", None),
        (tmp_path / "binary", b"\xff\xfe\0"),
        (tmp_path / "huge", b" " * 2**21),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InvalidOptionError, match=path.name):
            read_answers_file(path)


def test_an_empty_file_gives_no_answer(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")

    assert read_answers_file(tmp_path / "empty.yaml") == {}


def test_missing_answers_are_named_with_their_questions():
    with pytest.raises(InvalidOptionError) as refused:
        complete_answers({"limitations": "x"}, {}, None)
    for text in ("intended_use, personal_information", "--answers FILE", "Nothing was written", *QUESTIONS.values()):
        assert (text in str(refused.value)) == (text != QUESTIONS["limitations"])


def test_only_missing_answers_are_asked_for_and_given_ones_come_first():
    asked = []

    def ask(name, question):
        asked.append((name, question))
        return " asked "

    kept = {"limitations": "kept", "intended_use": "kept"}
    assert complete_answers({"limitations": "given"}, kept, ask) == Answers("kept", "given", "asked")
    assert asked == [("personal_information", QUESTIONS["personal_information"])]
    with pytest.raises(InvalidOptionError, match="intended_use"):
        complete_answers({}, {}, lambda name, question: "\x1b[2J")


def test_answers_in_python_are_checked_too():
    assert parse_answers(ANSWERS, context="answers") == ANSWERS
    with pytest.raises(InvalidOptionError, match="answers: expected answers named"):
        parse_answers({"intended": "x"}, context="answers")
