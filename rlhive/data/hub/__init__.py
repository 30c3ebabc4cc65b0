"""The Hugging Face Hub: versions are pushed under a tag that never moves, fetched and verified, or streamed."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.data.hub._batches import BatchStream as BatchStream, StreamOptions as StreamOptions
    from rlhive.data.hub._foreign import fetch_foreign_files as fetch_foreign_files
    from rlhive.data.hub._history import find_splits as find_splits
    from rlhive.data.hub._pin import HubPin as HubPin
    from rlhive.data.hub._pull import fetch_missing_files as fetch_missing_files, fetch_version as fetch_version
    from rlhive.data.hub._push import PublishedVersion as PublishedVersion, push as push, push_folder as push_folder
    from rlhive.data.hub._refs import (
        is_offline as is_offline,
        list_datasets as list_datasets,
        list_versions as list_versions,
        require_tag_unmoved as require_tag_unmoved,
        resolve_revision as resolve_revision,
    )
    from rlhive.data.hub._streaming import stream_records as stream_records
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
