"""Names of NumPy 1 that RoboHive's modules use and NumPy 2 lacks, provided in those modules and nowhere else."""

import types

import numpy as np


def provide_numpy_names(module: types.ModuleType) -> None:
    """Give a module whose source says ``np.product`` a namespace of its own that has it, whichever NumPy it is.

    ``product`` is ``numpy.prod``, which NumPy 1 calls after a deprecation warning, so the values are the same.
    ``numpy`` itself stays as it is for every other module.

    Args:
        module: A module that names NumPy ``np``. A second call changes nothing.
    """
    if module.__dict__["np"] is np:
        names = types.ModuleType(np.__name__, np.__doc__)
        vars(names).update(vars(np), product=np.prod)
        module.__dict__["np"] = names
