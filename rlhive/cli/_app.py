"""The ``rlhive`` command: the verbs put together, and RLHive's errors printed as one sentence."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rlhive import __version__
from rlhive.cli._collect import collect, recover
from rlhive.cli._datasets import check, list_, replay, show
from rlhive.cli._diff import diff
from rlhive.cli._envs import envs, setup
from rlhive.cli._formats import ImportCommand, export_to, import_
from rlhive.cli._hub import delete, pull, push, scrub, versions
from rlhive.cli._plots import plot, video
from rlhive.cli._release import release
from rlhive.cli._results import results
from rlhive.cli._score import score
from rlhive.cli._terminal import err, labelled, out
from rlhive.cli._train import evaluate, train
from rlhive.cli._versions import append, drop, embed, encode, merge, rename, render, select, split
from rlhive.cli._view import view
from rlhive.errors import RLHiveError

#: The verbs in the order of ``rlhive --help``.
_VERBS: dict[str, Callable[..., None]] = {
    "setup": setup,
    "envs": envs,
    "collect": collect,
    "recover": recover,
    "train": train,
    "evaluate": evaluate,
    "results": results,
    "show": show,
    "view": view,
    "plot": plot,
    "video": video,
    "check": check,
    "score": score,
    "replay": replay,
    "diff": diff,
    "list": list_,
    "select": select,
    "split": split,
    "merge": merge,
    "append": append,
    "rename": rename,
    "drop": drop,
    "embed": embed,
    "render": render,
    "encode": encode,
    "versions": versions,
    "pull": pull,
    "scrub": scrub,
    "release": release,
    "push": push,
    "delete": delete,
    "import": import_,
    "export-to": export_to,
}

#: ``train`` passes its arguments on to Hydra.
_CONTEXT_SETTINGS = {"train": {"allow_extra_args": True, "ignore_unknown_options": True}}

#: Verbs that parse their arguments in a way of their own.
_COMMANDS = {"import": ImportCommand}


class _Verbs(TyperGroup):
    """A group of commands that prints RLHive's errors as one sentence and reports an interrupt."""

    def invoke(self, ctx: Any) -> Any:  # typer and click each have a class Context
        try:
            return super().invoke(ctx)
        except RLHiveError as error:
            err.print(labelled("error:", "bold red", error), highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            message = "Interrupted: no partial version was written. Run the same command again to resume."
            err.print(message, soft_wrap=True)
            raise typer.Exit(130) from error


# Plain help: what Typer imports of Rich for it takes longer than everything else of `rlhive --help`.
app = typer.Typer(cls=_Verbs, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _print_version(requested: bool) -> None:
    if requested:
        out.print(f"rlhive {__version__}", highlight=False)
        raise typer.Exit


def _print_warnings() -> None:
    """Print RLHive's warnings on stderr, even if a library gave the root logger a handler of its own."""
    if logging.lastResort is not None:
        logging.getLogger("rlhive").addHandler(logging.lastResort)


def _slow_down_progress() -> None:
    """Print progress every ten seconds where nobody watches, so that a log holds few lines of it.

    tqdm reads the variable when it is imported, which the verbs do later.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")


@app.callback()
def _options(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version of RLHive.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Offline robot learning with RoboHive: record, version, publish and train."""
    _slow_down_progress()
    if ctx.invoked_subcommand != "train":  # Hydra sets the handlers of a training
        _print_warnings()


for _name, _function in _VERBS.items():
    app.command(_name, cls=_COMMANDS.get(_name), context_settings=_CONTEXT_SETTINGS.get(_name))(_function)


def main() -> None:
    """Run the command."""
    app()
