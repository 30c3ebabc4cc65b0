"""Folders of runs, as trainings leave them."""

import json


def write_run(
    folder,
    *,
    seed=0,
    algorithm="bc",
    config=None,
    dataset=("knob", "1.0.0", "sha256:0123456789abcdef"),
    curve=None,
    evaluations=None,
    **record,
):
    """Write the folder of a run; ``config`` is added to a small configuration."""
    folder.mkdir(parents=True)
    config = {"algorithm": algorithm, "seed": seed, "progress": True, "optim": {"lr": 0.001}, **(config or {})}
    identity = dict(zip(("name", "version", "fingerprint"), dataset, strict=True)) if dataset else None
    entries = {"algorithm": algorithm, "seed": seed, "config": config, "seconds": 12.5, "dataset": identity, **record}
    curve = [{"step": 100, "seconds": 12.4, "loss": 0.1}] if curve is None else curve
    (folder / "checkpoint.json").write_text(json.dumps(entries))
    (folder / "curve.json").write_text(json.dumps(curve))
    if evaluations is not None:
        (folder / "evaluations.json").write_text(json.dumps(evaluations))
    return folder


def evaluation(step, returns, successes=None):
    return {"step": step, "returns": returns, "successes": successes, "first_seed": 1_000_000}
