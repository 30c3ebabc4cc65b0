"""The benchmarks at small size: they run, verify values, and detect a peer that serves wrong ones."""

import contextlib
import json
import time
from importlib import import_module

import numpy as np
import pytest
import torch

from benchmarks import bench_export, bench_sampling, bench_training, profile_sample, report, sampling_threads
from benchmarks.peers import source as sources
from benchmarks.peers.client import NotOfferedError, PeerFailedError, PeerProcess
from benchmarks.peers.environments import PEERS
from benchmarks.peers.rounds import in_turn, ratio
from benchmarks.peers.source import NUM_STEPS, WrongValuesError
from benchmarks.peers.worker import Server, UnavailableError

pytestmark = pytest.mark.slow

OWN = ["rlhive", "torchrl", "numpy", "packed"]
OTHERS = [peer for peer in PEERS if peer not in OWN and not peer.startswith("lerobot")]  # which takes a minute


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return sources.make(tmp_path_factory.mktemp("source"), num_transitions=300, length=20)


def batch(source, row):
    index = np.searchsorted(source.rows(), row)
    return {
        "observation": source.observation[row].copy(),
        "next_observation": source.observation[row + 1].copy(),
        "action": source.action[index].copy(),
        "reward": source.reward[index].copy(),
        "terminated": source.terminated[index].copy(),
        "truncated": source.truncated[index].copy(),
    }


def rows_of(source, draws=64):
    return np.random.default_rng(0).choice(source.rows(), draws)


def test_values_of_the_source_pass(source):
    means = source.check([batch(source, rows_of(source))], "transitions")

    assert means["observation"]["drawn"] == pytest.approx(means["observation"]["source"], rel=0.5)


@pytest.mark.parametrize("key", ["observation", "next_observation", "action", "reward", "terminated", "truncated"])
def test_one_wrong_value_is_detected(source, key):
    wrong = batch(source, rows_of(source))
    wrong[key].reshape(64, -1)[7, -1] = 1 - wrong[key].reshape(64, -1)[7, -1]

    with pytest.raises(WrongValuesError, match=key):
        source.check([wrong], "transitions")


def test_zeros_and_repetitions_are_detected(source):
    with pytest.raises(WrongValuesError):
        source.check(
            [{name: np.zeros_like(values) for name, values in batch(source, rows_of(source)).items()}], "transitions"
        )
    with pytest.raises(WrongValuesError, match="different rows"):
        source.check([batch(source, np.zeros(64, np.int64))], "transitions")


def test_a_final_observation_does_not_pass_as_a_transition(source):
    served = batch(source, rows_of(source))
    served["observation"][3] = source.observation[20]  # the first episode's last

    with pytest.raises(WrongValuesError, match="row 20"):
        source.check([served], "transitions")


def test_a_window_across_two_episodes_is_detected(source):
    inside, across = np.arange(4), np.array([18, 19, 21, 22])

    source.check([batch(source, inside + 21 * start) for start in range(8)], "slices:4")
    with pytest.raises(WrongValuesError, match="one piece"):
        source.check([batch(source, across)], "slices:4")


def test_an_n_step_return_of_other_steps_is_detected(source):
    row = source.rows().reshape(-1, 20)[:, :10].ravel()
    index = np.searchsorted(source.rows(), row)
    served = batch(source, row) | {"next_observation": source.observation[row + NUM_STEPS]}
    served.pop("terminated")
    served["reward"] = sum(0.99**k * source.reward[index + k] for k in range(NUM_STEPS))

    source.check([served], "nstep")
    with pytest.raises(WrongValuesError, match="reward"):
        source.check([served | {"reward": source.reward[index]}], "nstep")


def test_rounds_interleave_contenders_and_a_failure_stops_no_other():
    order = []

    def fails():
        msg = "no such thing"
        raise PeerFailedError(msg)

    results = in_turn({"a": lambda: order.append("a") or 1.0, "b": fails, "c": lambda: order.append("c") or 2.0}, 3)

    assert order == ["a", "c"] * 3
    assert in_turn({"slow": lambda: time.sleep(0.02) or 1.0}, 5, enough_s=0.01) == {"slow": [1.0]}
    assert results == {"a": [1.0] * 3, "b": "no such thing", "c": [2.0] * 3}
    assert ratio([2.0, 6.0, 4.0], [1.0, 2.0, 4.0])["median"] == 2.0


@pytest.mark.parametrize("peer", OTHERS)
def test_a_peer_serves_the_source(peer, source, tmp_path):
    if not PEERS[peer].installed:
        pytest.skip(f"{peer} is not installed: python -m benchmarks.peers.environments {peer}")
    with PeerProcess(peer, source.folder, tmp_path, timeout_s=60) as process:
        assert process.ask("write")["bytes"] > 0
        process.ask("open", workload="random_256", variant="")
        assert "observation" in process.ask("check", workload="random_256", variant="")["keys"]


