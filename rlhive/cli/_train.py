"""The verbs of the ``rlhive`` command that learn and measure: train, evaluate."""

import json
import sys
from typing import Annotated

import typer
from rich.table import Table

from rlhive.cli._terminal import Json, Workers, out
from rlhive.errors import EnvNotFound


def train(context: typer.Context) -> None:
    """Train a policy, takes Hydra overrides: +model=bc +dataset=kitchen_knob1, or +model=sac +env=reach."""
    from rlhive.sim_algos.run import check_arguments, main

    check_arguments(context.args)
    sys.argv = ["rlhive train", *context.args]
    main()


def evaluate(
    policy: Annotated[str, typer.Argument(help="Folder of a checkpoint, or a level of the task: expert, noisy, …")],
    env: Annotated[str, typer.Option(help="Task or environment id; by default the checkpoint's own.")] = "",
    episodes: Annotated[int, typer.Option(help="Number of episodes, on seeds that no recipe uses.")] = 50,
    seed: Annotated[int | None, typer.Option(help="First seed.")] = None,
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """Roll a policy out on held-out seeds, beside random and expert."""
    from rlhive.envs import EVALUATION_SEED
    from rlhive.rollouts import compare, resolve_task

    task = resolve_task(env or _env_of(policy))
    beside = [level for level in ("random", "expert") if level in task.levels]
    rows = compare(
        list(dict.fromkeys([policy, *beside])),
        task,
        num_episodes=episodes,
        seed=EVALUATION_SEED if seed is None else seed,
        num_workers=workers,
    )
    if json_:
        out.print_json(json.dumps([row.to_dict() for row in rows]))
        return
    table = Table("policy", "success", "95 % interval", "return", "95 % interval", "score", "95 % interval")
    table.title = rows[0].env_name
    for row in rows:
        table.add_row(
            row.policy,
            *_interval(row.success_rate, row.success_interval, ".0%"),
            *_interval(row.return_mean, row.return_interval, ".1f"),
            *_interval(row.score, row.score_interval, ".0f"),
        )
    out.print(table)
    for row in rows:
        if row.invalid:
            said = ", ".join(map(str, row.invalid))
            out.print(f"[red]{row.policy}: {len(row.invalid)} episodes were invalid:[/] {said}", highlight=False)
    if rows[0].score is not None:
        out.print("score: the mean return, 0 as random and 100 as the expert in the catalogue's reference measurement")


def _interval(value: float | None, interval: tuple[float, float] | None, form: str) -> tuple[str, str]:
    return ("-", "-") if value is None else (f"{value:{form}}", f"{interval[0]:{form}} to {interval[1]:{form}}")


def _env_of(policy: str) -> str:
    """Return the environment that a checkpoint was trained for."""
    from rlhive.envs import LEVELS
    from rlhive.policies import read_checkpoint

    if policy in LEVELS:
        msg = f"Policy {policy!r} acts in any environment: expected its name. Add --env kitchen_knob1"
        raise EnvNotFound(msg)
    return read_checkpoint(policy)["env_name"]
