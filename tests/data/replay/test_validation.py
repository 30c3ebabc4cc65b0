import numpy as np
import pytest

from rlhive.data.replay._validation import require_choice, require_integer, require_key_list
from rlhive.errors import SchemaMismatchError


@pytest.mark.parametrize("value", [3, 4, np.int64(3)])
def test_integers_from_the_minimum_on_are_accepted(value):
    require_integer(value, 3, "n_step")


@pytest.mark.parametrize("value", [2, True, 3.0, "3", None])
def test_other_values_are_refused_by_the_name_of_the_argument(value):
    with pytest.raises(ValueError, match=f"n_step={value!r}: expected a whole number of 3 or more"):
        require_integer(value, 3, "n_step")


def test_a_string_is_no_list_of_keys():
    require_key_list(["action"], "keys")
    require_key_list(None, "keys")
    with pytest.raises(SchemaMismatchError, match=r"keys='action': expected a list of keys, got a string"):
        require_key_list("action", "keys")


def test_the_error_of_a_choice_lists_the_valid_values():
    require_choice("pad", ("drop", "pad", "shorter"), "short_episodes")
    with pytest.raises(ValueError, match="short_episodes='cut': expected 'drop', 'pad' or 'shorter'"):
        require_choice("cut", ("drop", "pad", "shorter"), "short_episodes")
