"""Installation of tiny asset trees from wheels, folders and repositories, with pip and git themselves."""

import ast
import errno
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from rlhive.envs import _assets
from rlhive.errors import AssetsCorruptError, DiskFullError, SetupFailedError
from tests.envs.asset_trees import OTHER_TREE, TREE, content, installed, leftovers, serve, write


def place(package: Path, source="pypi") -> _assets.AssetsRecord:
    return _assets.install_assets(package, source, progress=False)


def test_the_tree_hash_sees_every_name_and_every_byte(tmp_path):
    tree = write(tmp_path / "tree", TREE)
    first = _assets.tree_hash(tree)
    lines = "".join(f"{name}\0{hashlib.sha256(TREE[name]).hexdigest()}\n" for name in sorted(TREE))
    assert first == hashlib.sha256(lines.encode()).hexdigest()
    write(tree, {"furniture_sim/.git/HEAD": b"x", "simhive-version": b"0.7.0"})
    assert _assets.tree_hash(tree) == first
    (tree / "furniture_sim/oven.xml").write_bytes(b"<mujoco >")
    changed = _assets.tree_hash(tree)
    (tree / "furniture_sim/oven.xml").rename(tree / "furniture_sim/stove.xml")
    assert len({first, changed, _assets.tree_hash(tree)}) == 3


def test_assets_come_from_the_package_index(package, index, capfd):
    record = _assets.install_assets(package, "pypi", progress=True)
    assert content(package / "simhive") == installed(TREE)
    assert (record.source, record.known) == ("pypi", True)
    assert record.tree_hash in _assets.KNOWN_TREES
    assert leftovers(package) == []
    bars = capfd.readouterr().err
    assert "download assets: 100%" in bars
    assert "unpack assets: 100%" in bars


def test_an_intact_tree_is_not_changed(package, index, monkeypatch, tmp_path):
    place(package)
    before = (package / "simhive").stat().st_ino
    serve(monkeypatch, tmp_path / "nothing")
    assert place(package).source == "pypi"
    # A tree without RLHive's record counts as well when its hash is a known one.
    (package / "simhive" / "rlhive-assets.json").unlink()
    assert place(package).source == "pypi"
    assert (package / "simhive").stat().st_ino == before


@pytest.mark.parametrize("damage", ["byte", "missing", "extra", "version"])
def test_a_damaged_tree_is_replaced(package, folder, damage):
    place(package, folder)
    oven = package / "simhive" / "furniture_sim" / "oven.xml"
    if damage == "byte":
        oven.write_bytes(b"<mujocO/>")
    elif damage == "missing":
        oven.unlink()
    elif damage == "extra":
        oven.with_name("extra.xml").write_bytes(b"")
    else:
        (package / "simhive" / "simhive-version").write_text("0.7.0\n")
    place(package, folder)
    assert content(package / "simhive") == installed(TREE)
    assert leftovers(package) == []


def test_a_tree_of_unknown_origin_is_kept_beside_the_new_one(package, folder):
    for _ in range(2):
        shutil.rmtree(package / "simhive", ignore_errors=True)
        write(package / "simhive", {"my.xml": b"mine", "simhive-version": b"0.7.0"})
        place(package, folder)
    assert content(package / "simhive") == installed(TREE)
    assert leftovers(package) == ["simhive.replaced", "simhive.replaced-1"]
    assert (package / "simhive.replaced" / "my.xml").read_bytes() == b"mine"


def test_a_wheel_with_another_hash_is_refused(package, index, monkeypatch):
    place(package)
    (package / "simhive" / "franka_sim" / "panda.xml").unlink()
    monkeypatch.setattr(_assets, "ASSETS_WHEEL_SHA256", "0" * 64)
    with pytest.raises(AssetsCorruptError, match="expected sha256 0000"):
        place(package)
    assert leftovers(package) == []
    assert "franka_sim/panda.xml" not in content(package / "simhive")


def test_a_tree_with_another_hash_is_refused(package, index, monkeypatch):
    monkeypatch.setattr(_assets, "KNOWN_TREES", {"0" * 64: "pypi"})
    with pytest.raises(AssetsCorruptError, match="tree hash"):
        place(package)
    assert not (package / "simhive").exists()
    assert leftovers(package) == []


def test_a_missing_network_is_an_error_in_one_sentence(package, index, monkeypatch, tmp_path):
    serve(monkeypatch, tmp_path / "nothing")
    with pytest.raises(SetupFailedError, match=r"robohive==0.5.0.*Check the network.*--assets DIR") as caught:
        place(package)
    assert "\n" not in str(caught.value)
    assert not (package / "simhive").exists()
    assert leftovers(package) == []


