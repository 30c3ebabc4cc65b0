"""The entry point of all training.

    python -m rlhive.sim_algos.run +model=bc +dataset=kitchen_knob1
    python -m rlhive.sim_algos.run +model=iql +dataset=kitchen_knob1 train.num_steps=2000 seed=1
    python -m rlhive.sim_algos.run +model=sac +exploration=gaussian +env=reach
    python -m rlhive.sim_algos.run --multirun +model=bc,iql +dataset=kitchen_knob1 seed=0,1,2

The checkpoint goes to Hydra's run folder, ``hydra.run.dir``. From Python, call :func:`rlhive.sim_algos.train`.
"""

import re
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rlhive.errors import RLHiveError
from rlhive.sim_algos._config import CONF_DIR, ONLINE
from rlhive.sim_algos._train import train_from_config


@hydra.main(config_path=str(CONF_DIR), config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    """Train as the command line says; what RLHive foresaw ends with its sentence and status 1."""
    try:
        train_from_config(OmegaConf.to_container(config, resolve=True), output_dir=HydraConfig.get().runtime.output_dir)
    except RLHiveError as error:
        sys.exit(str(error))


def check_arguments(arguments: list[str]) -> None:
    """Exit with a sentence where model or dataset is not chosen: Hydra's own is a page of its inside."""
    if any(
        re.match(r"--?(h|help|hydra-help|version|info|i|shell-completion|sc)\b", argument) for argument in arguments
    ):
        return
    chosen = {}
    for argument in arguments:
        found = re.match(r"\+*(model|dataset)(?:\.name)?=(.*)", argument)
        if found:
            chosen[found[1]] = found[2]
    online = set(chosen.get("model", "").split(",")) & set(ONLINE)
    absent = [group for group in ("model", "dataset") if group not in chosen and not (group == "dataset" and online)]
    if absent:
        sys.exit(f"Nothing to train: expected +model=bc +dataset=kitchen_knob1, got no {' and no '.join(absent)}.")


if __name__ == "__main__":
    check_arguments(sys.argv[1:])
    main()
