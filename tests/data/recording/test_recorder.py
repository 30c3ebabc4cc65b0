import doctest
import logging
import os
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from tensordict import TensorDict
from torchrl.collectors import Collector, MultiAsyncCollector, MultiSyncCollector, RandomPolicy
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    TensorDictMaxValueWriter,
    TensorDictReplayBuffer,
)
from torchrl.envs import InitTracker, SerialEnv, StepCounter, TransformedEnv
from torchrl.envs.utils import step_mdp

import rlhive
from rlhive.data.recording import BOOKKEEPING, _recorder
from rlhive.data.recording._recorder import Recorder
from rlhive.data.recording._recording import Recording
from rlhive.data.versions import _reader
from rlhive.data.versions._manifest import Manifest
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.envs._toy import STEP, ToyEnv, make_toy_policy
from rlhive.errors import (
    DatasetExistsError,
    DatasetNotFoundError,
    DiskFullError,
    InvalidExpressionError,
    InvalidNameError,
    RecordingInUseError,
    SchemaMismatchError,
)
from tests.data.strategies import teleoperated, transitions


def toys(count=2):
    return SerialEnv(count, [lambda seed=seed: ToyEnv(seed=seed) for seed in range(count)])


def random_policy(env):
    return RandomPolicy(env.action_spec)


def follows_the_physics(episode):
    """Whether every transition is what the toy does: none of another environment or episode can be among them."""
    states = np.concatenate([episode.columns["observation"], episode.final["observation"][None]])
    moved = states[:-1, 0] + STEP * episode.columns["action"][:, 0].astype(np.float64)
    reward = 1.0 - np.abs(states[1:, 0] - states[1:, 1])
    ended = {"terminated": abs(states[-1, 0]) > 1, "truncated": episode.length == 20}
    return (
        (moved == states[1:, 0]).all()
        and (states[:, 1] == states[0, 1]).all()
        and (episode.columns["next.reward"][:, 0] == reward).all()
        and (np.abs(states[:-1, 0]) <= 1).all()
        and episode.ended == next((name for name, is_so in ended.items() if is_so), "unfinished")
    )


def rows_of(batches):
    """Every (observation, action) that was handed out, padding left out, in a fixed order."""
    rows = []
    for batch in batches:
        mask = batch.get(("collector", "mask"), torch.ones(batch.shape, dtype=torch.bool))
        rows.append(torch.cat([batch["observation"][mask], batch["action"][mask].double()], dim=-1))
    return sorted(map(tuple, torch.cat(rows).tolist()))


def recorded_rows(episodes):
    return sorted(
        (*observation, *action)
        for episode in episodes
        for observation, action in zip(
            episode.columns["observation"].tolist(), episode.columns["action"].astype(np.float64).tolist(), strict=True
        )
    )


def record_all(collector, path):
    """Record what a collector gives; return the episodes and all batches."""
    batches = []
    with Recorder(path) as recorder:
        for batch in collector:
            batches.append(batch.clone())
            recorder.extend(batch)
            batch.zero_()  # as a collector that reuses its memory does
    collector.shutdown()
    return list(recorder.recording.sorted_records()), batches


@pytest.mark.parametrize(
    "kind",
    [
        "one",
        "two",
        "padded",
        pytest.param("multi-sync", marks=pytest.mark.slow),
        pytest.param("multi-async", marks=pytest.mark.slow),
    ],
)
def test_a_collector_is_recorded_completely_without_mixing_episodes(kind, tmp_path):
    kwargs = {"frames_per_batch": 24, "total_frames": 240}
    policy = random_policy(ToyEnv())
    if kind == "one":
        collector = Collector(ToyEnv, policy, **kwargs)
    elif kind == "two":
        collector = Collector(toys, random_policy(toys()), **kwargs)
    elif kind == "padded":
        collector = Collector(toys, random_policy(toys()), split_trajs=True, **kwargs)
    elif kind == "multi-sync":
        collector = MultiSyncCollector([toys, toys], random_policy(toys()), cat_results=0, **kwargs)
    else:
        collector = MultiAsyncCollector([ToyEnv, ToyEnv], policy, **kwargs)

    episodes, batches = record_all(collector, tmp_path / "r")

    assert all(follows_the_physics(episode) for episode in episodes)
    assert recorded_rows(episodes) == rows_of(batches)
    environments = {"one": 1, "multi-sync": 4}.get(kind, 2)
    assert sum(episode.ended == "unfinished" for episode in episodes) <= environments
    assert {"action", "observation", "success", "next.reward"} < set(episodes[0].columns)
    assert not {"collector.traj_ids", "collector.mask", "mask"} & set(episodes[0].columns)


