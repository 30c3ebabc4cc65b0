"""Small asset trees and wheels of robohive for the tests of the setup."""

import base64
import hashlib
import zipfile
from pathlib import Path

TREE = {
    "furniture_sim/oven.xml": b"<mujoco/>",
    "furniture_sim/meshes/knob.stl": bytes(range(256)) * 40,
    "franka_sim/panda.xml": b"<mujoco model='panda'/>",
}
OTHER_TREE = {**TREE, "myo_sim/hand.xml": b"<mujoco model='hand'/>"}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """All files of an installed tree but RLHive's record, git's own left out."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    contents.pop("rlhive-assets.json", None)
    return contents


def installed(tree: dict[str, bytes]) -> dict[str, bytes]:
    return {**tree, "simhive-version": b"0.7.0"}


def wheel(folder: Path, version: str, files: dict[str, bytes]) -> Path:
    """Write a wheel that pip accepts."""
    info = f"robohive-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: robohive\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(data)}\n")
    folder.mkdir(exist_ok=True)
    path = folder / f"robohive-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", "".join(rows) + f"{info}/RECORD,,\n")
    return path


def serve(monkeypatch, folder: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def leftovers(package: Path) -> list[str]:
    return sorted(path.name for path in package.iterdir() if path.name not in ("__init__.py", "simhive"))