def test_an_interrupt_ends_the_download_at_once(package, monkeypatch, tmp_path):
    slow, pid = tmp_path / "slow", tmp_path / "pid"
    slow.write_text(f"#!/bin/sh\necho $$ > {pid}\necho Progress 1 of 2\nexec sleep 20\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    monkeypatch.setattr(tqdm, "update", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        place(package)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.fixture
def folder(tmp_path):
    """A source that is quicker than pip, for what happens after the fetch."""
    return write(tmp_path / "source", TREE)


def test_an_interrupted_download_leaves_nothing_and_can_be_repeated(package, index, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(tqdm, "update", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            place(package)
    assert not (package / "simhive").exists()
    assert leftovers(package) == []
    place(package)
    assert content(package / "simhive") == installed(TREE)


STEPS = ["fetch", "first file", "second file", "hash", "record", "sync", "move old", "move new", "remove old"]


def break_at(monkeypatch, step, error):
    """Make one step of an installation raise."""
    calls = {"write": 0, "rename": 0}

    def failing(*_, **__):
        raise error

    if step == "fetch":
        monkeypatch.setattr(_assets, "_fetch", failing)
    elif step in ("first file", "second file"):
        original, last = _assets._write_blocks, STEPS.index(step)

        def write_some(*arguments):
            calls["write"] += 1
            if calls["write"] == last:
                arguments[1].parent.mkdir(parents=True, exist_ok=True)
                arguments[1].write_bytes(b"half")
                raise error
            original(*arguments)

        monkeypatch.setattr(_assets, "_write_blocks", write_some)
    elif step == "hash":
        original_hash = _assets.tree_hash
        monkeypatch.setattr(
            _assets, "tree_hash", lambda path: failing() if "partial" in str(path) else original_hash(path)
        )
    elif step == "record":
        monkeypatch.setattr(_assets, "asdict", failing)
    elif step == "sync":
        monkeypatch.setattr(_assets.os, "sync", failing)
    elif step == "remove old":
        original_remove = shutil.rmtree
        monkeypatch.setattr(
            _assets.shutil,
            "rmtree",
            lambda path, **kwargs: failing() if path.name == "simhive.old" else original_remove(path, **kwargs),
        )
    else:
        original_rename, last = Path.rename, {"move old": 1, "move new": 2}[step]

        def rename_some(self, target):
            calls["rename"] += 1
            if calls["rename"] == last:
                raise error
            return original_rename(self, target)

        monkeypatch.setattr(Path, "rename", rename_some)


@pytest.mark.parametrize("killed", [False, True], ids=["interrupted", "killed"])
@pytest.mark.parametrize("step", STEPS)
def test_an_interruption_anywhere_leaves_old_or_new_and_can_be_repeated(package, folder, monkeypatch, step, killed):
    place(package, folder)
    (package / "simhive" / "furniture_sim" / "oven.xml").unlink()
    damaged = content(package / "simhive")
    with monkeypatch.context() as broken:
        break_at(broken, step, KeyboardInterrupt())
        if killed and step != "remove old":  # a killed process tidies nothing up
            broken.setattr(_assets.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            place(package, folder)
    if (package / "simhive").exists():
        assert content(package / "simhive") in (damaged, installed(TREE))
    else:
        assert content(package / "simhive.old") == damaged
    place(package, folder)
    assert content(package / "simhive") == installed(TREE)
    assert leftovers(package) == []


def test_the_old_tree_is_restored_if_the_new_one_is_never_fetched(package, folder, monkeypatch, tmp_path):
    unknown_tree = write(package / "simhive", {"my.xml": b"mine"})
    with monkeypatch.context() as broken:
        break_at(broken, "move new", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            place(package, folder)
    assert not unknown_tree.exists()
    with monkeypatch.context() as broken:
        break_at(broken, "fetch", SetupFailedError("no network"))
        with pytest.raises(SetupFailedError):
            place(package, folder)
    assert content(unknown_tree) == {"my.xml": b"mine"}
    assert leftovers(package) == []


def test_a_first_installation_that_was_interrupted_leaves_nothing(package, folder, monkeypatch):
    with monkeypatch.context() as broken:
        break_at(broken, "second file", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            place(package, folder)
    assert not (package / "simhive").exists()
    assert leftovers(package) == []


def test_a_full_disk_and_a_folder_without_write_access_are_named(package, folder, monkeypatch):
    with monkeypatch.context() as broken:
        break_at(broken, "second file", OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(DiskFullError, match="No space left for the assets in"):
            place(package, folder)
    with monkeypatch.context() as broken:
        break_at(broken, "move new", PermissionError(errno.EACCES, "Permission denied"))
        write(package / "simhive", {"my.xml": b"mine"})
        with pytest.raises(SetupFailedError, match=r"could not be written.*Permission denied"):
            place(package, folder)
    place(package, folder)
    assert content(package / "simhive") == installed(TREE)
    assert leftovers(package) == ["simhive.replaced"]


GIT_TREE = {"furniture_sim/pinned.xml": b"<furniture_sim/>", "myo_sim/pinned.xml": b"<myo_sim/>"}


@pytest.fixture
def repositories(tmp_path, monkeypatch):
    """Two repositories, pinned at the first of their two commits."""

    def git(folder, *arguments):
        identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    table = {}
    for name in ("furniture_sim", "myo_sim"):
        folder = tmp_path / "remote" / name
        write(folder, {"pinned.xml": f"<{name}/>".encode()})
        git(folder, "init", "--quiet")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", "one")
        table[name] = (f"file://{folder}", git(folder, "rev-parse", "HEAD"))
        write(folder, {"pinned.xml": b"newer"})
        git(folder, "commit", "--quiet", "-am", "two")
    monkeypatch.setattr(_assets, "REPOSITORIES", table)
    git_hash = _assets.tree_hash(write(tmp_path / "pinned", GIT_TREE))
    monkeypatch.setattr(_assets, "KNOWN_TREES", {**_assets.KNOWN_TREES, git_hash: "git"})
    return table


def test_assets_come_from_git_at_the_pinned_commits(package, index, repositories):
    place(package)
    record = place(package, "git")
    assert content(package / "simhive") == installed(GIT_TREE)
    assert (record.source, record.known) == ("git", True)
    assert not list((package / "simhive").rglob(".git"))
    assert leftovers(package) == []
    # The default is content with what is intact; git holds more than the wheel.
    before = (package / "simhive").stat().st_ino
    assert place(package).source == place(package, "git").source == "git"
    assert (package / "simhive").stat().st_ino == before


def test_a_clone_with_another_hash_is_refused(package, repositories, monkeypatch):
    monkeypatch.setattr(_assets, "KNOWN_TREES", {})
    with pytest.raises(AssetsCorruptError, match="cloned with git are damaged: expected a known tree hash"):
        place(package, "git")
    assert not (package / "simhive").exists()


def test_a_folder_with_a_known_tree_counts_as_its_source(package, repositories, tmp_path):
    record = place(package, write(tmp_path / "mine", GIT_TREE))
    assert (record.source, record.known) == ("git", True)
    repositories["myo_sim"] = ("file:///nowhere", "0" * 40)
    assert place(package, "git") == place(package) == record


def test_a_commit_that_the_repository_lacks_leaves_nothing(package, repositories):
    repositories["myo_sim"] = (repositories["myo_sim"][0], "0" * 40)
    with pytest.raises(SetupFailedError, match="myo_sim"):
        place(package, "git")
    assert not (package / "simhive").exists()
    assert leftovers(package) == []


def test_a_checkout_of_another_commit_is_refused(package, repositories, monkeypatch):
    git = _assets._git
    monkeypatch.setattr(_assets, "_git", lambda at, *words: "f" * 40 if words[0] == "rev-parse" else git(at, *words))
    with pytest.raises(AssetsCorruptError, match=r"expected commit [0-9a-f]{40}, got ffff"):
        place(package, "git")
    assert not (package / "simhive").exists()


def test_a_tree_of_robohive_init_counts_as_git(package, repositories):
    for name, (url, commit) in repositories.items():
        folder = package / "simhive" / name
        subprocess.run(["git", "clone", "--quiet", url, str(folder)], check=True)
        subprocess.run(["git", "-C", str(folder), "checkout", "--quiet", commit], check=True, capture_output=True)
    (package / "simhive" / "simhive-version").write_text("0.7.0")
    assert _assets.verify_assets(package / "simhive").source == "git"
    (package / "simhive" / "myo_sim" / "pinned.xml").write_text("touched")
    assert _assets.verify_assets(package / "simhive") is None


@pytest.mark.parametrize("inside", ["", "simhive", "robohive/simhive"])
def test_assets_come_from_a_folder(package, tmp_path, inside):
    source = write(tmp_path / "mine" / inside, OTHER_TREE)
    record = place(package, tmp_path / "mine")
    assert content(package / "simhive") == installed(OTHER_TREE)
    assert (record.source, record.known) == (str(source), False)
    before = (package / "simhive").stat().st_ino
    place(package, tmp_path / "mine")
    assert (package / "simhive").stat().st_ino == before
    write(source, {"myo_sim/hand.xml": b"new"})
    place(package, tmp_path / "mine")
    assert content(package / "simhive")["myo_sim/hand.xml"] == b"new"
    assert leftovers(package) == []


def test_the_table_of_repositories_is_robohives_own():
    spec = importlib.util.find_spec("robohive_init")
    calls = [node for node in ast.walk(ast.parse(Path(spec.origin).read_text())) if isinstance(node, ast.Call)]
    repositories = {}
    for call in calls:
        if getattr(call.func, "id", "") == "fetch_git":
            words = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
            repositories[words["clone_directory"]] = (words["repo_url"], words["commit_hash"])
    assert repositories == _assets.REPOSITORIES
