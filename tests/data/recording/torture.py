"""Kill a recorder again and again at random moments, with SIGKILL, and see that nothing is lost but what was in flight.

    python -m tests.data.recording.torture FOLDER ROUNDS [SEED]

Each round forks a writer, which goes on with the recording, says after each episode that it is safe, and is killed. At
the end, commits are killed until one comes through. Prints one JSON line. `make torture` runs 500 rounds.
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
from rlhive.data.recording._recorder import Recorder
from rlhive.data.recording._recording import Recording
from rlhive.data.recording._recover import commit_recording
from rlhive.data.versions import _reader
from rlhive.data.versions._manifest import Manifest
from tests.data.strategies import transitions

ENDLESS = 10**6


def made(round_, number):
    """The transitions of an episode: a function of who records it, of a random length."""
    seed = 10_000 * round_ + number
    return transitions(random.Random(seed).choice([1, 2, 5, 30, 200]), seed)


def expected_hash(round_, number, schema):
    columns, final = pack(made(round_, number), schema, context="expected")
    return EpisodeRecord(0, "", columns, final).content_hash()


def write(path, round_, report):
    """Record episodes without end and say which are safe; what a killed process runs."""
    recorder = Recorder.resume(path)
    for number in range(ENDLESS):
        episode = made(round_, number)
        # One after the other: in one piece, in two pieces, and step by step.
        if number % 3 == 0:
            recorder.add_episode(episode, metadata={"round": round_, "number": number})
        else:
            recorder.start_episode(metadata={"round": round_, "number": number})
            for part in episode.split(1 if number % 3 == 2 else max(1, len(episode) // 2)):
                recorder.extend(part)
        os.write(report, f"{number}\n".encode())


def killed(work, delay_s, after_first):
    """Fork, let the child work, kill it; return what it reported."""
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
        said = report.readline() if after_first else b""
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
        said += report.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the writer ended by itself: {status}"
    return [int(line) for line in said.split(b"\n")[:-1]]


def main(folder, rounds, seed):
    """Run the rounds and check what is there after each of them."""
    generator = random.Random(seed)
    path = folder / "recording"
    Recorder(path).close()
    reported = {}
    for round_ in range(rounds):
        # Mostly inside the work, sometimes while the writer comes up.
        after_first = generator.random() < 0.8
        delay_s = generator.uniform(0, 0.05)
        reported[round_] = killed(lambda report, number=round_: write(path, number, report), delay_s, after_first)
    in_flight = check(Recording(path), reported)
    kills = 0
    while not (folder / "store/my/knob/1.0.0").exists():
        killed(lambda _: commit_slowly(path, folder / "store"), generator.uniform(0, 0.3) * (1 + kills / 5), False)
        kills += 1
    versions = list((folder / "store/my/knob").glob("[0-9]*"))
    assert versions == [folder / "store/my/knob/1.0.0"], versions
    there = {
        row.episode: row.identity() for row in _reader.read_records(versions[0], Manifest.read(versions[0]), ["train"])
    }
    safe = sum(len(numbers) for numbers in reported.values())
    assert safe <= len(there) <= safe + rounds
    result = {"kills": rounds, "episodes": len(there), "in_flight": in_flight, "commits_killed": kills}
    sys.stdout.write(json.dumps(result) + "\n")


def commit_slowly(path, store):
    """Commit, and wait to be killed."""
    if not (store / "my/knob/1.0.0").exists():
        commit_recording(Recording(path), "my/knob", version="1.0.0", license="mit", store=store)
    time.sleep(ENDLESS)


def check(recording, reported):
    """Every reported episode is there, bit for bit, and of each round at most one more; return how many more."""
    schema = Schema.from_tensordict(made(0, 0))
    found = {}
    for record in recording.records():
        key = (record.metadata["round"], record.metadata["number"])
        assert key not in found, f"{key} is there twice"
        assert record.content_hash() == expected_hash(*key, schema), key
        found[key] = record.episode
    assert len(set(found.values())) == len(found), "an episode id was used twice"
    more = 0
    for round_, numbers in reported.items():
        own = sorted(number for at, number in found if at == round_)
        assert numbers == list(range(len(numbers)))
        assert own[: len(numbers)] == numbers, f"round {round_}: safe {numbers}, there {own}"
        assert len(own) <= len(numbers) + 1, f"round {round_}: safe {numbers}, there {own}"
        more += len(own) - len(numbers)
    return more


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
