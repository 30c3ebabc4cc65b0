"""How much memory a foreign file may take: a small file must not unpack to gigabytes.

An episode is held in memory whole, and healthy episodes of pictures take hundreds of megabytes. What tells them from a
decompression bomb is the size of the file: data beyond :data:`FREE_BYTES` must be covered by stored bytes, multiplied
by the largest factor by which the data of that kind are compressed in practice.
"""

from rlhive.errors import SchemaMismatchError

#: Bytes that an episode may take whatever the size of its file.
FREE_BYTES = 64 * 2**20
#: Factor by which lossless compression of numbers may shrink data beyond that.
NUMBER_EXPANSION = 16
#: Factor for pictures: PNG and JPEG of simulated scenes.
PICTURE_EXPANSION = 100
#: Factor for videos: a scene in which little moves.
VIDEO_EXPANSION = 1000


class MemoryBudget:
    """The memory that the data of one episode take, beyond what the size of its files accounts for.

    Args:
        context: Address for messages.
    """

    def __init__(self, context: str):
        self._context = context
        self._num_bytes = 0
        self._uncovered = 0

    def add(self, num_bytes: int, stored_bytes: int, *, expansion: int = NUMBER_EXPANSION) -> None:
        """Count data before they are decoded.

        Args:
            num_bytes: Size of the decoded data.
            stored_bytes: Size of the data in the file.
            expansion: Largest factor of a healthy compression.

        Raises:
            SchemaMismatchError: The data of the episode would take more memory than its files account for.
        """
        self._num_bytes += num_bytes
        self._uncovered += max(0, num_bytes - stored_bytes * expansion)
        if self._uncovered > FREE_BYTES:
            msg = (
                f"{self._context}: expected data of a size that the file accounts for, got "
                f"{format_bytes(stored_bytes)} that unpack to {format_bytes(self._num_bytes)} or more."
            )
            raise SchemaMismatchError(msg)


def require_memory(num_bytes: int, stored_bytes: int, context: str, *, expansion: int = NUMBER_EXPANSION) -> None:
    """Check the size of one piece of data as :meth:`MemoryBudget.add` does."""
    MemoryBudget(context).add(num_bytes, stored_bytes, expansion=expansion)


def format_bytes(num_bytes: int) -> str:
    """Return a size with a unit, for messages."""
    size, units = float(num_bytes), ["bytes", "kB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.{0 if units[0] == 'bytes' else 1}f} {units[0]}"