def test_an_error_names_the_peer_that_died(source, tmp_path):
    with PeerProcess("numpy", source.folder, tmp_path) as process:
        process.ask("versions")
        with pytest.raises(NotOfferedError, match="yardstick"):
            process.ask("open", workload="stack_3", variant="")
        process._process.kill()
        with pytest.raises(PeerFailedError, match="numpy"):
            process.ask("versions")


@pytest.mark.parametrize("peer", OWN)
def test_every_workload_of_a_peer_in_this_environment_serves_the_source(peer, tmp_path):
    source = sources.make(tmp_path / "source", num_transitions=700, length=70)
    server = Server(
        import_module(f"benchmarks.peers.{peer}").Peer(source, tmp_path / "peer"), source, tmp_path / "peer"
    )
    server.write()
    served = set()
    for workload, names in bench_sampling.CONTENDERS.items():
        for name in names:
            owner, _, variant = name.partition(":")
            if owner == peer and variant != "pyarrow":
                with contextlib.suppress(UnavailableError):
                    server.open(workload, variant)
                    server.check(workload, variant)
                    served.add(workload)
    server.close()

    yardstick = {"random_256", "random_4096"}
    assert served >= {"torchrl": set(report.SHOWN), "rlhive": {*yardstick, "prioritized", "open_cold"}}.get(
        peer, yardstick
    )


def test_the_sampling_benchmark_runs_and_is_reported_as_tables_and_a_chart(tmp_path):
    quick = ["--sizes", "600", "--rounds", "2", "--seconds", "0.001", "--results", "", "--no-install"]
    [content] = bench_sampling.main([*quick, "--peers", "rlhive", "numpy", "--workloads", "random_256", "open_cold"])

    assert [row["failed"] for row in content["rows"] if "failed" in row] == []
    assert {(row["peer"], row["workload"]) for row in content["rows"] if "checked" in row} >= {
        ("rlhive", "random_256"),
        ("rlhive", "open_cold"),
        ("numpy", "random_256"),
    }

    report.draw([content], tmp_path / "chart.png")

    assert (tmp_path / "chart.png").stat().st_size > 10_000
    assert "| numpy, 5 gathers |" in report.sampling_tables(json.loads(json.dumps(content)))


def memory_row(peer, grown, mapped=0):
    return {
        "workload": "memory",
        "peer": peer,
        "variant": "",
        "before": {"anonymous": 5e6, "peak": 1e6, "mapped": 3e6},
        "after": {"anonymous": 5e6 + grown, "peak": 2e9, "mapped": 3e6 + mapped},
    }


def test_a_size_that_memory_or_disk_cannot_hold_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_sampling.os, "sysconf", lambda name: 100_000)  # 10 GB
    small = {
        "kind": "walk",
        "size": 1e6,
        "stores": [{"peer": "numpy", "bytes": 3e8, "raw_bytes": 1e8}],
        "rows": [memory_row("numpy", 4e8), memory_row("packed", 4e8), memory_row("rlhive", 1e8, mapped=2e8)],
    }
    big = {"kind": "walk", "size": 1e7}

    assert bench_sampling._refuse_if_too_big("numpy", big, [small], 0) == 4e9
    assert bench_sampling._refuse_if_too_big("rlhive", big, [small], 0) == 3e9  # what it maps is memory too
    assert bench_sampling._refuse_if_too_big("torchrl", big, [small], 4e9) == 0
    with pytest.raises(NotOfferedError, match="4 GB of memory beside the 4 of others"):
        bench_sampling._refuse_if_too_big("packed", big, [small], 4e9)

    free = {"free": 7.6e9}
    monkeypatch.setattr(bench_sampling.shutil, "disk_usage", lambda folder: type("Usage", (), free))
    assert bench_sampling._lacking_disk(tmp_path, [small], 1e7) == ""
    assert bench_sampling._lacking_disk(tmp_path, [], 1e7) == ""
    free["free"] = 7.4e9
    assert "need 8 GB of disk where 7 are free" in bench_sampling._lacking_disk(tmp_path, [small], 1e7)


def test_growth_and_pictures_are_reported_with_their_shares():
    def content(size, per_s):
        row = {"workload": "random_256", "peer": "rlhive", "variant": "", "per_s": per_s}
        return {"size": size, "rows": [row, memory_row("rlhive", 3e6)]}

    text = "\n".join(report.growth([content(100_000, 4e6), content(10_000_000, 3e6)]))
    assert "| **RLHive** | 4,000,000 | 3,000,000 (0.75) |" in text
    assert "| **RLHive** | 2,000 MB; +3 MB | 2,000 MB; +3 MB |" in text

    pictures = {
        "stores": [{"peer": "rlhive", "bytes": 2e7}, {"peer": "lerobot", "bytes": 4e6}],
        "rows": [
            {"peer": "rlhive", "variant": "raw", "per_s": 5e4, "draw_s": {}, "frames": 2, "bytes": 1e8},
            {"peer": "lerobot", "variant": "2", "per_s": 1e3, "draw_s": {}, "frames": 1},
            {"peer": "lerobot", "variant": "0", "per_s": 5e2, "draw_s": {}},
        ],
    }
    ours, theirs, _ = report._picture_rows(pictures)
    assert ours == ["**RLHive**, raw", "50,000", "100,000 (100.0)", "20.0 MB", "100.0 MB"]
    assert theirs == ["LeRobotDataset, 2 workers", "1,000", "1,000", "4.0 MB", "4.0 MB"]


