"""What a manifest says about a dataset in sentences, for the Croissant file and the datasheet alike.

A manifest can come from anyone: values of an unexpected type are left out.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from rlhive.data._schema import find_unrecorded
from rlhive.data.versions import Manifest

_HUB = "https://huggingface.co"
#: Packages that compute what is recorded.
_TOOLS = ("rlhive", "robohive", "mujoco")
_SIMULATORS = ("robohive", "mujoco")
_MAX_TEXT = 2_000

MAINTENANCE = (
    "A version never changes: its files are verified by SHA-256, and its tag on the Hub is never moved. Corrections "
    "are versions of their own. MAJOR: records or splits changed. MINOR: columns were added. PATCH: the description or "
    "the encoding changed."
)


@dataclass(frozen=True)
class Address:
    """Where a version is published.

    Attributes:
        page: Page of the dataset on the Hub.
        tag: Tag of the version.
        is_published: Whether files are named by their address on the Hub, and not relative to the Croissant file.
    """

    page: str
    tag: str
    is_published: bool = False

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> "Address":
        """Return the address that a push to the dataset's own name gives."""
        return cls(f"{_HUB}/datasets/{manifest.name}", f"v{manifest.version}")

    def locate(self, path: str) -> str:
        """Return the address of a file of the version."""
        return f"{self.page}/resolve/{self.tag}/{path}" if self.is_published else path


def spdx_license(license: str) -> str:
    """Return the SPDX id of a licence of the Hub; ``LicenseRef-…``, as SPDX has it, for one that is not in its list."""
    try:
        return canonicalize_license_expression(license)
    except InvalidLicenseExpression:
        return "LicenseRef-" + (re.sub(r"[^A-Za-z0-9.]+", "-", license)[:64].strip("-") or "unknown")


def describe_collection(manifest: Manifest) -> str:
    """Return how the episodes were recorded, in one or two sentences."""
    policies = sorted({name for run in manifest.runs for name in _to_mapping(run.get("policies"))})
    simulated = is_simulated(manifest)
    place = f" in the {'simulated ' if simulated else ''}environment {manifest.env_name}" if manifest.env_name else ""
    runs = f", in {len(manifest.runs)} recording runs" if manifest.runs else ""
    counts = f"{manifest.num_episodes} episodes ({manifest.num_transitions} transitions)"
    sentences = [f"{counts} were recorded{place}{runs}."]
    if policies:
        sentences.append(f"They were acted by the policies {', '.join(policies)}, whose parameters rlhive.json holds.")
    return " ".join(sentences)[:_MAX_TEXT]


def is_simulated(manifest: Manifest) -> bool:
    """Whether every run says that its environment ran in a simulator; False where one does not say so."""
    return bool(manifest.runs) and all(
        any(name in _to_mapping(_to_mapping(run.get("env")).get("versions")) for name in _SIMULATORS)
        for run in manifest.runs
    )


def list_tools(manifest: Manifest) -> list[str]:
    """Return the packages that the recording runs name, each with its version."""
    tools: dict[str, None] = {}
    for run in manifest.runs:
        versions = {**_to_mapping(run.get("versions")), **_to_mapping(_to_mapping(run.get("env")).get("versions"))}
        tools.update((f"{name} {versions[name]}"[:80], None) for name in _TOOLS if isinstance(versions.get(name), str))
    return sorted(tools)


def find_timeframe(manifest: Manifest) -> tuple[str, str] | None:
    """Return when the first and the last recording run started, ISO 8601; None where it was not recorded."""
    times = sorted(time for run in manifest.runs if (time := _parse_timestamp(run.get("started"))) is not None)
    return (times[0].isoformat(), times[-1].isoformat()) if times else None


def describe_missing(manifest: Manifest) -> str:
    """Return what was not recorded."""
    unrecorded = find_unrecorded(manifest.schema)
    if unrecorded:
        return f"Not recorded: {', '.join(unrecorded)}. Every other column has a value in every transition."
    return "None: every column has a value in every transition."


def list_processing(manifest: Manifest) -> list[str]:
    """Return the versions that this one is derived from, with the operations; empty for recorded data."""
    return list(_describe_parents(manifest))


def _describe_parents(manifest: Manifest) -> Iterator[str]:
    for parent in manifest.parents:
        name = " ".join(str(parent[key]) for key in ("name", "version") if key in parent) or "a version without a name"
        operations = parent.get("operations")
        texts = [str(operation) for operation in operations] if isinstance(operations, list) else []
        yield f"Derived from {name}" + (f" by {'; '.join(texts)}" if texts else "")[:_MAX_TEXT]


def cite(manifest: Manifest, address: Address) -> str:
    """Return a BibTeX entry of the version."""
    owner, name = manifest.name.split("/")
    key = re.sub(r"[^A-Za-z0-9]", "_", f"{owner}_{name}_{manifest.version}")
    return (
        f"@misc{{{key}, author = {{{{{owner}}}}}, title = {{{{{name}}}, version {manifest.version}}}, "
        f"year = {{{(created_date(manifest) or 'unknown')[:4]}}}, howpublished = {{\\url{{{address.page}}}}}, "
        f"note = {{content {manifest.fingerprint[:16]}}}}}"
    )


def created_date(manifest: Manifest) -> str | None:
    """Return the day on which the version was made, ISO 8601; None where the manifest holds no time."""
    time = _parse_timestamp(manifest.created)
    return None if time is None else time.date().isoformat()


def _parse_timestamp(value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _to_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
