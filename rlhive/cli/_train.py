"""The verbs of the ``rlhive`` command that train and evaluate policies: train, evaluate."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rlhive._text import printable
from rlhive.cli._tables import make_table, print_table
from rlhive.cli._terminal import Json, Workers, labelled, out
from rlhive.errors import EnvNotFoundError

if TYPE_CHECKING:
    from rlhive.rollouts import Evaluation


def train(context: typer.Context) -> None:
    """Train a policy. Takes Hydra overrides: +model=bc +dataset=kitchen_knob1, or +model=sac +env=reach."""
    from rlhive.sim_algos.run import main, prepare_arguments

    sys.argv = ["rlhive train", *prepare_arguments(context.args)]
    try:
        main()
    except KeyboardInterrupt as error:  # the trainer said what it saved
        raise typer.Exit(130) from error


def evaluate(
    policy: Annotated[str, typer.Argument(help="Checkpoint folder, or a level of the task: expert, noisy, …")],
    env: Annotated[str, typer.Option(help="Task or environment id; the checkpoint's own by default.")] = "",
    episodes: Annotated[int, typer.Option(help="Number of episodes, on seeds that no recipe uses.")] = 50,
    seed: Annotated[int | None, typer.Option(help="Seed of the first episode.")] = None,
    workers: Workers = None,
    video: Annotated[Path | None, typer.Option(help="Folder for videos of the policy's first episodes.")] = None,
    video_episodes: Annotated[int, typer.Option(help="Number of episodes that --video films.")] = 3,
    video_camera: Annotated[str, typer.Option(help="Camera of the videos; the first one by default.")] = "",
    json_: Json = False,
) -> None:
    """Evaluate a policy on held-out seeds. The random and expert policies are evaluated with it."""
    from rlhive.envs import EVALUATION_SEED
    from rlhive.rollouts import compare, evaluate as run_evaluation, resolve_task

    task = resolve_task(env or _read_env_name(policy))
    baselines = [level for level in ("random", "expert") if level in task.levels and level != policy]
    arguments: dict[str, Any] = {
        "num_episodes": episodes,
        "seed": EVALUATION_SEED if seed is None else seed,
        "num_workers": workers,
    }
    filmed = run_evaluation(
        policy, task, video_dir=video, num_videos=video_episodes, video_camera=video_camera or None, **arguments
    )
    evaluations = [filmed, *compare(baselines, task, **arguments)]
    if json_:
        out.print_json(json.dumps([evaluation.to_dict() for evaluation in evaluations]))
        return
    out.print(evaluations[0].env_name, highlight=False, soft_wrap=True)
    if video is not None:
        count = min(video_episodes, episodes)
        out.print(f"{count} {'video' if count == 1 else 'videos'} in {printable(str(video))}", highlight=False)
    print_table(_make_evaluation_table(evaluations))
    for evaluation in evaluations:
        if evaluation.invalid:
            details = ", ".join(map(str, evaluation.invalid))
            label = f"{printable(evaluation.policy)}: {len(evaluation.invalid)} episodes were invalid:"
            out.print(labelled(label, "red", details), highlight=False)
    if evaluations[0].score is not None:
        out.print("score: mean return on a scale from 0 (random) to 100 (expert), measured for the task catalogue")


def _make_evaluation_table(evaluations: "list[Evaluation]") -> Table:
    table = make_table()
    table.add_column("policy", no_wrap=True)
    for name in ("success", "95 % interval", "return", "95 % interval", "score", "95 % interval"):
        table.add_column(name, no_wrap=True, justify="right")
    for evaluation in evaluations:
        table.add_row(
            evaluation.policy,
            *_format_estimate(evaluation.success_rate, evaluation.success_interval, ".0%"),
            *_format_estimate(evaluation.return_mean, evaluation.return_interval, ".1f"),
            *_format_estimate(evaluation.score, evaluation.score_interval, ".0f"),
        )
    return table


def _format_estimate(value: float | None, interval: tuple[float, float] | None, spec: str) -> tuple[str, str]:
    if value is None or interval is None:
        return "-", "-"
    low, high = interval
    return f"{value:{spec}}", f"{low:{spec}} to {high:{spec}}"


def _read_env_name(policy: str) -> str:
    """Return the environment that a checkpoint was trained for."""
    from rlhive.envs import LEVELS
    from rlhive.policies import read_checkpoint

    if policy in LEVELS:
        msg = f"Policy {policy!r} exists for many environments: expected --env, for example --env kitchen_knob1"
        raise EnvNotFoundError(msg)
    return str(read_checkpoint(policy)["env_name"])
