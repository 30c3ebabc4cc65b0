"""Transforms that TorchRL applies on writing. Nothing is written to a dataset: its storage computes them instead."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torchrl.envs.transforms import Compose, MultiStepTransform, Reward2GoTransform

from rlhive import keys
from rlhive.data.replay._options import BatchTransform
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import InvalidOptionError

#: The keys that the storage reads for them: TorchRL's defaults.
_MULTI_STEP_KEYS = {"done_key": keys.DONE, "reward_keys": [keys.REWARD], "mask_key": "mask"}
_TO_GO_KEYS = {"done_key": keys.DONE, "in_keys_inv": [keys.NEXT_REWARD]}


def fuse_transforms(
    storage: PackedStorage, transform: BatchTransform | None
) -> tuple[PackedStorage, BatchTransform | None]:
    """Let the storage compute ``MultiStepTransform`` and ``Reward2GoTransform``.

    Returns:
        The storage, and the transforms that are left for the buffer.

    Raises:
        InvalidOptionError: A transform names other keys than TorchRL's defaults, or its values are computed already.
    """
    steps = list(transform) if isinstance(transform, Compose) else [transform]
    left = [step for step in steps if not is_fused(step)]
    if len(left) == len(steps):
        return storage, transform
    return fuse(storage, [step for step in steps if is_fused(step)]), Compose(*left) if left else None


def is_fused(step: Any) -> bool:
    """Return whether a storage computes the transform."""
    return isinstance(step, (MultiStepTransform, Reward2GoTransform))


def fuse(storage: PackedStorage, steps: Sequence[Any]) -> PackedStorage:
    """Return a storage of the same transitions that computes the transforms; see :func:`fuse_transforms`."""
    changes: dict[str, Any] = {}
    for step in steps:
        if isinstance(step, MultiStepTransform):
            _require_keys(step, _MULTI_STEP_KEYS)
            if "window" in changes or storage.window.n_step > 1:
                msg = (
                    f"MultiStepTransform({step.n_steps}): the buffer computes n-step returns already. Use one of them."
                )
                raise InvalidOptionError(msg)
            changes["window"] = replace(storage.window, n_step=step.n_steps, gamma=float(step.gamma))
        else:
            _require_keys(step, _TO_GO_KEYS)
            changes |= {"return_to_go": float(step.gamma), "return_to_go_key": step.out_keys_inv[0]}
    return storage.variant(**changes)


def _require_keys(step: Any, expected_keys: Mapping[str, Any]) -> None:
    for name, expected in expected_keys.items():
        got = getattr(step, name)
        if list(got) != list(expected):
            msg = (
                f"{type(step).__name__}: expected {name} {expected!r}, which the storage computes it from, got {got!r}."
            )
            raise InvalidOptionError(msg)
