"""Formats of other libraries: read into dataset versions, and written from them.

:func:`import_dataset` and :func:`export_to` serve every format. A format is a :class:`Format`; packages add theirs
by an entry point of the group ``rlhive.formats``.
"""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.data.formats._convert import (
        export_to as export_to,
        get_hub_tag as get_hub_tag,
        import_dataset as import_dataset,
        is_exported as is_exported,
        open_source as open_source,
    )
    from rlhive.data.formats._episode_source import (
        EpisodeArrays as EpisodeArrays,
        EpisodeSource as EpisodeSource,
        end_flags as end_flags,
    )
    from rlhive.data.formats._format import (
        COMMON_OPTIONS as COMMON_OPTIONS,
        Format as Format,
        Option as Option,
    )
    from rlhive.data.formats._pictures import encode_jpeg as encode_jpeg, write_gif as write_gif
    from rlhive.data.formats._registry import (
        BUILT_IN as BUILT_IN,
        available_formats as available_formats,
        get_format as get_format,
    )
    from rlhive.data.formats._success_rewards import RewardOption as RewardOption, SuccessOption as SuccessOption
    from rlhive.data.formats._videos import require_av as require_av, write_video as write_video
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