def test_rollouts_with_resets_inside_are_cut_at_them(tmp_path):
    env = toys(3)
    batches = []
    with Recorder(tmp_path / "r") as recorder:
        for _ in range(3):
            batches.append(env.rollout(30, random_policy(env), break_when_any_done=False))
            recorder.extend(batches[-1])
        assert recorder.num_open <= 3

    episodes = list(recorder.recording.sorted_records())
    assert all(follows_the_physics(episode) for episode in episodes)
    assert recorded_rows(episodes) == rows_of(batches)
    # Each rollout resets all, so that of each line one episode is left open three times.
    assert 0 < sum(episode.ended == "unfinished" for episode in episodes) <= 9


def test_stepping_several_environments(tmp_path):
    env = toys(2)
    policy = random_policy(env)
    taken = []
    with Recorder(tmp_path / "r") as recorder:
        td = env.reset()
        for _ in range(45):
            td = env.step(policy(td))
            taken.append(td.clone().unsqueeze(-1))
            recorder.step(td)
            td = step_mdp(td)
            if td["done"].any():
                td = env.reset(td.set("_reset", td["done"]))

    episodes = list(recorder.recording.sorted_records())
    assert all(follows_the_physics(episode) for episode in episodes)
    assert recorded_rows(episodes) == rows_of(taken)


def test_metadata_given_at_the_reset_are_recorded(tmp_path):
    env = ToyEnv()
    with Recorder(tmp_path / "r", env=env, policy=make_toy_policy(env, "expert"), split="expert") as recorder:
        for seed in (7, 8):
            env.set_seed(seed)
            td = env.reset()
            recorder.start_episode(seed=seed, start_state=env.get_state(), metadata={"operator": "Ünal", "n": [seed]})
            while not td["done"].item():
                td = env.step(make_toy_policy(env, "expert")(td))
                recorder.step(td)
                td = td["next"]
        recorder.start_episode(seed=9, start_state=env.get_state(), split="other", policy="nobody")
        recorder.step(env.step(env.rand_action(env.reset())))

    one, two, three = recorder.recording.sorted_records()
    assert [one.seed, two.seed, three.seed] == [7, 8, 9]
    assert two.metadata == {"operator": "Ünal", "n": [8]}
    assert [one.split, three.split, one.policy, three.policy] == ["expert", "other", "expert", "nobody"]
    assert one.start_state["position"] == one.columns["observation"][0, 0]
    assert one.success
    assert [one.ended, three.ended, three.length] == ["truncated", "unfinished", 1]
    (run,) = recorder.recording.runs
    assert run["env"]["env_name"] == "ToyPoint-v0"
    assert run["policy"] == {"name": "expert", "parameters": {"noise": 0.0, "give_up": 0.0, "uniform": False}}
    assert {"versions", "git", "started"} < run.keys()
    assert not {"command", "host"} & run.keys()
    assert {one.run, three.run} == {run["run"]}


@pytest.mark.parametrize("on_incomplete", ["unfinished", "truncated"])
def test_on_incomplete_sets_the_end_of_an_unfinished_episode(on_incomplete, tmp_path):
    td = transitions(5, 0, ended="unfinished")
    with Recorder(tmp_path / "r", on_incomplete=on_incomplete) as recorder:
        recorder.extend(td)
        assert recorder.num_open == 1

    (episode,) = recorder.recording.sorted_records()
    assert episode.ended == on_incomplete
    assert episode.columns["next.truncated"][:, 0].tolist() == [False] * 4 + [on_incomplete == "truncated"]
    assert not td["next", "truncated"].any(), "the caller's data are left alone"


