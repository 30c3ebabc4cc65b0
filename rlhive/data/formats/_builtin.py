"""The formats that ship with RLHive: their names and options, and where each is read and written.

The modules that do the work import torch and pyarrow; they are imported when a format is used, so that the command
line can list formats and options at once.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhive.data.formats._format import Format, Option

if TYPE_CHECKING:
    from rlhive.data._episodes import EpisodeRecord
    from rlhive.data.formats._episode_source import EpisodeSource
    from rlhive.data.versions import Manifest

_SPLIT = Option("split", str, "Name of the split for all episodes; train by default.")
_ALIGNMENT = Option(
    "alignment",
    str,
    "Which reward a row holds, if unclear: of its state (state) or of its action (path).",
    choices=("state", "path"),
)


class RoboSet(Format):
    """RoboHive's logs and the RoboSet collection, in HDF5."""

    name = "roboset"
    read_options = (_ALIGNMENT, _SPLIT)

    def read(self, source: Path, **options: Any) -> "EpisodeSource":
        """Read a log, or all logs below a folder; see :func:`~rlhive.data.formats._roboset.read_roboset`."""
        from rlhive.data.formats._roboset import read_roboset

        return read_roboset(source, **options)


class D4RL(Format):
    """D4RL's flat HDF5 files."""

    name = "d4rl"
    read_options = (
        _ALIGNMENT,
        Option("horizon", int, "Maximum episode length, for files that mark no time-outs."),
        Option(
            "breaks",
            str,
            "Where episodes end, if the marks and the observations differ: marked or found.",
            choices=("marked", "found"),
        ),
        _SPLIT,
    )

    def read(self, source: Path, **options: Any) -> "EpisodeSource":
        """Read one file; see :func:`~rlhive.data.formats._d4rl.read_d4rl`."""
        from rlhive.data.formats._d4rl import read_d4rl

        return read_d4rl(source, **options)


class RoboMimic(Format):
    """HDF5 demonstrations of robomimic, MimicGen and LIBERO."""

    name = "robomimic"
    read_options = (
        Option(
            "split_masks",
            str,
            "Mask that becomes a split; repeatable; train, valid and test by default, none for no mask.",
            repeatable=True,
        ),
        Option("split", str, "Name of the split for files without masks; train by default."),
    )

    def read(self, source: Path, **options: Any) -> "EpisodeSource":
        """Read a file, or all files below a folder; see :func:`~rlhive.data.formats._robomimic.read_robomimic`."""
        from rlhive.data.formats._robomimic import read_robomimic

        return read_robomimic(source, **options)


class Aloha(Format):
    """Folders of episode_<n>.hdf5 of ALOHA and ACT."""

    name = "aloha"
    read_options = (
        Option("swap_colours", bool, "Whether red and blue are exchanged in the pictures."),
        _SPLIT,
    )

    def read(self, source: Path, **options: Any) -> "EpisodeSource":
        """Read a folder or one file; see :func:`~rlhive.data.formats._aloha.read_aloha`."""
        from rlhive.data.formats._aloha import read_aloha

        return read_aloha(source, **options)


class DiffusionPolicy(Format):
    """Diffusion Policy's replay buffers in zarr."""

    name = "diffusion_policy"
    read_options = (_SPLIT,)

    def read(self, source: Path, **options: Any) -> "EpisodeSource":
        """Read a store; see :func:`~rlhive.data.formats._diffusion_policy.read_diffusion_policy`."""
        from rlhive.data.formats._diffusion_policy import read_diffusion_policy

        return read_diffusion_policy(source, **options)


class Parquet(Format):
    """Parquet files with a column that numbers the episodes, as on the Hugging Face Hub."""

    name = "parquet"
    read_options = (
        Option("episode", str, "Column that numbers the episodes; episode_index or another usual name by default."),
        Option("split", str, "Name of the split for all episodes; that of the file's name by default."),
    )

    def read(self, source: Path, **options: Any) -> "EpisodeSource":
        """Read a file or a folder; see :func:`~rlhive.data.formats._parquet_dataset.read_parquet_dataset`."""
        from rlhive.data.formats._parquet_dataset import read_parquet_dataset

        return read_parquet_dataset(source, **options)


