"""Kill a recorder with SIGKILL at random moments and check that at most the last step of an open episode is lost.

    python -m tests.data.recording.torture FOLDER ROUNDS [SEED]

Each round forks a writer that resumes the recording, reports each episode and each step that is on the disk, and is
killed. The next round records what was written of the open episode. At the end, commits are killed until one completes.
Prints one JSON line. `make torture` runs 500 rounds.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from rlhive.data._episodes import EpisodeRecord, pack
from rlhive.data._schema import Schema
from rlhive.data.recording import _journal
from rlhive.data.recording._recorder import Recorder
from rlhive.data.recording._recording import Recording
from rlhive.data.recording._recover import commit_recording, recover_interrupted
from rlhive.data.versions import _reader
from rlhive.data.versions._manifest import Manifest
from tests.data.strategies import transitions

ENDLESS = 10**6


def make_transitions(round_, number):
    """Return the transitions of an episode of random length, a function of round and number."""
    seed = 10_000 * round_ + number
    return transitions(random.Random(seed).choice([1, 2, 5, 30, 200]), seed)


def expected_hash(round_, number, schema, length):
    columns, final = pack(make_transitions(round_, number)[:length], schema, context="expected")
    return EpisodeRecord(0, "", columns, final).content_hash()


def write(path, round_, report):
    """Record episodes without end; report each episode, and in odd rounds each open step, that is on the disk."""
    saves_each_step = round_ % 2 == 1
    if saves_each_step:
        _journal.SAVE_SECONDS = 0.0
    recorder = Recorder.resume(path)
    for number in range(ENDLESS):
        episode = make_transitions(round_, number)
        # By turns as one batch, as two batches, and step by step.
        if number % 3 == 0:
            recorder.add_episode(episode, metadata={"round": round_, "number": number})
        else:
            recorder.start_episode(metadata={"round": round_, "number": number})
            parts = episode.split(1 if number % 3 == 2 else max(1, len(episode) // 2))
            num_steps = 0
            for part in parts[:-1]:
                recorder.extend(part)
                num_steps += len(part)
                if saves_each_step:
                    os.write(report, f"{number} {num_steps}\n".encode())
            recorder.extend(parts[-1])
        os.write(report, f"{number}\n".encode())


def run_and_kill(work, delay_s, after_first):
    """Fork, let the child work, kill it, and return the lines that it reported, as lists of numbers."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            work(writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as report:
        output = report.readline() if after_first else b""
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
        output += report.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the writer ended by itself: {status}"
    return [[int(number) for number in line.split()] for line in output.split(b"\n")[:-1]]


def main(folder, rounds, seed):
    """Run the rounds, check the recording, and commit it."""
    generator = random.Random(seed)
    path = folder / "recording"
    Recorder(path).close()
    reported = {}
    for round_ in range(rounds):
        # Mostly while episodes are written, sometimes while the writer starts.
        after_first = generator.random() < 0.8
        delay_s = generator.uniform(0, 0.05)
        reported[round_] = run_and_kill(lambda report, number=round_: write(path, number, report), delay_s, after_first)
    recover_interrupted(Recording(path))
    in_flight = check(Recording(path), reported)
    kills = 0
    while not (folder / "store/my/knob/1.0.0").exists():
        run_and_kill(
            lambda _: commit_slowly(path, folder / "store"), generator.uniform(0, 0.3) * (1 + kills / 5), False
        )
        kills += 1
    versions = list((folder / "store/my/knob").glob("[0-9]*"))
    assert versions == [folder / "store/my/knob/1.0.0"], versions
    identities = {
        row.episode: row.identity() for row in _reader.read_records(versions[0], Manifest.read(versions[0]), ["train"])
    }
    safe = sum(len(line) == 1 for lines in reported.values() for line in lines)
    assert safe <= len(identities) <= safe + rounds
    result = {"kills": rounds, "episodes": len(identities), "in_flight": in_flight, "commits_killed": kills}
    sys.stdout.write(json.dumps(result) + "\n")


def commit_slowly(path, store):
    """Commit, then wait to be killed."""
    if not (store / "my/knob/1.0.0").exists():
        commit_recording(Recording(path), "my/knob", version="1.0.0", license="mit", store=store)
    time.sleep(ENDLESS)


def check(recording, reported):
    """Require every reported episode and step bit for bit; return how many episodes of at most one step more.

    Of the episode that was open when its round was killed, the steps that were reported are recorded, and at most one
    part more.
    """
    schema = Schema.from_tensordict(make_transitions(0, 0))
    episode_ids, lengths = {}, {}
    for record in recording.records():
        key = (record.metadata["round"], record.metadata["number"])
        assert key not in episode_ids, f"{key} is recorded twice"
        assert record.content_hash() == expected_hash(*key, schema, record.length), key
        lengths[key] = record.length
        episode_ids[key] = record.episode
    assert len(set(episode_ids.values())) == len(episode_ids), "an episode id was used twice"
    num_unreported = 0
    for round_, lines in reported.items():
        numbers = [line[0] for line in lines if len(line) == 1]
        for number, num_steps in (line for line in lines if len(line) == 2):
            assert lengths[round_, number] >= num_steps, f"round {round_}: episode {number} lost saved steps"
        for number in numbers:
            assert lengths[round_, number] == len(make_transitions(round_, number))
        recorded = sorted(number for at, number in episode_ids if at == round_)
        assert numbers == list(range(len(numbers)))
        assert recorded[: len(numbers)] == numbers, f"round {round_}: safe {numbers}, recorded {recorded}"
        assert len(recorded) <= len(numbers) + 1, f"round {round_}: safe {numbers}, recorded {recorded}"
        num_unreported += len(recorded) - len(numbers)
    return num_unreported


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
