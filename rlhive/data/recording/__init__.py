"""Recording: episodes from collectors, replay buffers and loops of steps, safe on disk from the moment they end."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.data.recording._recorder import Recorder as Recorder
    from rlhive.data.recording._recording import Recording as Recording
    from rlhive.data.recording._recover import (
        commit_recording as commit_recording,
        discard_recording as discard_recording,
        find_recording as find_recording,
        recordings as recordings,
    )
    from rlhive.data.recording._writer import Writer as Writer
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
