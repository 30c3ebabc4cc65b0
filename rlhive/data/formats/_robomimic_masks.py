"""robomimic's masks: named lists of demonstrations, which may overlap. Some become splits, all become metadata."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhive.data.formats._column_values import to_text
from rlhive.data.formats._hdf5 import Hdf5File
from rlhive.errors import SchemaMismatchError

#: Masks that become splits where a file has them.
SPLIT_MASKS = ("train", "valid", "test")
#: The split of a demonstration that none of those masks has.
OTHER_SPLIT = "other"
_NO_MASKS = "none"


@dataclass(frozen=True)
class DemoMasks:
    """The masks of a file.

    Attributes:
        context: The file, for messages.
        demos: Names of the demonstrations of every mask.
        split_masks: Names of the masks that become splits.
        unknown: Names that a mask has and the file lacks.
    """

    context: str
    demos: Mapping[str, frozenset[str]]
    split_masks: tuple[str, ...]
    unknown: frozenset[str]

    @classmethod
    def read(cls, h5: Hdf5File, names: Collection[str], split_masks: str | Sequence[str] | None) -> "DemoMasks":
        """Read the masks of a file.

        Args:
            h5: The file.
            names: Names of its demonstrations.
            split_masks: Masks that become splits; None for :data:`SPLIT_MASKS`, "none" for no mask.

        Raises:
            SchemaMismatchError: The file lacks one of the masks, or two of them overlap.
        """
        datasets = h5.group("mask").find_datasets() if "mask" in h5 else {}
        members = {name: frozenset(map(to_text, np.ravel(item[()]))) for name, item in sorted(datasets.items())}
        if split_masks is None:
            split_masks = [name for name in SPLIT_MASKS if name in members]
        elif isinstance(split_masks, str):
            split_masks = [split_masks]
        unknown = frozenset().union(*members.values()) - set(names)
        masks = cls(str(h5.path), members, tuple(name for name in split_masks if name != _NO_MASKS), unknown)
        masks._require_disjoint()
        return masks

    def choose_split(self, demo: str, default: str) -> str:
        """Return the split of a demonstration: its mask, or ``default`` where no mask becomes a split."""
        if not self.split_masks:
            return default
        return next((name for name in self.split_masks if demo in self.demos[name]), OTHER_SPLIT)

    def describe(self, demo: str) -> dict[str, bool]:
        """Return metadata of a demonstration: ``mask_<name>``, whether it is in that mask."""
        return {f"mask_{name}": demo in members for name, members in self.demos.items()}

    def notes(self) -> Iterator[str]:
        """Yield what became of the masks."""
        if self.split_masks:
            yield f"masks taken as splits: {', '.join(self.split_masks)}"
        if len(self.demos) > len(self.split_masks):
            others = [name for name in self.demos if name not in self.split_masks]
            yield f"masks kept in the metadata of the episodes alone: {', '.join(others)}"
        if self.unknown:
            yield f"masks name demonstrations that the file lacks: {', '.join(sorted(self.unknown)[:4])}"

    def _require_disjoint(self) -> None:
        missing = [name for name in self.split_masks if name not in self.demos]
        if missing:
            msg = f"{self.context}: split_masks={missing[0]!r}: expected one of {', '.join(self.demos) or 'no mask'}."
            raise SchemaMismatchError(msg)
        for index, name in enumerate(self.split_masks):
            for other in self.split_masks[:index]:
                shared = sorted(self.demos[name] & self.demos[other])
                if shared:
                    msg = (
                        f"{self.context}, mask/{name}: expected demonstrations that mask/{other} lacks, got "
                        f"{shared[0]} in both. The option split_masks names the masks that become splits, or none."
                    )
                    raise SchemaMismatchError(msg)
