"""Algorithms by name: those of RLHive, those of installed packages, and those that a script registers.

A package offers algorithms as entry points of the group ``rlhive.algorithms``: the name is that of the command line,
``+model=<name>``, the value a subclass of :class:`rlhive.sim_algos.Algorithm`. The options are a YAML file of that name
beside the class's module; :func:`register_algorithm` takes another path.
"""

import difflib
import importlib
import importlib.metadata
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from rlhive.errors import InvalidOptionError
from rlhive.policies import ALGORITHM_ENTRY_POINTS, register_network

if TYPE_CHECKING:
    from rlhive.sim_algos._algorithm import Algorithm

CONF_DIR = Path(__file__).parent / "conf"

#: Module and class of RLHive's algorithms; the options of each are ``conf/model/<name>.yaml``.
_BUILT_IN = {
    "bc": "_bc:BehaviorCloning",
    "cql": "_cql:ConservativeQLearning",
    "dt": "_dt:DecisionTransformer",
    "flow_bc": "_flow_bc:FlowBehaviorCloning",
    "fql": "_fql:FlowQLearning",
    "iql": "_iql:ImplicitQLearning",
    "rebrac": "_rebrac:ReBRAC",
    "sac": "_sac:SoftActorCritic",
    "td3_bc": "_td3_bc:TD3BC",
}

_registered: dict[str, tuple[type["Algorithm"], Path]] = {}


def register_algorithm(algorithm: type["Algorithm"], options: str | Path | None = None) -> type["Algorithm"]:
    """Make an algorithm known to this process under its attribute ``name``; it can be used as a decorator.

    Args:
        algorithm: The class.
        options: YAML file with its options, in the form of ``conf/model/bc.yaml``. By default ``<name>.yaml`` beside
            the class's module.
            A class whose network is no perceptron has a static method ``make_network(observation_dim, action_dim,
            network)`` and names itself as ``kind`` in its attribute ``network``.

    Returns:
        The class.

    Raises:
        InvalidOptionError: RLHive has an algorithm of that name, or the file does not exist.
    """
    if algorithm.name in _BUILT_IN:
        msg = f"register_algorithm: RLHive has an algorithm named {algorithm.name!r}, expected another name"
        raise InvalidOptionError(msg)
    path = Path(options) if options is not None else Path(inspect.getfile(algorithm)).parent / f"{algorithm.name}.yaml"
    if not path.is_file():
        msg = f"register_algorithm({algorithm.name!r}): expected a YAML file with its options at {path}, got none"
        raise InvalidOptionError(msg)
    _registered[algorithm.name] = algorithm, path
    if hasattr(algorithm, "make_network"):
        register_network(algorithm.name, algorithm.make_network)
    return algorithm


def algorithm_names() -> list[str]:
    """Return the names of all algorithms, sorted."""
    return sorted({*_BUILT_IN, *_registered, *importlib.metadata.entry_points(group=ALGORITHM_ENTRY_POINTS).names})


def find_algorithm(name: str) -> type["Algorithm"]:
    """Return the class of an algorithm.

    Raises:
        InvalidOptionError: No algorithm of that name; the message lists all.
    """
    if name in _BUILT_IN:
        module, _, class_name = _BUILT_IN[name].partition(":")
        return getattr(importlib.import_module(f"rlhive.sim_algos.algorithms.{module}"), class_name)
    _load_entry_point(name)
    if name not in _registered:
        names = algorithm_names()
        close = difflib.get_close_matches(name, names, 1)
        advice = f" Did you mean {close[0]}?" if close else ""
        msg = f"No algorithm named {name!r}: expected one of {', '.join(names)}.{advice}"
        raise InvalidOptionError(msg)
    return _registered[name][0]


def find_options(name: str) -> Path:
    """Return the YAML file with the options of an algorithm.

    Raises:
        InvalidOptionError: No algorithm of that name.
    """
    find_algorithm(name)
    return CONF_DIR / "model" / f"{name}.yaml" if name in _BUILT_IN else _registered[name][1]


def is_built_in(name: str) -> bool:
    """Whether RLHive itself has an algorithm of that name."""
    return name in _BUILT_IN


def _load_entry_point(name: str) -> None:
    """Register an algorithm of an installed package, unless something is registered under its name."""
    if name in _registered:
        return
    for entry_point in importlib.metadata.entry_points(group=ALGORITHM_ENTRY_POINTS):
        if entry_point.name == name:
            register_algorithm(entry_point.load())