def test_an_error_inside_the_block_keeps_the_open_episode(tmp_path):
    recorder = Recorder(tmp_path / "r")
    recorder.extend(transitions(4, 0, ended="unfinished"))
    with pytest.raises(ZeroDivisionError), recorder:
        raise ZeroDivisionError

    assert [episode.length for episode in Recording(tmp_path / "r").records()] == [4]


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda td: td.pop("action"), "episode 1: key action is missing"),
        (lambda td: td.set("extra", torch.zeros(5)), "episode 1: key extra is not in the schema"),
        (
            lambda td: td.set("action", td["action"].double()),
            r"episode 1: key action: expected float32 \(2,\), got float64",
        ),
        (lambda td: td.set("action", td["action"][:, :1]), r"key action: expected float32 \(2,\), got float32 \(1,\)"),
        (lambda td: td["action"].__setitem__((2, 0), float("nan")), "episode 1, row 2: key action is NaN"),
        (
            lambda td: td["next", "observation"].__setitem__((4, 1), float("nan")),
            "row 4: key observation is NaN|next.obs",
        ),
        (lambda td: td["next"].pop("terminated"), "key next.terminated is missing"),
        (lambda td: td.set("when", torch.zeros(5, dtype=torch.complex64)), "key when: expected a tensor of one of"),
    ],
)
def test_transitions_that_do_not_fit_are_refused_and_the_rest_is_recorded(breaks, says, tmp_path):
    bad = transitions(5, 2)
    breaks(bad)
    with Recorder(tmp_path / "r") as recorder:
        assert recorder.extend(transitions(3, 1)) == [0]
        with pytest.raises(SchemaMismatchError, match=says):
            recorder.extend(bad)
        assert recorder.extend(transitions(4, 3)) == [1]

    assert [episode.length for episode in recorder.recording.sorted_records()] == [3, 4]


def test_one_bad_episode_of_a_batch_does_not_affect_the_others(tmp_path):
    lines = torch.stack([transitions(6, seed) for seed in range(4)])
    lines["action"][1, 2, 0] = float("nan")
    with Recorder(tmp_path / "r") as recorder, pytest.raises(SchemaMismatchError, match="row 2: key action is NaN"):
        recorder.extend(lines)

    expected = [lines["action"][line].numpy().tobytes() for line in (0, 2, 3)]
    assert [e.columns["action"].tobytes() for e in recorder.recording.sorted_records()] == expected


def test_a_given_schema_is_what_the_first_episode_must_have(tmp_path):
    from rlhive.data._schema import Schema

    schema = Schema.from_tensordict(transitions(1, 0).exclude("gripper"))
    with Recorder(tmp_path / "r", schema=schema) as recorder:
        with pytest.raises(SchemaMismatchError, match="key gripper is not in the schema"):
            recorder.extend(transitions(3, 0))
        recorder.extend(transitions(3, 0).exclude("gripper"))

    assert recorder.recording.schema == schema


def ring_batches(env, capacity, frames, **storage):
    """A wrapped replay buffer, filled by a collector, and all that was ever written to it."""
    buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(capacity, **storage), batch_size=4)
    collector = Collector(env, RandomPolicy(env.action_spec), frames_per_batch=frames, total_frames=8 * frames)
    batches = []
    for batch in collector:
        batches.append(batch.clone())
        buffer.extend(batch.clone() if storage else batch.reshape(-1).clone())
    collector.shutdown()
    return buffer, batches


def truth_of(batches):
    """The episodes that began in the batches, by trajectory id, as [(observation, action)]."""
    episodes = {}
    for batch in batches:
        for line in batch.reshape(-1, batch.shape[-1]):
            for row in line:
                key = row["collector", "traj_ids"].item()
                episodes.setdefault(key, []).append((*row["observation"].tolist(), *row["action"].double().tolist()))
    return episodes


@pytest.mark.parametrize("kind", ["one", "two", "two, own dimension", "counted", "marked"])
def test_an_overwritten_ring_buffer_gives_only_episodes_with_their_beginning(kind, tmp_path, caplog):
    torch.manual_seed(0)
    env = {
        "one": lambda: ToyEnv(seed=0),
        "counted": lambda: TransformedEnv(toys(), StepCounter()),
        "marked": lambda: TransformedEnv(toys(), InitTracker()),
    }.get(kind, toys)()
    storage = {"ndim": 2} if "dimension" in kind else {}
    buffer, batches = ring_batches(env, 100, 24, **storage)
    with caplog.at_level(logging.WARNING), Recorder(tmp_path / "r") as recorder:
        recorder.extend(buffer)
        assert recorder.num_open == 0

    episodes = list(recorder.recording.sorted_records())
    truth = list(truth_of(batches).values())
    episode_rows = [recorded_rows([episode]) for episode in episodes]
    assert all(follows_the_physics(episode) for episode in episodes)
    assert all(any(rows == sorted(episode[: len(rows)]) for episode in truth) for rows in episode_rows), (
        "a beginning is missing"
    )
    assert len(episode_rows) >= 2
    (warning,) = [message for message in caplog.messages if "dropped" in message]
    match = re.search(r"dropped \d+ episodes \((\d+) transitions\) whose beginning was overwritten", warning)
    assert sum(episode.length for episode in episodes) + int(match[1]) == len(buffer)
    if kind in ("counted", "marked"):  # exact: whatever is there from its first row is kept
        stored_rows = set(map(tuple, recorded_rows(episodes)))
        rows = [row for episode in truth for row in episode]
        newest = set(rows_of([buffer.storage.get(slice(None))]))
        assert stored_rows == {row for episode in truth if episode[0] in newest for row in episode if row in newest}
        assert len(rows) > len(newest)


