"""Conversion of a manifest to TorchRL's RobotDatasetMetadata, which its transforms and action tokenizers take."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torchrl.data import RobotDatasetMetadata

from rlhive import keys
from rlhive.data.versions import Manifest

#: Name in TorchRL's metadata → name in RLHive's statistics.
_ACTION_STATISTICS = {"mean": "mean", "std": "std", "low": "min", "high": "max"}


def robot_metadata(
    manifest: Manifest, statistics: Mapping[str, Mapping[str, Any]], *, source_url: str | None = None
) -> RobotDatasetMetadata:
    """Return a version's description of its robot and actions in TorchRL's form.

    Nothing is guessed: what the manifest does not contain is None.

    Args:
        manifest: Manifest of the version.
        statistics: Statistics of the version's columns. ``action_low`` and ``action_high`` are the smallest and largest
            actions in the data, not the limits of the robot.
        source_url: Page of the version on the Hub.

    Raises:
        KeyError: The dataset has no column ``action``.
    """
    fields = {item.column: item for item in manifest.schema.fields}
    action_statistics = statistics.get(keys.ACTION, {})
    cameras = [item.key for item in manifest.schema.observed if item.dtype == "uint8" and len(item.shape) >= 3]
    return RobotDatasetMetadata(
        f"{manifest.name}@{manifest.version}",
        embodiment_id=manifest.env_name or None,
        action_dim=fields[keys.ACTION].width,
        camera_keys=tuple(cameras),
        state_key=keys.OBSERVATION if keys.OBSERVATION in fields else None,
        instruction_key=None,
        action_key=keys.ACTION,
        license=manifest.license or None,
        source_url=source_url,
        **{
            f"action_{torchrl_name}": _to_tensor(action_statistics.get(name))
            for torchrl_name, name in _ACTION_STATISTICS.items()
        },
    )


def _to_tensor(values: Any) -> torch.Tensor | None:
    """Return one float32 per element of the action; NaN where the statistic is not finite; None without statistics."""
    return None if values is None else torch.from_numpy(np.array(values, dtype=np.float32).ravel())