@pytest.mark.parametrize(
    ("words", "results"), [([], "sampling"), (["--load", "busy"], None), (["--threads", "default"], None)]
)
def test_a_run_with_other_threads_or_load_does_not_replace_the_published_results(words, results):
    options = bench_sampling._options(words)
    assert options.results == results
    assert options.threads == (None if "--threads" in words else 1)


def test_threads_change_no_batch_and_the_table_has_every_kind(filled, capsys, monkeypatch):
    monkeypatch.setattr(sampling_threads, "ROUNDS", 2)
    monkeypatch.setattr(sampling_threads, "BATCHES", {"8": (8, {}), "8, n_step=3": (8, {"n_step": 3})})
    monkeypatch.setattr(sampling_threads, "ROUND_TRANSITIONS", 16)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sampling_threads.main(["toy_point", "--busy"])
    finally:
        torch.set_num_threads(before)
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| 8", "| 8, n_step=3"]


def test_the_profile_names_every_step(tmp_path):
    source = sources.make(tmp_path / "source", num_transitions=700, length=70)
    peer = import_module("benchmarks.peers.rlhive").Peer(source, tmp_path / "peer")
    peer.write()
    buffer = peer._buffer(batch_size=8)

    steps = profile_sample.steps_of(buffer, 8)
    us_by_step = profile_sample.fastest(steps)

    assert list(us_by_step) == list(steps)
    assert 0 < us_by_step["  storage.get"] < us_by_step["sample()"] * 2
    assert "_items.py" in profile_sample.cprofile(buffer, lines=60)
    loop = profile_sample.steps_of_a_loop(buffer, 8)
    assert loop["  its share of 16 gathered at once"][1] == 16


def test_the_export_benchmark_runs_and_is_reported_as_a_table():
    quick = [
        "--peers",
        "rlhive",
        "--sets",
        "short",
        "--rounds",
        "1",
        "--scale",
        "0.01",
        "--results",
        "",
        "--no-install",
    ]
    content = bench_export.main(quick)

    assert content["rows"][0]["per_s"] > 0
    assert "failed" not in content["rows"][0]
    assert content["rows"][0]["check"]["ok"]
    assert content["diff"]["result"] == {"same": 90, "dropped": 10}
    table = report.export_tables(json.loads(json.dumps(content)))
    assert "transitions/s" in table
    assert f"this disk's flush alone | {content['rows'][0]['floors']['flush_ms']:.2f} ms |" in table


def test_the_import_table_has_the_small_and_the_large_import_of_each_source():
    one = {"file_bytes": 69e6, "peak_bytes": 993e6, "cpu_s": 11.3}
    row = {"source": "d4rl", "small": one, "large": {"file_bytes": 2.04e9, "peak_bytes": 1051e6, "cpu_s": 24.2}}
    row |= {"SIGINT": {"ended_within_s": 1.43}, "SIGKILL": {"bytes": 266e6}}
    machine = {"date": "today", "commit": "c", "cores": 2, "cpu": "chip", "memory_gb": 25, "load": [1.0]}

    table = report.import_table({"machine": machine, "rows": [row]})

    assert "| d4rl | 0.07 GB → 2.04 GB | 993 MB → 1,051 MB | 24 s | 1.4 s | 266 MB |" in table
    assert "load 1.0 before." in table


def test_the_environment_table_compares_every_contender_with_raw():
    fast = {"steps_per_s": 415.4, "of_raw": 0.9, "of_raw_min": 0.84, "of_raw_max": 0.92}
    more = {"build": {"raw_s": 0.43, "rlhive_s": 0.49}, "workers": {"two_of_one": 1.96}}

    table = report.envs_table({"environments": {"Knob-v4": {"RLHive rollout": fast, **more}}})

    assert "| Knob-v4 | RLHive rollout | 415 | 0.90 | 0.84 to 0.92 |" in table
    assert "| Knob-v4 | two workers, in episodes of one |  | 1.96 |  |" in table


def test_gradient_steps_are_timed_and_their_losses_are_equal():
    variants = ["matmuls/bc", "rlhive/bc", "rlhive/iql", "torchrl/iql", "corl/iql"]
    quick = ["--rounds", "1", "--seconds", "0.01", "--transitions", "300", "--no-install"]
    content = bench_training.main(["--variants", *variants, *quick])

    assert all(row["cpu_ms"]["min"] > 0 for row in content["rows"])
    assert [goal["name"] for goal in content["goals"]][:1] == ["bc and its matrix products"]
    for library in ("torchrl", "corl"):
        assert content["values"][library]["compared"] == 3 * bench_training.NUM_COMPARED
        assert content["values"][library]["equal"]
    assert "| **RLHive** bc |" in report.training_tables({**content, "seconds": 1})
