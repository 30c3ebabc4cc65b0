"""Entry point of all training.

::

    python -m rlhive.sim_algos.run +model=bc +dataset=kitchen_knob1
    python -m rlhive.sim_algos.run +model=iql +dataset=kitchen_knob1 train.num_steps=2000 seed=1
    python -m rlhive.sim_algos.run +model=sac +exploration=gaussian +env=reach
    python -m rlhive.sim_algos.run --multirun +model=bc,iql +dataset=kitchen_knob1 seed=0,1,2

The checkpoint goes to Hydra's run folder, ``hydra.run.dir``. The function is :func:`rlhive.sim_algos.train`.
"""

import re
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rlhive.errors import RLHiveError
from rlhive.sim_algos._config import CONF_DIR, ONLINE, to_plain_dict
from rlhive.sim_algos._train import train_from_config

_HELP_OPTION = re.compile(r"--?(h|help|hydra-help|version|info|i|shell-completion|sc)\b")
_CHOICE = re.compile(r"\+*(model|dataset)(?:\.name)?=(.*)")


@hydra.main(config_path=str(CONF_DIR), config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    """Train by the command line; an error of RLHive ends with its message and status 1."""
    try:
        train_from_config(to_plain_dict(config), output_dir=HydraConfig.get().runtime.output_dir)
    except RLHiveError as error:
        sys.exit(str(error))


def check_arguments(arguments: list[str]) -> None:
    """Exit with one sentence if the command line names no model or no dataset; Hydra would print a traceback."""
    if any(_HELP_OPTION.match(argument) for argument in arguments):
        return
    choices = {match[1]: match[2] for match in map(_CHOICE.match, arguments) if match}
    is_online = bool(set(choices.get("model", "").split(",")) & set(ONLINE))
    required = ["model"] if is_online else ["model", "dataset"]
    missing = [group for group in required if group not in choices]
    if missing:
        sys.exit(f"Nothing to train: expected +model=bc +dataset=kitchen_knob1, got no {' and no '.join(missing)}.")


if __name__ == "__main__":
    check_arguments(sys.argv[1:])
    main()
