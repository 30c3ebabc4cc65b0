"""The verb evaluate."""

import json

from tests.cli.conftest import invoke


def test_evaluate_compares_a_policy_with_random_and_expert():
    ran = invoke("evaluate", "medium", "--env", "toy_point", "--episodes", 6, "--workers", 1, "--json")
    rows = json.loads(ran.stdout)

    assert [row["policy"] for row in rows] == ["medium", "random", "expert"]
    assert rows[2]["success_rate"] == 1.0
    assert rows[1]["return_mean"] < rows[0]["return_mean"] < rows[2]["return_mean"]
