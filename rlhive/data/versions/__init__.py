"""Dataset versions: export, read, verify, select, transform and compare them.

A version is a folder that never changes once its manifest exists (:mod:`rlhive.data.versions._local` says how an object
store holds it)::

    <store>/<namespace>/<name>/<version>/
      README.md                  dataset card
      returns.svg                picture of the card
      rlhive.json                manifest, written last
      data/<split>-*.parquet     shards, one row per transition
      meta/episodes.parquet      one row per episode
      meta/statistics.parquet    histograms behind the quantiles
"""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.data.versions._append import (
        add_operation as add_operation,
        append_source as append_source,
        stored_source as stored_source,
    )
    from rlhive.data.versions._card import front_matter_license as front_matter_license, render_card as render_card
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
    from rlhive.data.versions._conditions import (
        find_referenced_columns as find_referenced_columns,
        select_by_mask as select_by_mask,
        select_where as select_where,
    )
    from rlhive.data.versions._consistency import (
        find_count_mismatches as find_count_mismatches,
        find_schema_mismatches as find_schema_mismatches,
        find_table_mismatches as find_table_mismatches,
    )
    from rlhive.data.versions._diff import Diff as Diff, diff as diff
    from rlhive.data.versions._export import export as export
    from rlhive.data.versions._lineage import share_history as share_history
    from rlhive.data.versions._local import (
        MANIFEST_NAME as MANIFEST_NAME,
        ObjectAddress as ObjectAddress,
        find_newest_version as find_newest_version,
        find_stored_version as find_stored_version,
        has_manifest as has_manifest,
        list_all_versions as list_all_versions,
        list_folders as list_folders,
        list_incomplete_versions as list_incomplete_versions,
        list_local_datasets as list_local_datasets,
        list_local_versions as list_local_versions,
    )
    from rlhive.data.versions._manifest import (
        EPISODES_PATH as EPISODES_PATH,
        FileEntry as FileEntry,
        Manifest as Manifest,
        compute_fingerprint as compute_fingerprint,
        compute_sha256 as compute_sha256,
        verify_files as verify_files,
    )
    from rlhive.data.versions._manifest_file import (
        MAX_MANIFEST_BYTES as MAX_MANIFEST_BYTES,
        VersionSummary as VersionSummary,
        read_summary as read_summary,
    )
    from rlhive.data.versions._numbering import (
        find_earlier_version as find_earlier_version,
        next_patch as next_patch,
    )
    from rlhive.data.versions._objects import (
        commit_version as commit_version,
        delete_stored_version as delete_stored_version,
        fetch_stored_files as fetch_stored_files,
        fetch_stored_manifests as fetch_stored_manifests,
        fetch_stored_version as fetch_stored_version,
    )
    from rlhive.data.versions._operations import (
        ColumnFunction as ColumnFunction,
        add_column as add_column,
        add_stored_columns as add_stored_columns,
        compute_statistics as compute_statistics,
        drop_columns as drop_columns,
        merge as merge,
        relabel as relabel,
        rename_column as rename_column,
        scrub as scrub,
    )
    from rlhive.data.versions._outcomes import (
        RETURN_TOLERANCE as RETURN_TOLERANCE,
        compare_outcomes as compare_outcomes,
        compute_outcome_fingerprint as compute_outcome_fingerprint,
    )
    from rlhive.data.versions._picture import PICTURE_PATH as PICTURE_PATH
    from rlhive.data.versions._reader import (
        EpisodeBlock as EpisodeBlock,
        find_shards as find_shards,
        iterate_blocks as iterate_blocks,
        iterate_shards as iterate_shards,
        open_videos as open_videos,
        read_episodes as read_episodes,
        read_records as read_records,
        read_rows as read_rows,
        read_shard_episodes as read_shard_episodes,
        verify_shards as verify_shards,
    )
    from rlhive.data.versions._selection import (
        EPISODE_COLUMNS as EPISODE_COLUMNS,
        SCORE_COLUMNS as SCORE_COLUMNS,
        Selection as Selection,
        apply_selection as apply_selection,
        build_selection as build_selection,
        intersect_selection as intersect_selection,
        locate_episodes as locate_episodes,
        locate_rows as locate_rows,
        require_episodes as require_episodes,
        select_by as select_by,
    )
    from rlhive.data.versions._sketches import read_statistics as read_statistics
    from rlhive.data.versions._source import (
        VersionSource as VersionSource,
        partition_episodes as partition_episodes,
        to_source as to_source,
    )
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
