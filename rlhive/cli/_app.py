"""The ``rlhive`` command put together; an error that RLHive foresaw becomes one sentence."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from rlhive import __version__
from rlhive.cli._collect import collect, recover
from rlhive.cli._datasets import check, list_, replay, show
from rlhive.cli._diff import diff
from rlhive.cli._envs import envs, setup
from rlhive.cli._formats import export_to, import_
from rlhive.cli._hub import delete, pull, push, versions
from rlhive.cli._terminal import err, out
from rlhive.cli._train import evaluate, train
from rlhive.errors import RLHiveError


class _Verbs(TyperGroup):
    """An error that RLHive foresaw is one sentence; an interrupt says what is safe."""

    def invoke(self, context: typer.Context) -> Any:
        try:
            return super().invoke(context)
        except RLHiveError as error:
            err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            said = "Interrupted: nothing half-written is left. Type the same command again to finish it."
            err.print(said, soft_wrap=True)
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        out.print(f"rlhive {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Say which RLHive this is.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Offline robot learning with RoboHive: record, version, publish and train."""


_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}

for verb in (setup, envs, collect, recover):
    app.command()(verb)
app.command(context_settings=_OVERRIDES)(train)
for verb in (evaluate, show, check, replay, diff):
    app.command()(verb)
app.command("list")(list_)
for verb in (versions, pull, push, delete):
    app.command()(verb)
app.command("import")(import_)
app.command("export-to")(export_to)


def main() -> None:
    """Run the command."""
    app()
