"""Bad episodes planted in a RoboHive task are found by their scores."""

import pytest

pytest.importorskip("robohive")


@pytest.mark.slow
def test_planted_episodes_of_reach_are_found_at_few_false_alarms(tmp_path):
    from benchmarks.score_recall import KINDS, plant, summarize
    from rlhive import RoboHiveDataset

    folder = plant("reach", tmp_path, good=60, bad=4)
    rows = list(summarize(RoboHiveDataset(folder, store=tmp_path)))

    assert [row[0] for row in rows] == ["60 good", *(f"4 {kind}" for kind in KINDS)]
    found = [int(row[1].split()[0]) for row in rows]
    assert found[0] <= 3
    assert sum(found[1:]) >= 0.95 * 4 * len(KINDS)
