"""Dataset versions: written once, verified whenever they are read, selected from, transformed and compared."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.data.versions._card import card_of as card_of
    from rlhive.data.versions._certificate import (
        BIT_EXACT as BIT_EXACT,
        DIVERGES as DIVERGES,
        IMPOSSIBLE as IMPOSSIBLE,
        TOLERATED as TOLERATED,
        VERDICTS as VERDICTS,
        Certificate as Certificate,
        EpisodeReplay as EpisodeReplay,
        read_certificate as read_certificate,
    )
    from rlhive.data.versions._consistency import (
        count_problems as count_problems,
        schema_problems as schema_problems,
        table_problems as table_problems,
    )
    from rlhive.data.versions._diff import Diff as Diff, diff as diff
    from rlhive.data.versions._export import export as export
    from rlhive.data.versions._manifest import (
        EPISODES_PATH as EPISODES_PATH,
        FILE_NAME as FILE_NAME,
        FileEntry as FileEntry,
        Manifest as Manifest,
        fingerprint_of as fingerprint_of,
        sha256_of as sha256_of,
        verify as verify,
    )
    from rlhive.data.versions._numbering import local_datasets as local_datasets, local_versions as local_versions
    from rlhive.data.versions._operations import (
        Compute as Compute,
        add_column as add_column,
        drop_columns as drop_columns,
        merge as merge,
        relabel as relabel,
        rename_column as rename_column,
        stream as stream,
        summaries_of as summaries_of,
    )
    from rlhive.data.versions._picture import PICTURE_PATH as PICTURE_PATH
    from rlhive.data.versions._reader import (
        episodes_by_shard as episodes_by_shard,
        episodes_of as episodes_of,
        read_episodes as read_episodes,
        read_records as read_records,
        read_rows as read_rows,
        shards_holding as shards_holding,
        verified_shards as verified_shards,
    )
    from rlhive.data.versions._selection import (
        COLUMNS as COLUMNS,
        Selection as Selection,
        accepted as accepted,
        columns_in as columns_in,
        keep as keep,
        matching as matching,
        positions as positions,
        require_known as require_known,
        restrict as restrict,
        rows as rows,
        selection_of as selection_of,
    )
    from rlhive.data.versions._sketches import read_summaries as read_summaries
    from rlhive.data.versions._source import Source as Source, partition as partition, source_of as source_of
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
