"""Release of a version that is looked up by name: completed from the Hub, then described in a folder beside it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from rlhive.data import hub  # whose parts that speak to the Hub are imported when they are used
from rlhive.data.release import write_release
from rlhive.data.versions import Manifest
from rlhive.dataset import _lookup


def release(
    name: str | Path,
    answers: Mapping[str, str] | Path | None = None,
    *,
    version: str | None = None,
    ask: Callable[[str, str], str] | None = None,
    store: Path | None = None,
) -> Path:
    """Describe a version as a conference asks: Croissant, datasheet and checksums, in ``<version>.release``.

    The manifest gives what it holds. A person gives three answers, which are kept: ``intended_use``, ``limitations``
    and ``personal_information``. A push publishes the release with the version. The version itself is not touched.

    Args:
        name: Dataset name, or the path of a version's folder.
        answers: Answers by name, or the path of a YAML file of them. What is missing is taken from the release that is
            replaced, or else from that of an earlier version.
        version: MAJOR.MINOR.PATCH; the newest by default.
        ask: Function of the name of an answer and its question, which is called for what is missing then.
        store: Folder of all datasets.

    Returns:
        Folder of the release: its files, and the files of the version as hard links.

    Raises:
        InvalidOptionError: An answer is missing. Nothing was written.
        DatasetNotFoundError: No such dataset or version.
        CorruptDatasetError: A file is not what the manifest recorded.
        CheckFailedError: mlcroissant, where it is installed, finds an error in the description.

    Example:
        >>> release("my/knob", Path("answers.yaml"))  # doctest: +SKIP
        PosixPath('/home/me/.rlhive/datasets/my/knob/1.0.0.release')
    """
    folder = _lookup.find_version(name, version=version, generate=False, store=store)
    manifest = Manifest.read(folder)
    hub.fetch_missing_files(folder, manifest, manifest.files)
    return write_release(folder, answers, ask=ask)
