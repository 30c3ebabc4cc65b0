"""Compose a configuration from conf/ without a command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhive.errors import MissingExtraError

#: Algorithms that act in an environment while they learn; the others need a dataset.
ONLINE = ("sac",)

CONF_DIR = Path(__file__).parent / "conf"


def make_config(model: str, dataset: str | None = None, *, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the configuration of the command line ``+model=… +dataset=… overrides…``.

    Args:
        model: Name of a file in conf/model: "bc", "iql" or "sac".
        dataset: Dataset name or folder of a version; None for none, which only "sac" accepts.
        overrides: Overrides in Hydra's grammar: ``["train.num_steps=2000", "split=expert+medium"]``.

    Returns:
        Plain nested dicts.

    Raises:
        ValueError: No such model, or an override of an unknown entry.
        MissingExtraError: Hydra is not installed.

    Example:
        >>> make_config("bc", "toy_point", overrides=["train.num_steps=5"])["train"]["num_steps"]
        5
    """
    try:
        from hydra import compose, initialize_config_dir
        from hydra.errors import HydraException
        from omegaconf import DictConfig, open_dict
        from omegaconf.errors import OmegaConfBaseException
    except ImportError as error:
        msg = "Training needs Hydra: expected hydra-core 1.3, got none. Install it: pip install 'rlhive[train]'"
        raise MissingExtraError(msg) from error
    models = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml"))
    if model not in models:
        msg = f"No algorithm named {model!r}: expected one of {', '.join(models)}."
        raise ValueError(msg)
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3", job_name="rlhive"):
            composed: DictConfig = compose("config", [f"+model={model}", *overrides])
        with open_dict(composed):  # not as an override: a path would have to be quoted in Hydra's grammar
            composed.dataset = dataset
        return to_plain_dict(composed)
    except (HydraException, OmegaConfBaseException) as error:
        msg = f"Configuration of {model!r} with {list(overrides)}: {error}. See {CONF_DIR.name}/model/{model}.yaml."
        raise ValueError(msg) from error


def to_plain_dict(config: Any) -> dict[str, Any]:
    """Return a Hydra configuration as nested dicts, its interpolations resolved."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True)
    if not isinstance(plain, dict):
        msg = f"Configuration: expected a mapping, got {type(plain).__name__}"
        raise TypeError(msg)
    return {str(name): value for name, value in plain.items()}
