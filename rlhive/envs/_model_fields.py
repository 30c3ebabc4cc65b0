"""Values that a checkpoint may write into MuJoCo's compiled model.

A recorded state may come from a stranger, and MuJoCo checks nothing: it looks up a collision function by each geom's
type, so that a wrong type ends the process.
"""

from typing import Any

import numpy as np

#: Largest magnitude that MuJoCo accepts in a state, its mjMAXVAL; beyond it a simulation counts as unstable.
MAX_VALUE = 1e10

#: Sphere, capsule, ellipsoid, cylinder and box: the types that a geom can have without a mesh or a height field.
_PRIMITIVE_TYPES = (2, 3, 4, 5, 6)

#: Numbers of friction directions that MuJoCo knows.
_CONTACT_DIMENSIONS = (1, 3, 4, 6)

_NON_NEGATIVE = ("body_mass", "body_inertia", "geom_size", "geom_friction", "site_size")


#: Prefixes of model arrays that no task changes and that take most of the memory, or that only pictures show.
_NOT_PHYSICS = ("mesh_", "tex_", "skin_", "bvh_", "name", "paths", "text_", "light_", "cam_", "mat_", "plugin", "oct_")

#: Arrays that also show whether a task is solved; RoboHive sets them again with every reward.
_SHOWN = ("geom_rgba", "site_rgba", "site_size")


def changeable_fields(model: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a compiled model that a task may change, as views by name."""
    names = [name for name in dir(model) if not name.startswith(("_", *_NOT_PHYSICS))]
    fields = {name: getattr(model, name) for name in names}
    return {name: field for name, field in fields.items() if isinstance(field, np.ndarray) and field.size}


def is_shown_only(name: str) -> bool:
    """Whether a field also shows whether the task is solved, so that a reward computes it again."""
    return name in _SHOWN


def require_numbers(name: str, values: np.ndarray) -> None:
    """Check that MuJoCo accepts all numbers of an array.

    Raises:
        ValueError: A number is NaN, infinite or beyond MAX_VALUE.
    """
    _require(np.abs(values) <= MAX_VALUE, name, values, f"a number of magnitude {MAX_VALUE:g} at most")


def require_field(name: str, values: np.ndarray, built: np.ndarray) -> None:
    """Check that MuJoCo accepts new values of a model field.

    Args:
        name: Name of the field, "geom_size" for example.
        values: New values, float64 in the shape of the field.
        built: Values of the compiled model.

    Raises:
        ValueError: A value is not a number that the field can hold.
    """
    require_numbers(name, values)
    if name == "geom_type":
        accepted = np.isin(values, _PRIMITIVE_TYPES) | (values == built)
        _require(accepted, name, values, "the type of the compiled model or one of 2 to 6 (sphere to box)")
    elif name == "geom_condim":
        _require(np.isin(values, _CONTACT_DIMENSIONS), name, values, "1, 3, 4 or 6 contact dimensions")
    elif built.dtype.kind != "f":
        msg = f"{name}: expected a field of real numbers, got one of {built.dtype}"
        raise ValueError(msg)
    elif name in _NON_NEGATIVE:
        _require(values >= 0, name, values, "a number of 0 or more")


def _require(accepted: np.ndarray, name: str, values: np.ndarray, expected: str) -> None:
    if not accepted.all():
        index = int(np.argmin(accepted.reshape(-1)))
        msg = f"{name}[{index}] is {values.reshape(-1)[index]:g}, expected {expected}"
        raise ValueError(msg)