def test_a_buffer_that_is_not_full_is_recorded_completely(tmp_path, caplog):
    for number, (storage, ndim) in enumerate(
        [(LazyMemmapStorage(500), 1), (LazyTensorStorage(500, ndim=2), 2), (ListStorage(500), 1)]
    ):
        buffer = TensorDictReplayBuffer(storage=storage, batch_size=4)
        env = toys()
        batches = [env.rollout(30, random_policy(env), break_when_any_done=False) for _ in range(3)]
        for batch in batches:
            buffer.extend(batch if ndim == 2 else batch.reshape(-1))
        with Recorder(tmp_path / str(number)) as recorder:
            recorder.extend(buffer)

        episodes = list(recorder.recording.sorted_records())
        assert all(follows_the_physics(episode) for episode in episodes), storage
        assert recorded_rows(episodes) == rows_of(batches), storage
        assert "index" not in episodes[0].columns
    assert "dropped" not in caplog.text


def test_an_overwritten_ring_buffer_of_mixed_environments_without_ids_is_refused(tmp_path):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(50), batch_size=4)
    env = toys()
    for _ in range(2):
        buffer.extend(env.rollout(19, random_policy(env)).reshape(-1))
    with Recorder(tmp_path / "r") as recorder:
        with pytest.raises(SchemaMismatchError, match="rows are overwritten, and the rest mixes environments"):
            recorder.extend(buffer)
        best = TensorDictReplayBuffer(storage=LazyTensorStorage(50), writer=TensorDictMaxValueWriter(rank_key="action"))
        with pytest.raises(SchemaMismatchError, match="expected a writer that keeps the order of time"):
            recorder.extend(best)


def test_two_collectors_with_the_same_ids_are_not_mixed(tmp_path):
    collectors = [Collector(ToyEnv, random_policy(ToyEnv()), frames_per_batch=8, total_frames=80) for _ in range(2)]
    batches = []
    with Recorder(tmp_path / "r") as recorder:
        for pair in zip(*collectors, strict=True):
            for batch in pair:
                batches.append(batch.clone())
                recorder.extend(batch)
    for collector in collectors:
        collector.shutdown()

    episodes = list(recorder.recording.sorted_records())
    assert all(follows_the_physics(episode) for episode in episodes)
    assert recorded_rows(episodes) == rows_of(batches)
    assert sum(episode.ended == "unfinished" for episode in episodes) <= 2


def test_a_key_that_changes_inside_an_episode_is_named(tmp_path):
    whole = transitions(6, 1)
    changed = [whole[3:].exclude("gripper"), whole[3:].clone().set("action", whole["action"][3:].double())]
    with Recorder(tmp_path / "r") as recorder:
        for second, says in zip(
            changed, ["gripper.*got no such key", r"action.*float32 \(2,\), got float64"], strict=True
        ):
            assert recorder.extend(whole[:3]) == []
            with pytest.raises(SchemaMismatchError, match=f"episode 0: key {says}"):
                recorder.extend(second)
        recorder.extend(whole[:3])
        assert recorder.extend(whole[3:]) == [0]


@pytest.mark.parametrize("metadata", [{"a": object()}, {"a": float("nan")}, {"a": {1, 2}}, {(1, 2): 3}, 7])
def test_metadata_that_json_cannot_hold_is_named(metadata, tmp_path):
    with Recorder(tmp_path / "r") as recorder:
        recorder.add_episode(transitions(3, 0), metadata={"b": (1, None)})
        with pytest.raises(SchemaMismatchError, match="r, episode 1, metadata: expected a mapping of JSON values"):
            recorder.add_episode(transitions(3, 1), metadata=metadata)


@pytest.mark.parametrize(
    "wrong", [{"seed": 1.5}, {"seed": 2**63}, {"start_state": {"q": "abc"}}, {"start_state": {"q": [1, [2]]}}]
)
def test_data_that_no_version_can_store_are_refused_while_recording(wrong, tmp_path):
    with Recorder(tmp_path / "r") as recorder:
        with pytest.raises(SchemaMismatchError, match="episode 0: expected an int64 seed and a start state of numbers"):
            recorder.add_episode(transitions(3, 0), **wrong)
        recorder.add_episode(transitions(3, 0), seed=np.int64(7))

    (record,) = Recording(tmp_path / "r").records()
    assert (record.seed, record.start_state) == (7, {})


