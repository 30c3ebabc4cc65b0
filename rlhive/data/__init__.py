"""Episodes as data: their schema, records and store, below the packages that record, version and serve them."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.data._cast import ColumnCast as ColumnCast
    from rlhive.data._dtypes import (
        BFLOAT16 as BFLOAT16,
        array_to_tensor as array_to_tensor,
        cast_array as cast_array,
        tensor_to_array as tensor_to_array,
        to_numbers as to_numbers,
    )
    from rlhive.data._episodes import (
        REWARD as REWARD,
        TERMINATED as TERMINATED,
        EpisodeRecord as EpisodeRecord,
        pack as pack,
        sum_exactly as sum_exactly,
        unpack as unpack,
    )
    from rlhive.data._schema import Field as Field, Schema as Schema, find_unrecorded as find_unrecorded
    from rlhive.data._statistics import (
        MAX_ELEMENTS as MAX_ELEMENTS,
        ColumnStatistics as ColumnStatistics,
        merge_statistics as merge_statistics,
    )
    from rlhive.data._store import (
        DEFAULT_NAMESPACE as DEFAULT_NAMESPACE,
        as_path as as_path,
        describe_store as describe_store,
        is_version as is_version,
        list_memmap_dirs as list_memmap_dirs,
        list_remains as list_remains,
        locked as locked,
        memmap_dir as memmap_dir,
        parse_name as parse_name,
        parse_splits as parse_splits,
        parse_version as parse_version,
        recording_dir as recording_dir,
        release_dir as release_dir,
        remove_dir as remove_dir,
        remove_remains as remove_remains,
        store_dir as store_dir,
        store_url as store_url,
        version_dir as version_dir,
        write_atomically as write_atomically,
    )
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
