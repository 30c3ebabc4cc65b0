"""Reading of ``rlhive.json`` without NumPy or Arrow, whose imports take longer than `rlhive list` may."""

import json
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rlhive.data import _untrusted
from rlhive.data.versions._local import MANIFEST_NAME, ObjectAddress
from rlhive.errors import CorruptDatasetError, DatasetNotFoundError, RLHiveError, UnsupportedFormatError

#: Newest layout that is read: that of versions with lossy pictures or videos. Versions with PNG files have layout 2,
#: all others layout 1.
FORMAT_VERSION = 3
MAX_MANIFEST_BYTES = 64 * 2**20
EPISODES_PATH = "meta/episodes.parquet"

_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True)
class VersionSummary:
    """What the manifest says of a version at a glance.

    Attributes:
        num_episodes: Number of episodes.
        num_bytes: Size of all files except the manifest.
        success_rates: Share of successful episodes per split, None where success was not recorded; empty in versions
            that were written before it was noted.
    """

    num_episodes: int
    num_bytes: int
    success_rates: Mapping[str, float | None]


def read_summary(folder: Path) -> VersionSummary:
    """Return the summary of a version, from its manifest alone.

    Raises:
        DatasetNotFoundError, UnsupportedFormatError: As :func:`parse_manifest_file`.
        CorruptDatasetError: Likewise; or the episode table is missing or has another size than the manifest says. In
            the mirror of an object store, only the manifest is looked at.
    """
    return parse_manifest_file(folder, lambda content: _parse_summary(content, Path(folder)))


def parse_manifest_file(folder: Path, parse: Callable[[dict[str, Any]], _Parsed]) -> _Parsed:
    """Return what a function makes of the content of a version's manifest.

    Raises:
        DatasetNotFoundError: The folder does not exist, or has no manifest and so is not a complete version.
        UnsupportedFormatError: The format_version is not one that this RLHive reads.
        CorruptDatasetError: The file is not a manifest that RLHive wrote.
    """
    path = Path(folder) / MANIFEST_NAME
    _require_small_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _require_format(content, path)
        return parse(content)
    except UnsupportedFormatError:
        raise
    except (RLHiveError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        msg = f"{path} is not a manifest that RLHive wrote: {error}. Fetch or make the version again."
        raise CorruptDatasetError(msg) from error


def parse_success_rates(content: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the success rate of each split from untrusted JSON."""
    rates = content.get("success_rates", {})
    for split, rate in rates.items():
        if split not in content["splits"] or not (rate is None or (type(rate) in (int, float) and 0 <= rate <= 1)):
            msg = f"expected a success rate from 0 to 1 of a split, got {str(rate)[:40]} of {split[:40]!r}"
            raise ValueError(msg)
    return dict(rates)


def _parse_summary(content: Mapping[str, Any], folder: Path) -> VersionSummary:
    sizes = {str(entry["path"]): _untrusted.parse_count(entry["bytes"]) for entry in content["files"]}
    is_mirrored = ObjectAddress.of(folder) is not None
    if not is_mirrored and (folder / EPISODES_PATH).stat().st_size != sizes[EPISODES_PATH]:
        msg = f"{EPISODES_PATH} has another size than {sizes[EPISODES_PATH]} bytes"
        raise ValueError(msg)
    counts = [_untrusted.parse_count(split["num_episodes"]) for split in content["splits"].values()]
    return VersionSummary(sum(counts), sum(sizes.values()), parse_success_rates(content))


def _require_small_file(path: Path) -> None:
    """Raise unless a manifest is a regular file of an acceptable size: a pipe would block, a huge file fill memory."""
    try:
        status = path.stat()
    except OSError as error:
        actual = f"a folder without {MANIFEST_NAME}" if path.parent.is_dir() else "no such folder"
        msg = f"{path.parent} is not a dataset version: expected its manifest, got {actual}. Collect or pull it again."
        raise DatasetNotFoundError(msg) from error
    is_file = stat.S_ISREG(status.st_mode)
    if not is_file or status.st_size > MAX_MANIFEST_BYTES:
        actual = f"{status.st_size} bytes" if is_file else "something else"
        msg = f"{path}: expected a file of at most {MAX_MANIFEST_BYTES} bytes, got {actual}. Fetch the version again."
        raise CorruptDatasetError(msg)


def _require_format(content: Any, path: Path) -> None:
    version = content["format_version"]
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        msg = f"{path}: expected format_version 1 to {FORMAT_VERSION}, got {version!r}. Upgrade: pip install -U rlhive"
        raise UnsupportedFormatError(msg)
