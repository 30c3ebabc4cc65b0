"""The ``rlhive`` command: one verb per step of the flow. Thin: every verb calls a public function of a room."""

import json
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from rlhive import diff_verb, format_verbs, hub_verbs
from rlhive.errors import EnvNotFound, RLHiveError
from rlhive.terminal import Json, err, out

if TYPE_CHECKING:
    from rlhive.envs.references import Measured
    from rlhive.envs.tasks import Task


class _Verbs(TyperGroup):
    """An error that RLHive foresaw is one sentence; an interrupt says what is safe."""

    def invoke(self, context: typer.Context) -> Any:
        try:
            return super().invoke(context)
        except RLHiveError as error:
            err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            said = "Interrupted: nothing half-written is left, and the same command goes on where this one stopped."
            err.print(said, soft_wrap=True)
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=_Verbs,
    help="Offline robot learning with RoboHive: record, version, publish and train.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Workers = Annotated[int | None, typer.Option("--workers", help="Worker processes; one per core by default.")]


@app.command()
def setup(
    assets: Annotated[
        str, typer.Option(help="Where the simulation assets come from: pypi, git, or a folder that holds them.")
    ] = "pypi",
) -> None:
    """Install RoboHive and its simulation assets; safe to interrupt and to repeat."""
    from rlhive.envs.install import setup as setup_robohive

    report = setup_robohive(assets)
    known = "a hash that RLHive recorded" if report.assets.known else "a hash that RLHive does not know"
    out.print(f"robohive {report.robohive_version}, assets from {report.assets.source} with {known}", highlight=False)
    table = Table("environments", "available", "")
    for family in report.families:
        table.add_row(family.name, "[green]yes" if family.available else "[red]no", family.note)
    out.print(table)


@app.command()
def collect(
    task: Annotated[str, typer.Argument(help="Name in the catalogue, for example kitchen_knob1.")],
    workers: Workers = None,
) -> None:
    """Make a task's dataset by running its recipe; an interrupted run goes on where it stopped."""
    from rlhive.collect import collect as run_recipe
    from rlhive.dataset import RoboHiveDataset

    out.print(repr(RoboHiveDataset(run_recipe(task, num_workers=workers))), highlight=False)


@app.command()
def recover(
    recording: Annotated[str, typer.Argument(help="Folder, its last part, or the dataset; if there are several.")] = "",
    commit: Annotated[bool, typer.Option("--commit", help="Make a version of its whole episodes.")] = False,
    discard: Annotated[bool, typer.Option("--discard", help="Remove it.")] = False,
    name: Annotated[str, typer.Option(help="Dataset that it becomes; by default what it was recorded for.")] = "",
    version: Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH; by default the right next one.")] = None,
    license_: Annotated[str, typer.Option("--license", help="Identifier that the Hub knows; asked for.")] = "",
    json_: Json = False,
) -> None:
    """List recordings that no version holds yet; commit or discard one that nobody writes to."""
    from rlhive.data import recover as room

    if commit == discard:
        if commit or recording or name or version or license_:
            msg = "say what to do with the recording: --commit or --discard, one of them"
            raise typer.BadParameter(msg)
        _list_recordings([one.survey() for one in room.recordings()], json_)
        return
    chosen = room.find_recording(recording)
    if discard:
        room.discard(chosen)
    elif not license_:
        msg = "a version needs a licence: --license cc-by-4.0, for example"
        raise typer.BadParameter(msg)
    done = str(chosen.path) if discard else str(room.commit(chosen, name, version=version, license=license_))
    if json_:
        out.print_json(json.dumps({"discarded" if discard else "committed": done}))
    else:
        out.print(f"{'removed' if discard else 'made'} {done}", highlight=False, soft_wrap=True)


def _list_recordings(surveys: list[Any], json_: bool) -> None:
    if json_:
        out.print_json(json.dumps([asdict(survey) | {"path": str(survey.path)} for survey in surveys]))
        return
    table = Table("dataset", "episodes", "transitions", "unreadable", "last written", "in use", "recording")
    for survey in surveys:
        table.add_row(
            survey.name,
            f"{survey.num_episodes:,}",
            f"{survey.num_transitions:,}",
            f"{survey.unreadable_bytes:,} B",
            f"{timedelta(seconds=round(survey.age_s))} ago",
            "yes" if survey.in_use else "no",
            survey.path.name,
        )
    out.print(table)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(context: typer.Context) -> None:
    """Train a policy offline; takes Hydra overrides: +model=bc +dataset=kitchen_knob1."""
    from rlhive.sim_algos.run import check_arguments, main

    check_arguments(context.args)
    sys.argv = ["rlhive train", *context.args]
    main()


