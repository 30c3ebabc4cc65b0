"""Recordings and episodes for the tests of this folder."""

import torch
from tensordict import TensorDict

from rlhive.data.recording._recording import Recording


def create_recording(path, schema, record):
    return Recording.create(path, schema, start_state=record.start_state, provenance={"run": "run"})


def tiny_episode(length, seed):
    """An episode of few bytes: every one of them is a place to be cut at."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.rand(length + 1, 2, generator=generator)
    flags = torch.zeros(length, 1, dtype=torch.bool)
    return TensorDict(
        {
            "observation": states[:-1],
            "action": torch.rand(length, 1, generator=generator),
            "next": {"observation": states[1:], "terminated": flags, "truncated": flags.clone()},
        },
        [length],
    )
