"""A version's manifest → TorchRL's RobotDatasetMetadata, which its transforms and action tokenizers take."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torchrl.data import RobotDatasetMetadata

from rlhive import keys
from rlhive.data.versions import Manifest


def robot_metadata(
    manifest: Manifest, statistics: Mapping[str, Mapping[str, Any]], *, source_url: str | None = None
) -> RobotDatasetMetadata:
    """Return what a version says of its robot and actions, in TorchRL's own form.

    Nothing is guessed: what the manifest does not say is None or "unknown".

    Args:
        manifest: Of the version.
        statistics: Of its columns; ``action_low`` and ``action_high`` are what the data hold, not what the robot can.
        source_url: Page that the version came from.

    Raises:
        KeyError: The dataset has no column ``action``.
    """
    fields = {item.column: item for item in manifest.schema.fields}
    action, known = fields[keys.ACTION], statistics.get(keys.ACTION, {})
    cameras = [item.key for item in manifest.schema.observed if item.dtype == "uint8" and len(item.shape) >= 3]
    return RobotDatasetMetadata(
        f"{manifest.name}@{manifest.version}",
        embodiment_id=manifest.env_name or None,
        action_dim=action.width,
        camera_keys=tuple(cameras),
        state_key=keys.OBSERVATION if keys.OBSERVATION in fields else None,
        instruction_key=None,
        action_key=keys.ACTION,
        license=manifest.license or None,
        source_url=source_url,
        **{f"action_{mine}": _vector(known.get(name)) for mine, name in _STATISTICS.items()},
    )


_STATISTICS = {"mean": "mean", "std": "std", "low": "min", "high": "max"}


def _vector(values: Any) -> torch.Tensor | None:
    """One float32 per element of the action; NaN where the data have no finite value."""
    return None if values is None else torch.from_numpy(np.array(values, dtype=np.float32).ravel())
