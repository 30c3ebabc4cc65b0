"""Pictures of a version's states: rendered again by the simulator and added as columns of the next version.

::

    <store>/.renders/<version>-<options>/<episode>.npz     what an interrupted run rendered; removed with the last file
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rlhive import keys
from rlhive.data import EpisodeRecord, Field, store_dir
from rlhive.dataset._transforms import Target, save_rendered
from rlhive.dataset._view import DatasetView
from rlhive.errors import CorruptDatasetError, InvalidOptionError
from rlhive.rollouts import RenderRequest, find_rendered, probe_rendering, render_episodes


def render_view(
    view: DatasetView,
    request: RenderRequest,
    target: Target,
    *,
    column: str,
    force: bool,
    num_workers: int | None,
    progress: bool,
) -> Path:
    """Write a version with pictures of its states; see :meth:`rlhive.RoboHiveDataset.render`.

    Args:
        view: Version or view of RoboHive episodes.
        request: What to render.
        target: The version to write.
        column: Column of the pictures.
        force: Whether to accept another compiled model than the recorded one.
        num_workers: Worker processes; one per core by default.
        progress: Whether to show a progress bar.
    """
    manifest, store = view.manifest, view.store or store_dir()
    kind = probe_rendering(manifest, request, force=force)
    prefix = "" if column == keys.PIXELS else f"{column}_"
    columns = {keys.PIXELS: column} | {key: f"{prefix}{key}" for key in (keys.DEPTH, keys.SEGMENTATION)}
    fields = [Field(columns[key], dtype, shape, observed=True) for key, (dtype, shape) in kind.shapes.items()]
    taken = sorted({field.column for field in fields} & set(manifest.schema.columns))
    if taken:
        msg = f"{manifest.name} {manifest.version} has a column {taken[0]} already: expected another column="
        raise InvalidOptionError(msg)
    version_hash = hashlib.sha256(f"{manifest.fingerprint} {request} {kind.provenance}".encode()).hexdigest()
    folder = store / ".renders" / version_hash[:32]
    folder.mkdir(parents=True, exist_ok=True)
    episodes = view.read_episode_table()
    render_episodes(
        view.iter_records(),
        manifest,
        request,
        kind,
        folder,
        num_episodes=episodes.num_rows,
        num_transitions=sum(episodes["length"].to_pylist()),
        num_workers=num_workers,
        progress=progress,
    )

    def read(record: EpisodeRecord) -> Mapping[str, np.ndarray]:
        path = find_rendered(folder, record)
        try:
            with np.load(path, allow_pickle=False) as content:
                return {columns[key]: content[key] for key in kind.shapes}
        except (OSError, ValueError, KeyError) as error:
            msg = (
                f"{path}: expected the pictures of episode {record.episode}: {error}. Remove the file and render again."
            )
            raise CorruptDatasetError(msg) from error

    operation = _describe_rendering(request, kind.provenance, force=force)
    written = save_rendered(view, fields, read, target, operation=operation)
    shutil.rmtree(folder, ignore_errors=True)
    return written


def _describe_rendering(request: RenderRequest, provenance: Mapping[str, object], *, force: bool) -> str:
    options = f"cameras={request.cameras}, image_size={request.image_size}, depth={request.depth}"
    options += ", segmentation=True" if request.segmentation else ""
    model = f", force=True, model_hash={str(provenance.get('model_hash'))[:16]}" if force else ""
    return f"render({options}, quality={request.quality!r}{model}) with {provenance.get('rendering')}"
