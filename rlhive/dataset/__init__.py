"""Datasets: a name is looked up, and the version found is selected from, transformed and loaded.

:class:`RoboHiveDataset` is the entry. ``pull``, ``versions`` and ``delete`` manage the versions of the store.
"""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.dataset._dataset import RoboHiveDataset as RoboHiveDataset, describe as describe
    from rlhive.dataset._description import (
        SplitSummary as SplitSummary,
        describe_view as describe_view,
        format_view as format_view,
        picture_columns as picture_columns,
        reference_returns as reference_returns,
        summarize_splits as summarize_splits,
        vector_columns as vector_columns,
    )
    from rlhive.dataset._embed import embed as embed, find_weights as find_weights
    from rlhive.dataset._film import render_states as render_states
    from rlhive.dataset._lookup import (
        delete as delete,
        find_deletable as find_deletable,
        find_version as find_version,
        local_version as local_version,
        pull as pull,
        versions as versions,
    )
    from rlhive.dataset._mixture import mix as mix
    from rlhive.dataset._plots import (
        SATURATED as SATURATED,
        project as project,
        sample_rows as sample_rows,
        summarize_dimensions as summarize_dimensions,
    )
    from rlhive.dataset._release import release as release
    from rlhive.dataset._view import DatasetView as DatasetView, open_view as open_view
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
