"""Formats of other libraries: read into dataset versions, and written from them."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.data.formats._convert import (
        READERS as READERS,
        WRITERS as WRITERS,
        export_to as export_to,
        import_dataset as import_dataset,
        is_exported as is_exported,
        open_source as open_source,
        tag_of as tag_of,
    )
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