@app.command()
def evaluate(
    policy: Annotated[str, typer.Argument(help="Folder of a checkpoint, or a level of the task: expert, noisy, …")],
    env: Annotated[str, typer.Option(help="Task or environment id; by default the checkpoint's own.")] = "",
    episodes: Annotated[int, typer.Option(help="Number of episodes, on seeds that no recipe uses.")] = 50,
    seed: Annotated[int | None, typer.Option(help="First seed.")] = None,
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """Roll a policy out on held-out seeds, beside random and expert."""
    from rlhive.envs.tasks import EVALUATION_SEED
    from rlhive.evaluate import compare, task_of

    task = task_of(env or _env_of(policy))
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
    from rlhive.checkpoint import read_checkpoint
    from rlhive.envs.tasks import LEVELS

    if policy in LEVELS:
        msg = f"Policy {policy!r} acts in any environment: expected its name. Add --env kitchen_knob1"
        raise EnvNotFound(msg)
    return read_checkpoint(policy)["env_name"]


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Dataset name, or the path of a version's folder.")],
    version: Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH; the newest by default.")] = None,
    json_: Json = False,
) -> None:
    """Say what a dataset is. Runs no recipe."""
    from rlhive.data.certificate import read_certificate
    from rlhive.dataset import RoboHiveDataset, describe

    # To say what it is, the manifest is enough: no shard is fetched for it.
    dataset = RoboHiveDataset(name, version=version, generate=False, streaming=True)
    certificate = read_certificate(dataset.fingerprint)
    if json_:
        kept = certificate.to_json() if certificate else None
        out.print_json(json.dumps({**describe(dataset), "certificate": kept}))
    else:
        out.print(repr(dataset), highlight=False)
        out.print(
            f"  certificate  {certificate or f'none; make it: rlhive replay {name}'}", highlight=False, soft_wrap=True
        )


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="Dataset name, or the path of a version's folder.")],
    version: Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH; the newest by default.")] = None,
    json_: Json = False,
) -> None:
    """Check that a version is whole, consistent and fit to learn from; status 1 where a check fails."""
    from rlhive.replay import check as check_version

    report = check_version(_folder_of(name, version))
    if json_:
        out.print_json(json.dumps(report.to_json()))
    else:
        out.print(_check_table(report))
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def replay(
    name: Annotated[str, typer.Argument(help="Dataset name, or the path of a version's folder.")],
    version: Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH; the newest by default.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare with what was stored; always done.")] = True,
    episodes: Annotated[int | None, typer.Option(min=1, help="How many, evenly spread; all by default.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest difference that counts as none.")] = 1e-6,
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """Step a dataset's actions in its environment, compare, and keep a certificate; status 1 where it diverges."""
    from rlhive.replay import replay as replay_version

    folder = _folder_of(name, version)
    certificate = replay_version(
        folder, episodes=episodes, tolerance=tolerance, num_workers=workers, progress=not json_
    )
    for difference in certificate.differences:
        err.print(f"[yellow]warning:[/] this environment is not the recorded one: {escape(difference)}", soft_wrap=True)
    if json_:
        out.print_json(json.dumps(certificate.to_json()))
    else:
        out.print("\n".join([str(certificate), *certificate.notable]), highlight=False, soft_wrap=True)
    raise typer.Exit(0 if certificate.ok else 1)


def _folder_of(name: str, version: str | None) -> Path:
    """Return the folder of a version without opening it: it may be damaged."""
    from rlhive.data.versioning import local_versions
    from rlhive.dataset import RoboHiveDataset

    if name.startswith(("/", ".", "~")):
        return Path(name).expanduser().absolute()
    versions = local_versions(name)
    if versions and version in (None, *versions):
        return versions[version or list(versions)[-1]]
    return RoboHiveDataset(name, version=version, generate=False).path


def _check_table(report: Any) -> Table:
    colours = {"passed": "green", "failed": "bold red", "warned": "yellow", "skipped": "dim"}
    table = Table("check", "", "", title=str(report.path))
    for outcome in report.outcomes.values():
        more = [f"and {outcome.count - len(outcome.findings)} more"] if outcome.count > len(outcome.findings) else []
        said = [*outcome.findings, *more] or [outcome.note or outcome.promise]
        colour = colours[outcome.status]
        table.add_row(outcome.name, f"[{colour}]{outcome.status}", escape("\n".join(said)))
    return table


@app.command("list")
def list_(
    remote: Annotated[bool, typer.Option("--remote", help="Those on the Hub instead.")] = False,
    namespace: Annotated[str | None, typer.Option(help="With --remote: of this user or organization only.")] = None,
    json_: Json = False,
) -> None:
    """List the datasets of the local store and those that the catalogue can make, or those on the Hub."""
    from rlhive.data.versioning import local_datasets, local_versions
    from rlhive.envs.tasks import catalogue

    if remote:
        hub_verbs.list_remote(namespace, json_=json_)
        return

    rows = {name: list(local_versions(name)) for name in local_datasets()}
    for task in catalogue().values():
        if task.recipe is not None:
            rows.setdefault(f"robohive/{task.name}", [])
    if json_:
        out.print_json(json.dumps(rows))
        return
    table = Table("dataset", "versions in the store")
    for name, versions in sorted(rows.items()):
        table.add_row(name, ", ".join(versions) or f"none; make it: rlhive collect {name.split('/')[-1]}")
    out.print(table)


app.command("import")(format_verbs.import_)
app.command("export-to")(format_verbs.export_to)
for _verb in (diff_verb.diff, hub_verbs.versions, hub_verbs.pull, hub_verbs.push, hub_verbs.delete):
    app.command()(_verb)


@app.command()
def envs(json_: Json = False) -> None:
    """List the tasks of the catalogue: what is installed, which policies there are, and what they reach."""
    from rlhive.envs.make import missing
    from rlhive.envs.tasks import LEVELS, catalogue

    rows = [(task, missing(task)) for task in catalogue().values()]
    if json_:
        out.print_json(json.dumps({task.name: _described(task, lacks) for task, lacks in rows}))
        return
    table = Table(
        *("task", "environment", "here", "steps", "policies", "expert solves", "return", "random"),
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in table.columns:
        column.no_wrap = column.header != "environment"  # the one to give way in a narrow terminal
        column.justify = "right" if column.header in ("steps", "expert solves", "return", "random") else "left"
    for task, lacks in rows:
        here = "[red]no" if lacks else "[green]yes"
        levels = "all" if task.levels == LEVELS else ", ".join(task.levels)
        table.add_row(task.name, task.env_name, here, str(task.horizon), levels, *_reached(task))
    out.print(table)
    out.print(
        f"policies: all are {', '.join(LEVELS)}. expert solves, return: of 100 unseen seeds, with the 95 % interval. "
        "random: what uniform actions return.",
        highlight=False,
    )
    for lacks in sorted({lacks for _, lacks in rows if lacks}):
        out.print(f"[red]not here:[/] {escape(lacks)}", highlight=False, soft_wrap=True)


def _reached(task: "Task") -> tuple[str, str, str]:
    """Return how often the expert solves a task and the mean returns, each with its 95 % interval."""
    if task.reference is None:
        return "", "", ""
    expert, random = task.reference.expert, task.reference.random
    solves = ""
    if expert is not None and expert.success_interval is not None:
        low, high = (100 * bound for bound in expert.success_interval)
        solves = f"{expert.success_rate:.0%} ({low:.0f}-{high:.0f})"
    return solves, f"{expert.return_mean:.1f}{_half(expert)}" if expert else "", f"{random.return_mean:.1f}"


def _half(mean: "Measured") -> str:
    if mean.return_interval is None:
        return ""
    return f" ± {(mean.return_interval[1] - mean.return_interval[0]) / 2:.1f}"


def _described(task: "Task", lacks: str) -> dict[str, Any]:
    recipe = task.recipe and {"version": task.recipe.version, "episodes": dict(task.recipe.episodes)}
    return {
        "env_name": task.env_name,
        "backend": task.backend,
        "horizon": task.horizon,
        "description": task.description,
        "levels": list(task.levels),
        "recipe": recipe,
        "missing": lacks or None,
        "reference": task.reference and asdict(task.reference),
    }


def main() -> None:
    """Run the command."""
    app()


if __name__ == "__main__":
    main()
