"""The reference returns, and the hash that ties them to the experts that were measured."""

from rlhive.envs import _references
from rlhive.envs._references import PolicyResult, Reference
from rlhive.envs._tasks import TASKS


def test_a_score_is_0_for_random_and_100_for_the_expert():
    reference = Reference(random=PolicyResult(-100.0), expert=PolicyResult(-36.0))

    assert [reference.score(value) for value in (-100.0, -36.0, -68.0, -20.0)] == [0.0, 100.0, 50.0, 125.0]
    assert Reference(random=PolicyResult(1.0)).score(2.0) is None
    assert Reference(random=PolicyResult(1.0), expert=PolicyResult(1.0)).score(2.0) is None


def test_the_references_were_measured_with_the_current_experts():
    """Red after a change of parameters: measure again with benchmarks/reference_returns.py."""
    measured = [(task.name, task.env_name) for task in TASKS.values() if task.reference is not None]

    assert _references.find_stale_references(measured) == []
    assert len(measured) >= 13
    for name, _ in measured:
        reference = TASKS[name].reference
        assert reference.random.num_episodes == 100
        assert reference.expert is None or reference.expert.num_episodes == 100
        assert (reference.expert is not None) == ("expert" in TASKS[name].levels)


def test_a_reference_of_other_expert_parameters_is_stale(monkeypatch):
    tables = {
        "experts.json": {"an-env": {"expert": {"lead": 1.5}}},
        "references.json": {"a": {"expert_hash": "0" * 16}, "plain": {"expert_hash": ""}},
    }
    monkeypatch.setattr(_references, "_read_rows", tables.get)
    pairs = [("a", "an-env"), ("plain", "other-env"), ("never", "other-env")]
    assert _references.find_stale_references(pairs) == ["a", "never"]
    tables["references.json"]["a"]["expert_hash"] = _references.expert_hash("an-env")
    assert _references.find_stale_references(pairs) == ["never"]


def test_the_hash_of_an_expert_covers_its_parameters_and_strategy_only(monkeypatch):
    row = {"expert": {"lead": 1.5}, "strategy": "rail", "medium": {"noise": 0.1}, "provenance": {"date": "today"}}

    def hash_of(row):
        monkeypatch.setattr(_references, "_read_rows", lambda file_name: {"an-env": row})
        return _references.expert_hash("an-env")

    same = [row, row | {"medium": {"noise": 0.2}}, row | {"provenance": {}}, dict(reversed(row.items()))]
    other = [row | {"expert": {"lead": 1.6}}, row | {"strategy": "push"}]
    assert len({hash_of(row) for row in same}) == 1
    assert len({hash_of(row) for row in [row, *other]}) == 3
    assert _references.expert_hash("another-env") == ""
