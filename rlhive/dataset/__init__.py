"""Datasets: a name is looked up, and the version found is selected from, transformed and loaded.

:class:`RoboHiveDataset` is the entry. ``pull``, ``versions`` and ``delete`` manage the versions of the local store.
"""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.dataset._dataset import RoboHiveDataset as RoboHiveDataset, describe as describe
    from rlhive.dataset._lookup import (
        delete as delete,
        find_deletable as find_deletable,
        find_version as find_version,
        local_version as local_version,
        pull as pull,
        versions as versions,
    )
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
