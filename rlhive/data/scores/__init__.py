"""Scores of episodes: numbers by which bad ones are found, computed from a version and kept beside it.

``dataset.score()`` returns them, and ``where="jerk < 300 and not duplicate"`` selects by them.
"""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.data.scores._compute import compute_scores as compute_scores
    from rlhive.data.scores._sidecar import (
        add_scores as add_scores,
        read_stored_scores as read_stored_scores,
        score_path as score_path,
        write_scores as write_scores,
    )
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
