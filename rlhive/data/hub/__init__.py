"""The Hugging Face Hub: versions pushed under a tag that never moves, fetched and verified, or streamed."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.data.hub._pull import (
        Pin as Pin,
        complete as complete,
        datasets_of as datasets_of,
        fetch_version as fetch_version,
        is_offline as is_offline,
        require_unmoved as require_unmoved,
        resolve as resolve,
        versions_of as versions_of,
    )
    from rlhive.data.hub._push import Published as Published, push as push, push_folder as push_folder
    from rlhive.data.hub._streaming import batches_of as batches_of, stream_records as stream_records
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
