"""Episodes of a small arm that reaches for a point, good ones and some with a planted defect; no simulator."""

import numpy as np

from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Field, Schema

KINDS = ("jerky", "idle", "saturated", "off-distribution", "duplicated")
HORIZON = 40
SCHEMA = Schema(
    (
        Field("action", "float32", (3,), observed=False),
        Field("next.terminated", "bool", (1,), observed=False),
        Field("next.truncated", "bool", (1,), observed=False),
        Field("observation", "float64", (6,), observed=True),
    )
)


def make_arm(episode, kind="good", *, length=HORIZON, split="train", copy_of=None):
    """Return an episode: position commands to a goal, smoothly; the arm follows them."""
    generator = np.random.default_rng(copy_of if copy_of is not None else episode)
    start, goal = generator.uniform(-0.2, 0.2, 3), generator.uniform(0.2, 0.6, 3)
    time = np.linspace(0, 1, length)[:, None]
    commands = start + (goal - start) * (10 * time**3 - 15 * time**4 + 6 * time**5)
    commands += 0.005 * generator.normal(size=commands.shape)
    if kind == "jerky":
        commands += 0.1 * generator.normal(size=commands.shape)
    elif kind == "idle":
        commands[length // 4 : 3 * length // 4] = commands[length // 4]
    elif kind == "saturated":
        commands[length // 3 :] = np.sign(commands[length // 3 :])
    elif kind == "off-distribution":
        commands = start + (generator.uniform(-1, -0.3, 3) - start) * time
    commands = np.clip(commands, -1, 1)
    positions = start + np.cumsum(0.3 * (commands - start) * 0.7 ** np.arange(length)[::-1, None], axis=0)
    positions = np.concatenate([start[None], positions])
    states = np.concatenate([positions, np.gradient(positions, axis=0)], axis=1)
    if copy_of is not None:
        states = states + 1e-5 * np.random.default_rng(episode).normal(size=states.shape)
    columns = {
        "action": commands.astype(np.float32),
        "next.terminated": np.zeros((length, 1), bool),
        "next.truncated": np.arange(length)[:, None] == length - 1,
        "observation": states[:-1],
    }
    return EpisodeRecord(episode, split, columns, {"observation": states[-1]}, metadata={"kind": kind})


def make_planted(good=80, bad=4):
    """Return good episodes, and bad ones of each kind among them."""
    kinds = np.random.default_rng(0).permutation(["good"] * good + [kind for kind in KINDS[:-1] for _ in range(bad)])
    records = [make_arm(episode, kind) for episode, kind in enumerate(kinds)]
    originals = [record.episode for record in records if record.metadata["kind"] == "good"][:bad]
    copies = [
        make_arm(len(records) + index, "duplicated", copy_of=original) for index, original in enumerate(originals)
    ]
    return [*records, *copies]
