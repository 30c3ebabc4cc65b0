"""The filter of exported files evaluates conditions as ``where`` does; compared in a real Chromium."""

import json

import pytest

from rlhive import RoboHiveDataset
from rlhive.errors import InvalidExpressionError
from rlhive.viewer._rows import list_episodes
from rlhive.viewer._server import read_page_file
from tests.viewer.test_answers import episode, record
from tests.viewer.test_browser import browser  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

CONDITIONS = (
    # comparisons, and chains of them
    "return > 0",
    "return>0",
    "0 < return <= 1",
    "length == 3 and return != 0",
    "3 <= length < 5 < 6",
    "-1 < return",
    "return > -1.5e-1",
    "seed >= 1_0",
    "length > .5",
    "return < length",
    "split == 'test'",
    'split != "test"',
    "'test' == split",
    "split > 'sa'",
    # boolean operations and their order
    "return > 0 and length > 3 or split == 'test'",
    "return > 0 and (length > 3 or split == 'test')",
    "not return > 0 and length > 3",
    "not (return > 0 or length > 3)",
    "not not return > 0",
    "metadata.good",
    "not metadata.good",
    "metadata.good == True",
    "metadata.good or length > 4",
    "metadata.good and length > 4",
    "True",
    "False or return > 0",
    "3",
    "0",
    "'text'",
    # lists
    "split in ['test', 'other']",
    "split not in ('test',)",
    "split in 'test'",
    "length in [3, 5]",
    "metadata.operator in ['ada', None]",
    "metadata.operator not in ['ada']",
    "length in []",
    # missing values
    "metadata.operator is None",
    "metadata.operator is not None",
    "metadata.operator == None",
    "metadata.operator != None",
    "metadata.operator == 'ada'",
    "metadata.operator != 'ada'",
    "not metadata.operator == 'ada'",
    "success is None",
    "success is not None",
    "success is None or return > 0",
    # arithmetic
    "return * 2 + 1 > 1.5",
    "return + length * 2 > 9",
    "(return + length) * 2 > 9",
    "return / length > 0.1",
    "length / 2 == 2",
    "length / 2.0 == 2.5",
    "length - 1 - 1 == 2",
    "episode - seed == 0",
    "2 * 3 > length",
    # scores
    "jerk > 0 and not duplicate",
    "outlier == ''",
    "isolation < 1 and path_length > 2",
    # refused
    "",
    "return >",
    "return > 0 and",
    "(return > 0",
    "return > 0)",
    "retrun > 0",
    "return = 1",
    "return",
    "length",
    "split",
    "length + 'a' > 1",
    "length > 'a'",
    "split == 3",
    "metadata.good == 1",
    "metadata.good + 1 == 2",
    "not length",
    "return > 0 and length",
    "success",
    "success and return > 0",
    "not success",
    "success == True",
    "length is 3",
    "split in [length]",
    "[1, 2] == length",
    "-return < 0",
    "--1 < return",
    "+1 < return",
    "return > 0 if True else False",
    "length ** 2 > 3",
    "length % 2 == 0",
    "len(split) > 2",
    "split[0] == 't'",
    "lambda: 1",
    "return > 0; 1",
    "f'x' == split",
    "'a' 'b",
    "1a < length",
    "01 < length",
    "length / 0 == 1",
    "x.y.z == 1",
    "duplicate of == 1",
)


@pytest.fixture(scope="module")
def evaluate(browser):  # noqa: F811 - the fixture
    """Evaluate conditions on columns as an exported file does: ids of each, or None where it is refused."""
    context = browser.new_context()
    tab = context.new_page()
    tab.add_script_tag(content=read_page_file("filter.js").decode())

    def run(conditions, columns):
        return tab.evaluate(
            """([conditions, columns]) => conditions.map((condition) => {
                try { return selectEpisodes(condition, columns); } catch (error) { return error.message; }
            })""",
            [conditions, columns],
        )

    yield run
    context.close()


@pytest.fixture
def dataset(store):
    """A dataset of 12 episodes without success, in two splits, with metadata that some of them lack."""
    metadata = [
        {} if number % 4 == 3 else {"operator": ("ada", "bob", "cy")[number % 3], "good": number % 2 == 0}
        for number in range(12)
    ]
    folder = record("odd", [episode(3 + seed % 3, seed=seed, metadata=metadata[seed]) for seed in range(12)])
    parts = {"train": list(range(8)), "test": list(range(8, 12))}
    return RoboHiveDataset(folder).split(parts).save("parts")


def test_numbers_that_are_not_finite_are_numbers(evaluate):
    """They come as text, since JSON has none of them."""
    columns = {"episode": [0, 1, 2], "jerk": ["nan", "inf", -1.0], "metadata.note": ["nan", "inf", None]}
    conditions = ["jerk > 1", "not jerk > 1", "jerk != 1", "jerk < 0", "metadata.note == 'nan'"]

    assert evaluate(conditions, columns) == [[1], [0, 2], [0, 1, 2], [2], [0]]


def test_the_filter_of_a_file_selects_what_where_selects(dataset, evaluate):
    columns = json.loads(json.dumps(list_episodes(dataset._view, dataset.score())["columns"]))
    answers = dict(zip(CONDITIONS, evaluate(list(CONDITIONS), columns), strict=True))
    expected = {}
    for condition in CONDITIONS:
        try:
            expected[condition] = sorted(dataset.where(condition)._view.episode_ids())
        except InvalidExpressionError:
            expected[condition] = "refused"

    shown = {text: "refused" if isinstance(answer, str) else answer for text, answer in answers.items()}

    assert {text: answer for text, answer in shown.items() if answer != expected[text]} == {}
    assert sum(answer == "refused" for answer in expected.values()) > 30
    assert all(isinstance(answers[text], str) and answers[text] for text in answers if expected[text] == "refused")
