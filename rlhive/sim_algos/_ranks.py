"""Data-parallel training: each rank of ``torch.distributed`` computes the gradients of its part of every batch.

::

    torchrun --nproc-per-node 2 -m rlhive.cli train +model=iql +dataset=kitchen_knob1

All ranks draw the same batches. The gradients, losses and metrics are means over the ranks, so that the training is
that of one process with the same batch size, but for rounding and for the noise that some losses draw. Rank 0 alone
evaluates and writes.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed
from tensordict import TensorDictBase

from rlhive.errors import InvalidOptionError


class Ranks:
    """The ranks that train together; a single one by default.

    Args:
        rank: Number of this process.
        world_size: Number of processes.
        device: Device of the values that are exchanged.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu"):
        self.rank = rank
        self.world_size = world_size
        self._device = torch.device(device)

    @property
    def is_main(self) -> bool:
        """Whether this process evaluates and writes."""
        return self.rank == 0

    def split(self, batch: TensorDictBase) -> TensorDictBase:
        """Return this rank's part of a batch."""
        if self.world_size == 1:
            return batch
        size = len(batch) // self.world_size
        return batch[self.rank * size : (self.rank + 1) * size]

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace the values of tensors of one dtype by their means over the ranks, in one message."""
        if self.world_size == 1 or not tensors:
            return
        joined = torch.cat([tensor.reshape(-1) for tensor in tensors])
        torch.distributed.all_reduce(joined)
        joined /= self.world_size
        parts = torch.split(joined, [tensor.numel() for tensor in tensors])
        for tensor, values in zip(tensors, parts, strict=True):
            tensor.copy_(values.view_as(tensor))

    def any(self, is_true: bool) -> bool:
        """Return whether something is true on a rank."""
        if self.world_size == 1:
            return is_true
        flag = torch.tensor(float(is_true), device=self._device)
        torch.distributed.all_reduce(flag)
        return bool(flag)

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0."""
        if self.world_size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, device=self._device)
        return values[0]

    def require_divisible(self, batch_size: int, slice_len: int | None) -> None:
        """Raise InvalidOptionError unless each rank gets the same number of transitions or whole slices of a batch."""
        unit = slice_len or 1
        if batch_size % (self.world_size * unit):
            parts = f"slices of {unit} for each of {self.world_size} ranks" if unit > 1 else f"{self.world_size} ranks"
            msg = f"train.batch_size={batch_size}: expected a multiple of {parts}"
            raise InvalidOptionError(msg)


def is_distributed() -> bool:
    """Return whether ``torchrun`` started several processes, or ``torch.distributed`` is initialised with several."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size() > 1
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextlib.contextmanager
def join_ranks(config: Mapping[str, Any]) -> Iterator[Ranks]:
    """Join the other ranks inside the block; the process group is left again if it was made here."""
    device = torch.device(config["device"])
    if not is_distributed():
        yield Ranks()
        return
    is_ours = not torch.distributed.is_initialized()
    if str(device) == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # which "cuda" then means
    if is_ours:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)
    finally:
        if is_ours:
            torch.distributed.destroy_process_group()
