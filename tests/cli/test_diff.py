"""The rows that ``rlhive diff`` prints."""

from rlhive.cli._diff import _format_value, _list_some, _make_diff_rows
from rlhive.data.versions import Diff

BEFORE = {"name": "my/knob", "version": "1.0.0", "fingerprint": "a" * 64}
AFTER = {"name": "my/knob", "version": "2.0.0", "fingerprint": "b" * 64}


def make_diff(**changes):
    fields = {
        "before": BEFORE,
        "after": AFTER,
        "columns": {"added": {}, "dropped": {}, "changed": {}},
        "comparable": True,
        "related": True,
        "num_same": 3,
        "added": [],
        "dropped": [],
        "changed": [],
        "moved": {},
        "renumbered": [],
        "splits": {},
        "statistics": {},
        "provenance": {},
    }
    return Diff(**fields | changes)


def test_equal_versions_have_two_rows():
    assert list(_make_diff_rows(make_diff())) == [("fingerprint", "a" * 16, "b" * 16), ("episodes the same", 3, 3)]


def test_every_kind_of_difference_has_a_row():
    shift = {"mean_shift_in_std": 0.5, "std_factor": [1.0, None], "extremes": True}
    difference = make_diff(
        columns={
            "added": {"effort": "float32 [1]"},
            "dropped": {"depth": "uint16 [8, 8]"},
            "changed": {"x": ["a", "b"]},
        },
        added=list(range(10)),
        dropped=[12],
        changed=[4],
        moved={5: {"split": ["a", "b"], "seed": [1, 2]}},
        renumbered=[(7, 8)],
        splits={"expert": [{"num_episodes": 1000, "num_transitions": 50000}, None]},
        statistics={"action": shift, "reward": shift | {"mean_shift_in_std": None, "extremes": False}},
        provenance={"license": ["mit", "apache-2.0"]},
    )

    assert list(_make_diff_rows(difference))[1:] == [
        ("split expert", "1,000 episodes, 50,000 transitions", None),
        ("episodes the same", 3, 3),
        ("episodes added", None, "10 (0, 1, 2, 3, 4, 5, 6, 7, …)"),
        ("episodes dropped", "1 (12)", None),
        ("episodes changed", None, "1 (4)"),
        ("episodes with other metadata", None, "1 (5: split, seed)"),
        ("episodes renumbered", None, "1 (7 → 8)"),
        ("column effort", None, "float32 [1]"),
        ("column depth", "uint16 [8, 8]", None),
        ("column x", "a", "b"),
        ("statistics of action", None, "mean moved by up to 0.5 std, std times 1.00 to ∞, other extremes"),
        ("statistics of reward", None, "mean moved without bound, std times 1.00 to ∞"),
        ("license", "mit", "apache-2.0"),
    ]


def test_values_are_printed_as_text():
    assert [_format_value(value) for value in (None, "", 0, ["a", 1], (2,))] == ["-", "-", "0", "a, 1", "2"]
    assert _list_some(range(1000)) == "1,000 (0, 1, 2, 3, 4, 5, 6, 7, …)"
