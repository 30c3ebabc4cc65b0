"""The command line of ``make matrix``."""

import pytest

from tests import matrix


def test_without_a_name_every_combination_is_tried():
    assert tuple(matrix.parse_arguments([]).combinations) == matrix.COMBINATIONS


def test_named_combinations_alone_are_tried():
    options = matrix.parse_arguments(["3.13-newest", "--tests", "tests/dataset"])
    assert options.combinations == ["3.13-newest"]
    assert options.tests == ["tests/dataset"]


def test_an_unknown_combination_is_refused(capsys):
    with pytest.raises(SystemExit):
        matrix.parse_arguments(["3.10-newest"])
    assert "3.13-neighbours" in capsys.readouterr().err