@pytest.mark.parametrize("garbage", [{"a": 1}, [1, 2], None, torch.zeros(3)])
def test_an_argument_that_is_not_a_tensordict_is_refused_with_its_type(garbage, tmp_path):
    with Recorder(tmp_path / "r") as recorder:
        for take in (recorder.add_episode, recorder.extend):
            with pytest.raises(SchemaMismatchError, match=f"expected a TensorDict.*, got a {type(garbage).__name__}"):
                take(garbage)


def test_a_recording_is_committed_once(store):
    with Recorder("my/knob") as recorder:
        recorder.add_episode(transitions(3, 0))
    recorder.commit(license="mit")

    with pytest.raises(DatasetNotFoundError, match="a version holds it already"):
        recorder.commit(license="mit")


def record_in_child(path_or_recorder, number):
    recorder = path_or_recorder if isinstance(path_or_recorder, Recorder) else Recorder.resume(path_or_recorder)
    with recorder:
        for index in range(5):
            recorder.add_episode(transitions(3, 100 * number + index), metadata={"writer": number, "n": index})


@pytest.mark.parametrize("how", ["pickled", "resumed", "inherited"])
def test_many_processes_record_at_once(how, tmp_path):
    recorder = Recorder(tmp_path / "r")
    recorder.extend(transitions(4, 0, ended="unfinished"))
    children = []
    for number in range(4):
        handed = pickle.loads(pickle.dumps(recorder)) if how == "pickled" else recorder
        # A fork of this process: what it costs to import torch four times is not the point.
        child = os.fork()
        if not child:
            try:
                record_in_child(recorder.path if how == "resumed" else handed, number)
            finally:
                os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    recorder.close()

    episodes = list(recorder.recording.sorted_records())
    written = {(episode.metadata["writer"], episode.metadata["n"]): episode for episode in episodes if episode.metadata}
    assert len(episodes) == 21, "the parent's open episode is its own, and is recorded once"
    assert len({episode.episode for episode in episodes}) == 21
    for (number, index), episode in written.items():
        expected = transitions(3, 100 * number + index)["action"].numpy()
        assert episode.columns["action"].tobytes() == expected.tobytes()
    runs = {"pickled": 1, "inherited": 1, "resumed": 5}[how]
    assert len(recorder.recording.runs) == runs
    assert {episode.run for episode in episodes} == {run["run"] for run in recorder.recording.runs}


def test_resume_continues_with_new_ids(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="rlhive recover"):
        Recorder.resume(tmp_path / "r")
    for length in (2, 3, 4):
        with Recorder(tmp_path / "r") if length == 2 else Recorder.resume(tmp_path / "r") as recorder:
            recorder.add_episode(transitions(length, length))
            recorder.add_episode(transitions(length, length + 10))
    with pytest.raises(DatasetExistsError, match=r"Recorder\.resume"):
        Recorder(tmp_path / "r")
    with pytest.raises(ValueError, match="is closed"):
        recorder.add_episode(transitions(1, 0))

    episodes = list(recorder.recording.sorted_records())
    assert [episode.episode for episode in episodes] == [0, 1, 1_000_000, 1_000_001, 2_000_000, 2_000_001]
    assert [episode.length for episode in episodes] == [2, 2, 3, 3, 4, 4]


