"""Entry point of all training.

::

    python run.py +model=bc +dataset=kitchen_knob1
    python run.py +model=iql +dataset=kitchen_knob1 train.num_steps=2000 seed=1
    python run.py +model=sac +exploration=gaussian +env=reach
    python run.py +model=iql +dataset=kitchen_knob1 num_seeds=5 +evaluation=heldout
    python run.py -m +model=bc,iql +dataset=kitchen_knob1 seed=0,1,2
    python run.py +model=iql +dataset=kitchen_knob1 resume=auto
    torchrun --nproc-per-node 2 -m rlhive.cli train +model=iql +dataset=kitchen_knob1

``rlhive train`` is the same. The checkpoint goes to Hydra's run folder, ``hydra.run.dir``. The function is
:func:`rlhive.sim_algos.train`.
"""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rlhive.errors import RLHiveError
from rlhive.sim_algos._config import check_overrides, compose_config, store_options, strip_plus, to_plain_dict
from rlhive.sim_algos._registry import CONF_DIR, find_algorithm
from rlhive.sim_algos._train import train_from_config
from rlhive.sim_algos._training_state import find_interrupted

_LOG = logging.getLogger("rlhive")

_HELP_OPTION = re.compile(r"--?(h|help|hydra-help|version|info|i|shell-completion|sc)\b")
_SWEEP_OPTION = re.compile(r"(-m|--multirun)$")


@hydra.main(config_path=str(CONF_DIR), config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    """Train by the command line; an error of RLHive ends with its message and status 1."""
    try:
        train_from_config(to_plain_dict(config), output_dir=HydraConfig.get().runtime.output_dir)
    except RLHiveError as error:
        sys.exit(str(error))


def prepare_arguments(arguments: Sequence[str]) -> list[str]:
    """Check a command line and return the one that Hydra gets; exit with one sentence if something is wrong.

    Options get no leading ``+``, since all of them exist, and ``resume=`` the folder of the interrupted training.
    """
    if any(_HELP_OPTION.match(argument) for argument in arguments):
        return list(arguments)
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    try:
        return _prepare(overrides, [argument for argument in arguments if argument.startswith("-")])
    except RLHiveError as error:
        sys.exit(str(error))


def _prepare(overrides: Sequence[str], options: Sequence[str]) -> list[str]:
    overrides = strip_plus(overrides)
    values = dict(override.split("=", 1) for override in overrides if "=" in override)
    names = values.get("model", "").split(",")
    required = ["model"] if all(name and find_algorithm(name).is_online for name in names) else ["model", "dataset"]
    missing = [name for name in required if name not in values]
    if missing:
        sys.exit(f"Nothing to train: expected +model=bc +dataset=kitchen_knob1, got no {' and no '.join(missing)}.")
    check_overrides(overrides)
    store_options(overrides)
    if int(os.environ.get("RANK", "0")):  # of torchrun; rank 0 tells the others the folder
        overrides = [override for override in overrides if not override.startswith("hydra.run.dir=")]
        return [*options, *overrides, f"hydra.run.dir={_quote(Path(tempfile.mkdtemp()))}", "hydra.output_subdir=null"]
    is_sweep = any(map(_SWEEP_OPTION.match, options))
    if values.get("resume", "null") == "null" or is_sweep or "hydra.run.dir" in values:
        return [*options, *overrides]
    folder = _find_run(overrides, values["resume"])
    return [*options, *overrides, *([f"hydra.run.dir={_quote(folder)}"] if folder else [])]


def _find_run(overrides: Sequence[str], resume: str) -> Path | None:
    """Return the folder of the run to go on with; None begins a new one."""
    if resume != "auto":
        return Path(resume)
    config = compose_config(overrides)
    folder = find_interrupted(Path("outputs") / config["algorithm"], config)
    if folder is None:
        _LOG.info(
            "No interrupted training of this configuration below outputs/%s: a new one begins.", config["algorithm"]
        )
    return folder


def _quote(path: Path) -> str:
    """Return a path as a string of Hydra's grammar."""
    escaped = str(path).replace("'", "\\'")
    return f"'{escaped}'"


if __name__ == "__main__":
    sys.argv[1:] = prepare_arguments(sys.argv[1:])
    main()