class OGBench(Format):
    """OGBench's .npz files."""

    name = "ogbench"
    read_options = (
        Option("split", str, "Name of the split for all episodes; val for files *-val.npz, else train, by default."),
    )

    def read(self, source: Path, **options: Any) -> "EpisodeSource":
        """Read a file, or all files of a folder; see :func:`~rlhive.data.formats._ogbench.read_ogbench`."""
        from rlhive.data.formats._ogbench import read_ogbench

        return read_ogbench(source, **options)


class Minari(Format):
    """Minari's datasets: read in HDF5, Arrow and Parquet, written in HDF5."""

    name = "minari"
    read_options = (_SPLIT,)
    write_options = (Option("dataset_id", str, "Minari's id of the dataset; NAMESPACE/NAME-vMAJOR by default."),)

    def read(self, source: Path, **options: Any) -> "EpisodeSource":
        """Read a dataset's folder; see :func:`~rlhive.data.formats._minari.read_minari`."""
        from rlhive.data.formats._minari import read_minari

        return read_minari(source, **options)

    def write(self, manifest: "Manifest", records: Iterable["EpisodeRecord"], target: Path, **options: Any) -> None:
        """Write a dataset's folder; see :func:`~rlhive.data.formats._minari_writer.write_minari`."""
        from rlhive.data.formats._minari_writer import write_minari

        write_minari(manifest, records, target, **options)


class LeRobot(Format):
    """LeRobot's datasets: v3.0 and v2.1 are read, v3.0 is written."""

    name = "lerobot"
    read_options = (_SPLIT,)
    write_options = (
        Option("fps", int, "Frames per second; the recorded rate or the environment's by default."),
        Option("task", str, "The instruction, for episodes that have none."),
        Option(
            "task_from",
            str,
            "String column or metadata key with the instructions; by default task, instruction or "
            "language_instruction.",
        ),
        Option("state", str, "Column that becomes observation.state; observation by default, none to keep all names."),
        Option("dtype", str, "float32 rounds float64 to what LeRobot's policies take."),
        Option("robot_type", str, "LeRobot's name of the robot; franka by default."),
        Option("video", bool, "Write pictures as LeRobot's videos, AV1 with crf 30, which loses a little."),
    )

    def read(self, source: Path, **options: Any) -> "EpisodeSource":
        """Read a dataset's folder; see :func:`~rlhive.data.formats._lerobot.read_lerobot`."""
        from rlhive.data.formats._lerobot import read_lerobot

        return read_lerobot(source, **options)

    def write(self, manifest: "Manifest", records: Iterable["EpisodeRecord"], target: Path, **options: Any) -> None:
        """Write a dataset's folder; see :func:`~rlhive.data.formats._lerobot_writer.write_lerobot`."""
        from rlhive.data.formats._lerobot_writer import write_lerobot

        write_lerobot(manifest, records, target, **options)

    def is_exported(self, manifest: "Manifest", target: Path, **options: Any) -> bool:
        """Return whether the folder's info.json names this version and these options."""
        from rlhive.data.formats._lerobot_writer import is_written_by_rlhive

        return is_written_by_rlhive(manifest, target, **options)

    @property
    def hub_tag(self) -> str:
        """LeRobot's format version, which is the git tag that its client asks for."""
        from rlhive.data.formats._lerobot_writer import CODEBASE_VERSION

        return CODEBASE_VERSION


class RLDS(Format):
    """RLDS episodes in the TFRecord or Parquet files of TensorFlow Datasets."""

    name = "rlds"
    read_options = (
        Option(
            "last_step",
            str,
            "What the last step of an episode is, if unclear: observation, transition or each.",
            choices=("observation", "transition", "each"),
        ),
        Option("drop", str, "Feature to leave out, observation/wrist_image; repeatable.", repeatable=True),
        Option("split", str, "The only split to read; all by default."),
    )

    def read(self, source: Path, *, progress: bool = False, **options: Any) -> "EpisodeSource":
        """Read a dataset's folder; see :func:`~rlhive.data.formats._rlds.read_rlds`."""
        from rlhive.data.formats._rlds import read_rlds

        return read_rlds(source, progress=progress, **options)