def test_a_recording_in_the_store_is_resumed_by_its_name(store):
    with Recorder("my/knob") as first:
        first.add_episode(transitions(2, 0))
    with Recorder.resume("my/knob") as second:
        second.add_episode(transitions(3, 1))

    assert second.path == first.path
    assert second.commit(license="mit") == store / "my/knob/1.0.0"


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(known=st.lists(st.booleans(), min_size=1, max_size=5), is_resumed=st.booleans())
def test_some_episodes_of_a_recording_may_have_no_start_state(known, is_resumed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    states = [{"qpos": np.array([index, -0.0, np.pi])} if is_known else {} for index, is_known in enumerate(known)]
    with Recorder("my/knob", store=folder) as recorder:
        for index, state in enumerate(states):
            if is_resumed and index == 1:
                recorder.close()
                recorder = Recorder.resume(recorder.path, store=folder)
            recorder.add_episode(transitions(3, index), seed=index if index % 2 else None, start_state=state)
    recorder.close()
    recorded = [episode.identity() for episode in recorder.recording.sorted_records()]

    dataset = RoboHiveDataset(recorder.commit(license="mit"))

    assert len(recorded) == len(known)
    read = list(_reader.read_records(dataset.path, dataset.manifest, ["train"]))
    assert [episode.identity() for episode in read] == recorded
    for episode, state in zip(sorted(read, key=lambda episode: episode.episode), states, strict=True):
        assert {name: values.tobytes() for name, values in episode.start_state.items()} == {
            name: values.tobytes() for name, values in state.items()
        }
    report = rlhive.check(dataset.path)
    assert report.ok, report
    assert dataset.episodes["seed"].to_pylist() == [index if index % 2 else None for index in range(len(known))]


def test_a_recorder_becomes_a_version(store):
    with Recorder("my/knob", env="Knob-v0", policy="me", split="seen") as recorder:
        recorder.add_episode(transitions(3, 0), seed=4, start_state={"qpos": np.arange(3.0)})
        recorder.add_episode(transitions(1, 1), start_state={"qpos": np.ones(3)}, split="unseen")
        recorder.start_episode(start_state={"speed": np.ones(3)})
        recorder.step(transitions(2, 2)[0])
        with pytest.raises(SchemaMismatchError, match="start state 'qpos': expected 3 numbers, got no such part"):
            recorder.end_episode()
        recorder.start_episode(start_state={"qpos": np.zeros(3)})
        recorder.step(transitions(2, 2)[0])
    before = {episode.episode: episode.identity() for episode in recorder.recording.records()}

    folder = recorder.commit(version="0.1.0", license="cc-by-4.0", splits=("seen", "unseen", "none"))

    assert folder == store / "my/knob/0.1.0"
    dataset = RoboHiveDataset("my/knob")
    assert dataset.env_name == "Knob-v0"
    assert dataset.manifest.splits["none"] == {"num_episodes": 0, "num_transitions": 0}
    back = _reader.read_records(folder, Manifest.read(folder), ["seen", "unseen"])
    assert {episode.episode: episode.identity() for episode in back} == before
    assert dataset.episodes["ended"].to_pylist() == ["truncated", "truncated", "unfinished"]
    assert [run["policy"] for run in dataset.manifest.runs] == [{"name": "me"}]
    assert not recorder.path.exists()


def test_a_commit_without_name_or_episodes_is_an_error(tmp_path, store):
    with Recorder(tmp_path / "r") as recorder:
        with pytest.raises(ValueError, match="on_incomplete"):
            Recorder(tmp_path / "other", on_incomplete="dropped")
        other = Recorder.resume(tmp_path / "r")
        with pytest.raises(InvalidNameError, match="expected the name"):
            recorder.commit(version="1.0.0", license="mit")
        with pytest.raises(RecordingInUseError):
            recorder.commit(name="my/knob", version="1.0.0", license="mit")
        other.close()
        with pytest.raises(DatasetNotFoundError, match="holds no complete episode"):
            recorder.commit(name="my/knob", version="1.0.0", license="mit")
    assert recorder.path.exists()


def test_episodes_that_a_full_disk_delayed_are_written_by_the_next_call(tmp_path, monkeypatch):
    with Recorder(tmp_path / "r") as recorder:
        recorder.add_episode(transitions(2, 0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, content: 0)
            with pytest.raises(DiskFullError):
                recorder.extend(torch.stack([transitions(3, seed) for seed in (1, 2)]))
        assert recorder.num_episodes == 1
        recorder.add_episode(transitions(4, 3))

    assert [episode.length for episode in recorder.recording.sorted_records()] == [2, 3, 3, 4]
    assert recorder.num_episodes == 4


def test_a_long_episode_of_single_steps(tmp_path):
    steps = transitions(1500, 0)
    with Recorder(tmp_path / "r") as recorder:
        for step in steps:
            recorder.step(step)

    (episode,) = recorder.recording.sorted_records()
    assert episode.columns["parts.camera"].tobytes() == steps["parts", "camera"].numpy().tobytes()


def test_pixels_depth_and_text_come_back_through_a_version(store):
    generator = torch.Generator().manual_seed(0)
    states = {
        "pixels": torch.randint(0, 256, (5, 2, 8, 6, 3), generator=generator, dtype=torch.uint8),
        "depth": torch.rand(5, 2, 8, 6, 1, generator=generator),
        "scalar": torch.arange(5, dtype=torch.int16),
    }
    made = transitions(4, 0)
    for name, values in states.items():
        made[name], made["next", name] = values[:-1], values[1:]
    made["instruction"] = ["turn the knob", "", "drehe den Knopf №1", "旋钮"]
    with Recorder("my/eyes") as recorder:
        recorder.extend(made)
        recorder.extend(made[3:])
    folder = recorder.commit(version="1.0.0", license="mit")

    one, two = _reader.read_records(folder, Manifest.read(folder), ["train"])

    assert one.columns["pixels"].tobytes() == states["pixels"][:-1].numpy().tobytes()
    assert one.columns["depth"].dtype == np.float32
    assert one.final["depth"].tobytes() == states["depth"][-1].numpy().tobytes()
    assert one.columns["scalar"].tolist() == [0, 1, 2, 3]
    assert one.columns["instruction"].tolist() == list(made["instruction"])
    assert two.length == 1
    buffer = RoboHiveDataset(folder).as_tensordict()
    assert buffer["next", "pixels"][:4].equal(states["pixels"][1:])


def test_provenance_of_networks_files_and_other_environments(tmp_path):
    from rlhive._provenance import describe_env, describe_policy

    torch.manual_seed(0)
    network = torch.nn.Linear(2, 1)
    before = describe_policy(network)
    with torch.no_grad():
        network.weight[0, 0] += 1e-6
    (tmp_path / "weights.pt").write_bytes(b"12")

    assert before["name"] == "Linear"
    assert describe_policy(network)["sha256"] != before["sha256"]
    assert describe_policy(tmp_path / "weights.pt")["sha256"] != describe_policy(tmp_path)["sha256"]
    assert describe_policy("me") == {"name": "me"}
    assert describe_policy(follows_the_physics)["name"] == "follows_the_physics"
    assert describe_env(TransformedEnv(ToyEnv(), StepCounter()))["env_name"] == "ToyPoint-v0"
    assert describe_env(SerialEnv(2, ToyEnv))["env_name"] == "ToyPoint-v0"
    assert describe_env(object()) == {"env_name": "object", "class": "builtins.object"}


def test_the_examples_of_the_docstrings_run(store):
    result = doctest.testmod(_recorder)

    assert result.attempted >= 8
    assert result.failed == 0


@pytest.mark.parametrize("dropped", [False, True])
def test_the_simulators_state_in_the_data_gives_the_start_state(dropped, tmp_path):
    env = toys()
    batches = []
    drop = (*BOOKKEEPING, "state") if dropped else BOOKKEEPING
    with Recorder(tmp_path / "r", drop=drop) as recorder:
        for _ in range(2):
            td = env.rollout(30, random_policy(env), break_when_any_done=False)
            for node in (td, td["next"]):
                parts = {
                    "position": node["observation"][..., :1].clone(),
                    "both": node["observation"].unflatten(-1, (2, 1)),
                }
                node["state"] = TensorDict(parts, td.shape)
            batches.append(td)
            recorder.extend(td)
        recorder.end_episode()
        recorder.start_episode(start_state={"position": [7.0], "both": [8.0, 9.0]})
        recorder.step(td[0, 0])
        recorder.end_episode()
        recorder.add_episode(td[0, :1])

    *episodes, started, added = recorder.recording.sorted_records()
    assert recorded_rows(episodes) == rows_of(batches)
    for episode in (*episodes, added):
        assert episode.start_state["position"] == episode.columns["observation"][0, 0]
        assert episode.start_state["both"].tolist() == episode.columns["observation"][0].tolist()
    assert started.start_state["both"].tolist() == [8.0, 9.0]
    assert ("state.position" in episodes[0].columns) != dropped


def test_a_call_flushes_once_for_all_the_episodes_that_it_ends(tmp_path, monkeypatch):
    flushes = []
    sync = os.fdatasync
    with Recorder(tmp_path / "r") as recorder:
        recorder.add_episode(transitions(2, 0))
        monkeypatch.setattr(os, "fdatasync", lambda file: flushes.append(file) or sync(file))

        recorder.extend(torch.stack([transitions(3, seed) for seed in range(4)]))
        assert len(flushes) == 1
        recorder.extend(transitions(3, 5, ended="unfinished"))
        assert len(flushes) == 1, "no episode ended"
        recorder.end_episode()
        assert len(flushes) == 2


def test_an_episode_is_readable_when_the_call_that_ended_it_returns(tmp_path):
    with Recorder(tmp_path / "r") as recorder:
        for length in (3, 4):
            recorder.extend(transitions(length, length))
            assert [record.length for record in Recording(tmp_path / "r").records()][-1] == length


def test_metadata_belong_to_the_next_episode_of_their_environment_only(tmp_path):
    with Recorder(tmp_path / "r", split="default") as recorder:
        recorder.start_episode(env_index=1, split="special", seed=5)
        recorder.extend(torch.stack([transitions(3, seed) for seed in range(2)]))
        recorder.extend(torch.stack([transitions(3, seed) for seed in range(2, 4)]))

    splits_and_seeds = [(record.split, record.seed) for record in recorder.recording.sorted_records()]
    assert splits_and_seeds == [("default", None), ("special", 5), ("default", None), ("default", None)]


def test_a_second_process_takes_the_schema_of_the_first_episode(tmp_path):
    with Recorder(tmp_path / "r") as first, Recorder.resume(tmp_path / "r") as second:
        first.add_episode(transitions(3, 0))
        with pytest.raises(SchemaMismatchError, match="episode 0: key gripper is missing"):
            second.add_episode(transitions(3, 1).exclude("gripper"))
        assert second.add_episode(transitions(3, 1)) == 1_000_000


def test_a_resumed_recorder_keeps_its_settings(tmp_path):
    with Recorder(tmp_path / "r") as recorder:
        recorder.add_episode(transitions(2, 0))
    options = {"policy": "late", "split": "test", "on_incomplete": "truncated", "drop": (*BOOKKEEPING, "count")}
    with (
        pytest.raises(SchemaMismatchError, match="key count is missing"),
        Recorder.resume(tmp_path / "r", **options) as late,
    ):
        late.add_episode(transitions(2, 1))
    options.pop("drop")
    with pickle.loads(pickle.dumps(Recorder.resume(tmp_path / "r", **options))) as late:
        late.add_episode(transitions(2, 1, ended="unfinished"))

    *_, record = recorder.recording.sorted_records()
    assert (record.split, record.policy, record.ended) == ("test", "late", "truncated")


def test_old_names_of_methods_work_and_warn(tmp_path):
    with Recorder(tmp_path / "r") as recorder:
        with pytest.warns(
            DeprecationWarning, match=r"Recorder\.begin\(\) is renamed start_episode\(\).*0\.2"
        ) as warned:
            assert recorder.begin(seed=3, env_index=0) == []
        recorder.extend(transitions(2, 0, ended="unfinished"))
        with pytest.warns(DeprecationWarning, match=r"Recorder\.cut\(\) is renamed end_episode\(\).*0\.2"):
            assert recorder.cut(env_index=0) == [0]
        with pytest.warns(DeprecationWarning, match=r"Recorder\.add\(\) is renamed add_episode\(\).*0\.2"):
            assert recorder.add(transitions(3, 1), split="test") == 1

    assert warned[0].filename == __file__
    summaries = [(record.seed, record.split, record.length) for record in recorder.recording.sorted_records()]
    assert summaries == [(3, "train", 2), (None, "test", 3)]


def test_the_old_name_of_on_incomplete_works_and_warns(tmp_path):
    with pytest.warns(DeprecationWarning, match=r"cut_as=…\) is renamed on_incomplete=; .*0\.2") as warned:
        Recorder(tmp_path / "r", cut_as="truncated").close()
    with pytest.warns(DeprecationWarning, match="cut_as"):
        recorder = Recorder.resume(tmp_path / "r", cut_as="truncated")
    with recorder:
        recorder.extend(transitions(3, 0, ended="unfinished"))

    assert warned[0].filename == __file__
    (record,) = recorder.recording.records()
    assert record.ended == "truncated"


def record_by_steps(recorder, td):
    for row in td:
        recorder.step(row)
    recorder.end_episode()


def record_by_batch(recorder, td):
    recorder.extend(td)
    recorder.end_episode()


def record_from_buffer(recorder, td):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(td)))
    buffer.extend(td)
    recorder.extend(buffer)


@pytest.mark.parametrize(
    "record", [record_by_steps, record_by_batch, record_from_buffer, lambda recorder, td: recorder.add_episode(td)]
)
@pytest.mark.parametrize("on_incomplete", ["unfinished", "truncated"])
def test_a_robot_without_reward_and_flags_is_recorded(record, on_incomplete, store):
    with Recorder("lab/teleop", on_incomplete=on_incomplete) as recorder:
        for episode in range(2):
            record(recorder, teleoperated(4 + episode, episode))
    dataset = RoboHiveDataset(recorder.commit(license="mit"))

    names = ["length", "return", "success", "ended"]
    expected = [{"return": None, "success": None, "ended": on_incomplete, "length": 4 + episode} for episode in (0, 1)]
    assert dataset.episodes.select(names).to_pylist() == expected
    for episode, td in enumerate(dataset.iter_episodes()):
        given = teleoperated(4 + episode, episode)
        assert td["observation"].equal(given["observation"])
        assert td["next", "observation"].equal(given["next", "observation"])
        assert td["action"].equal(given["action"])
    with pytest.raises(InvalidExpressionError, match="Condition 'success': success was not recorded for any of the 2"):
        dataset.where("success")
