"""A version is published on the Hub, completed and checked before."""

from typing import TYPE_CHECKING

from rlhive.data import hub  # whose parts that speak to the Hub are imported when they are used
from rlhive.dataset._view import DatasetView
from rlhive.errors import InvalidNameError, UnsavedViewError
from rlhive.rollouts import check

if TYPE_CHECKING:
    from rlhive.data.hub import PublishedVersion


def push_view(
    view: DatasetView, repo_id: str, *, private: bool, license: str | None, unrelated: bool, progress: bool
) -> "PublishedVersion":
    """Publish a version; see :meth:`rlhive.RoboHiveDataset.push_to_hub`."""
    manifest = view.manifest
    if view.selection is not None:
        msg = (
            f"{manifest.name} {manifest.version}: expected a version, got a view of it ({view.operations[-1]}). "
            "Save it first: save()"
        )
        raise UnsavedViewError(msg)
    hub.fetch_missing_files(view.folder, manifest, manifest.files, progress=progress)
    return hub.push(
        view.folder,
        repo_id or _require_own_name(view),
        check=check,
        private=private,
        license=license,
        unrelated=unrelated,
        progress=progress,
    )


def _require_own_name(view: DatasetView) -> str:
    """Return the name of the repository that the version was pulled from, or of the folder in which it lies.

    Raises:
        InvalidNameError: The name comes from the manifest alone.
    """
    name, version = view.manifest.name, view.manifest.version
    if hub.HubPin.read(view.folder) is None and view.folder.resolve().parts[-3:] != (*name.split("/"), version):
        msg = (
            f"{view.folder}: expected a repository to push to, since only its manifest says that it is {name} "
            f"{version}. Name one: push_to_hub('YOUR-NAME/{name.split('/')[-1]}')"
        )
        raise InvalidNameError(msg)
    return name
