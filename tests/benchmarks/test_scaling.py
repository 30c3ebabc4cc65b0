"""The benchmark of scaling at tiny sizes: every operation runs and is checked, and the slopes are right."""

import json

import pytest

from benchmarks import scaling
from benchmarks.peers import rounds
from benchmarks.scaling import PARTS, fit_slope, format_time, make_table, summarize

SIZES = {"versions": (10, 20), "episodes": (6, 12), "transitions": (1_000, 2_000)}


def test_slopes_of_power_laws():
    sizes = [100, 1_000, 10_000]

    for power in (0, 1, 1.5, 2):
        assert fit_slope(sizes, [3e-6 * size**power for size in sizes]) == pytest.approx(power)


def test_growth_faster_than_allowed_is_marked():
    times = {"where": [1e-3, 1e-2, 1e-1], "open": [1e-3, 1e-3, 1e-2], "view": [1e-3, 1e-2, 1.0]}
    times |= {"sample 256": [1.0, 2.0, 4.0], scaling.FLOOR: [1.0, 2.0, 4.0]}
    rows = [
        {"part": "episodes", "operation": operation, "size": size, "cpu_s": time}
        for operation, values in times.items()
        for size, time in zip((100, 1_000, 10_000), values, strict=True)
    ]

    summaries = {summary["operation"]: summary for summary in summarize(rows)}

    assert [summaries[name]["kept"] for name in times] == [True, False, False, True, True]
    assert [round(summaries[name]["goal"], 2) for name in times] == [1, 0, 1, 0.3, 0.3]
    assert summaries["view"]["last_slope"] == pytest.approx(2)
    assert "| open | 1 ms | 1 ms | 10 ms | 0.50 | 1.00 | 0 (missed) |" in make_table(
        list(summaries.values()), "episodes"
    )


def test_times_have_three_digits():
    assert [format_time(value) for value in (4.5678e-6, 0.0123456, 7.891)] == ["4.57 µs", "12.3 ms", "7.89 s"]


@pytest.mark.parametrize("part", SIZES)
def test_every_operation_runs_at_each_size(part, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "MAX_CALLS", 2)
    monkeypatch.setattr(scaling, "NUM_BATCHES", 3)
    function = getattr(scaling, f"measure_{part}")

    rows = [{"part": part} | row for size in SIZES[part] for row in function(tmp_path / f"{part}{size}", size)]

    summaries = summarize(rows)
    assert {row["size"] for row in rows} == set(SIZES[part])
    assert all(summary["sizes"] == list(SIZES[part]) for summary in summaries)
    assert len(summaries) == len(rows) / 2 > 4
    assert all(row["cpu_s"] >= 0 and row["wall_s"] > 0 for row in rows)


def test_ranks_are_compared_with_one_process(tmp_path):
    rows = scaling.measure_ranks(tmp_path, 10_000)

    assert [row["world_size"] for row in rows] == [1, *scaling.WORLD_SIZES]
    assert rows[0]["ratio"] == 1
    assert set(PARTS) == {*SIZES, "ranks"}


def test_the_results_of_a_part_are_kept_beside_those_of_others(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "scale.md"
    page.write_text("# Page\n\n<!-- transitions -->\n<!-- /transitions -->\n\n<!-- ranks -->\n<!-- /ranks -->\n")
    monkeypatch.setattr(scaling, "ROOT", tmp_path)
    monkeypatch.setattr(scaling, "RESULTS", tmp_path)
    monkeypatch.setattr(rounds, "RESULTS", tmp_path)
    monkeypatch.setattr(scaling, "NUM_BATCHES", 3)
    monkeypatch.setattr(scaling, "SMALLEST", {"transitions": 1_000, "ranks": 10_000})
    monkeypatch.setattr(scaling, "LARGEST", {"transitions": 10_000, "ranks": 10_000})

    scaling.main(["--parts", "ranks"])
    scaling.main(["--parts", "transitions"])
    scaling.main(["--parts", "transitions", "--largest", "1000"])  # a quick look is not kept

    content = json.loads((tmp_path / "scaling.json").read_text())
    assert list(content) == ["ranks", "transitions"]
    assert {row["size"] for row in content["transitions"]["rows"]} == {1_000, 10_000}
    assert "| epoch start |" in page.read_text()
    assert "| 8 |" in page.read_text()
    assert (tmp_path / "docs" / "scaling.png").stat().st_size > 10_000


def test_an_operation_that_returns_something_else_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "list_all_versions", lambda store: {"bench/part0": {}})

    with pytest.raises(AssertionError):
        scaling.measure_versions(tmp_path, 10)
