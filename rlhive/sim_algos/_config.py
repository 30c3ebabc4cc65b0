"""Configurations: composed from conf/ by Hydra, with every option checked against the algorithm's own.

A configuration consists of ``conf/config.yaml``, the file of an algorithm, and one file per further group (``network``,
``encoder``, ``optim``, ``exploration``, ``evaluation``, ``logger``). An option is known if one of these files has it,
so that an option which the algorithm does not read is an error like a misspelt one.
"""

import contextlib
import difflib
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhive._extras import require_extra
from rlhive.errors import InvalidOptionError
from rlhive.sim_algos._registry import CONF_DIR, algorithm_names, find_algorithm, find_options, is_built_in

#: Groups of conf/ besides the algorithm, in the order in which they are merged.
GROUPS = ("network", "encoder", "optim", "exploration", "evaluation", "logger")

#: Groups whose files replace options of the algorithm; the others bring a section of their own.
_REPLACING = ("network", "optim")

_OVERRIDE = re.compile(r"\++(?=[\w.@/]+=)(?!hydra\.)")


def make_config(model: str, dataset: str | None = None, *, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the configuration of the command line ``+model=… +dataset=… overrides…``.

    Args:
        model: Name of an algorithm: "bc", "iql", "td3_bc", "sac", … (:func:`rlhive.sim_algos.algorithm_names`).
        dataset: Dataset name or folder of a version; None for none, which only online algorithms accept.
        overrides: Overrides in Hydra's grammar: ``["train.num_steps=2000", "split=expert+medium"]``.

    Returns:
        Plain nested dicts.

    Raises:
        InvalidOptionError: No such algorithm, file of a group or option; the message names similar ones.
        MissingExtraError: Hydra is not installed.

    Example:
        >>> make_config("bc", "toy_point", overrides=["train.num_steps=5"])["train"]["num_steps"]
        5
    """
    overrides = [f"model={model}", *strip_plus(overrides)]
    check_overrides(overrides)
    composed = compose_config(overrides)
    composed["dataset"] = dataset  # not as an override: a path would have to be quoted in Hydra's grammar
    return composed


def strip_plus(overrides: Sequence[str]) -> list[str]:
    """Return overrides in Hydra's form: without a leading ``+``, and ``~group`` for ``group=null``.

    Every option exists, so that none is added. Of several overrides of an option the last one counts. Hydra has no null
    for a group, and deletes only what is there.
    """
    stripped = [_OVERRIDE.sub("", override, count=1) for override in overrides]
    last = {override.partition("=")[0]: override for override in stripped}
    effective = [override for override in stripped if last[override.partition("=")[0]] is override]
    absent = [f"{group}=null" for group in GROUPS if group != "logger"]
    return ["~logger" if override == "logger=null" else override for override in effective if override not in absent]


def check_overrides(overrides: Sequence[str]) -> None:
    """Check the names of groups, their files and options for every combination of a sweep.

    Args:
        overrides: Overrides in Hydra's grammar, without a leading ``+``; a sweep's values are separated by commas.

    Raises:
        InvalidOptionError: An override cannot be parsed or names nothing that exists; the message names similar ones.
        MissingExtraError: Hydra is not installed.
    """
    parsed = [override for override in _parse_overrides(overrides) if not override.is_hydra_override()]
    choices = {name: [None] for name in ("model", *GROUPS)} | {
        override.key_or_group: _list_values(override)
        for override in parsed
        if override.key_or_group in ("model", *GROUPS)
    }
    for combination in itertools.product(*choices.values()):
        selected = {name: value for name, value in zip(choices, combination, strict=True) if value is not None}
        options = _known_options(selected)
        for override in parsed:
            if override.key_or_group not in choices and override.key_or_group not in options:
                raise InvalidOptionError(_describe_option(override.key_or_group, options, selected))


def _known_options(selected: Mapping[str, str]) -> set[str]:
    """Return the dotted names of all options and sections of a combination of files.

    Raises:
        InvalidOptionError: A group has no such file, or a file has options that the algorithm does not read.
    """
    if "model" not in selected:
        msg = f"No algorithm: expected +model=NAME out of {', '.join(algorithm_names())}"
        raise InvalidOptionError(msg)
    find_algorithm(selected["model"])
    for name, value in selected.items():
        if name != "model":
            _require_file(name, value)
    options = set(_list_options(f"model={selected['model']}"))
    for name, value in selected.items():
        if name == "model":
            continue
        added = _list_options(f"model={selected['model']}", f"{name}={value}")
        unread = sorted(added - options) if name in _REPLACING else []
        if unread:
            msg = f"{name}={value}: {selected['model']} has no option {unread[0]}"
            raise InvalidOptionError(msg)
        options |= added
    return options


@functools.cache
def _list_options(*overrides: str) -> frozenset[str]:
    """Return the dotted names of all options and sections of a configuration."""
    return frozenset(_flatten(compose_config(overrides, resolve=False)))


def _require_file(group: str, name: str) -> None:
    names = sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))
    if name not in (*names, "null"):
        close = difflib.get_close_matches(name, names, 1)
        advice = f" Did you mean {close[0]}?" if close else ""
        msg = f"{group}={name}: expected one of {', '.join(names)}, or null.{advice}"
        raise InvalidOptionError(msg)


def _describe_option(name: str, options: set[str], selected: Mapping[str, str]) -> str:
    last = name.rpartition(".")[2]
    same_end = sorted(option for option in options if option.rpartition(".")[2] == last)
    sections = {option.partition(".")[0] for option in options if "." in option}
    close = same_end or difflib.get_close_matches(name, sorted((options | set(GROUPS)) - sections), 3)
    similar = f" Similar: {', '.join(close)}." if close else ""
    return f"{selected['model']} has no option {name}.{similar} All: rlhive train +model={selected['model']} --cfg job"


def _flatten(config: Mapping[str, Any], prefix: str = "") -> set[str]:
    names = set()
    for name, value in config.items():
        names.add(f"{prefix}{name}")
        if isinstance(value, Mapping):
            names |= _flatten(value, f"{prefix}{name}.")
    return names


def _list_values(override: Any) -> list[str | None]:
    """Return the values of an override of a group; several in a sweep."""
    if override.is_delete():
        return [None]
    values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.get_value_string()]
    return [None if value == "null" else value for value in values]


def _parse_overrides(overrides: Sequence[str]) -> list[Any]:
    with _hydra_errors(overrides):
        from hydra.core.override_parser.overrides_parser import OverridesParser

        return OverridesParser.create().parse_overrides(list(overrides))


def compose_config(overrides: Sequence[str], *, resolve: bool = True) -> dict[str, Any]:
    """Return the configuration of checked overrides as plain nested dicts.

    Raises:
        InvalidOptionError: Hydra cannot compose it.
    """
    with _hydra_errors(overrides):
        from hydra import compose, initialize_config_dir

        store_options(overrides)
        with initialize_config_dir(str(CONF_DIR), version_base="1.3", job_name="rlhive"):
            composed = compose("config", list(overrides))
        return to_plain_dict(composed, resolve=resolve)


def store_options(overrides: Sequence[str]) -> None:
    """Make the options of other packages' algorithms known to Hydra, for the models that overrides name."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    for override in overrides:
        group, _, value = override.partition("=")
        for name in value.split(",") if group == "model" else ():
            if not is_built_in(name) and name in algorithm_names():
                node = OmegaConf.load(find_options(name))
                ConfigStore.instance().store(group="model", name=name, node=node, package="_global_")


@contextlib.contextmanager
def _hydra_errors(overrides: Sequence[str]) -> Iterator[None]:
    """Translate the errors of Hydra and OmegaConf."""
    msg = "Training needs Hydra: expected hydra-core 1.3, got none. Install it: pip install 'rlhive[train]'"
    with require_extra(msg):
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        detail = str(error).partition("\nSee https://hydra.cc")[0]
        msg = f"Configuration {' '.join(overrides)}: {detail}"
        raise InvalidOptionError(msg) from error


def to_plain_dict(config: Any, *, resolve: bool = True) -> dict[str, Any]:
    """Return a Hydra configuration as nested dicts, its interpolations resolved."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=resolve)
    if not isinstance(plain, dict):
        msg = f"Configuration: expected a mapping, got {type(plain).__name__}"
        raise TypeError(msg)
    return {**dict.fromkeys(("encoder", "exploration", "evaluation", "logger")), **plain}
