"""Recording: episodes from collectors, replay buffers and loops of steps, safe on disk as soon as they end.

:class:`Recorder` is the entry. Between a step and a byte on the disk stand four objects::

    Recorder ─► EpisodeBuilder ─► EpisodeRecord ─► StreamWriter ─► <writer>.arrows in the folder of a Recording
                                                                          │
                                              dataset version ◄─ commit ◄─┘
"""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.data._transition_batch import BOOKKEEPING as BOOKKEEPING
    from rlhive.data.recording._config import RecorderConfig as RecorderConfig
    from rlhive.data.recording._recorder import Recorder as Recorder
    from rlhive.data.recording._recording import Recording as Recording, RecordingSummary as RecordingSummary
    from rlhive.data.recording._recover import (
        commit_recording as commit_recording,
        discard_recording as discard_recording,
        find_recording as find_recording,
        recordings as recordings,
    )
    from rlhive.data.recording._writer import StreamWriter as StreamWriter
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
