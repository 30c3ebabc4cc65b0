"""`rlhive setup`: the packages that it installs, its lock, its report and the errors of what is missing."""

import importlib.util
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from rlhive.envs import _assets, _install
from rlhive.errors import RoboHiveMissingError, SetupFailedError
from tests.envs.asset_trees import TREE, content, installed, leftovers, serve, wheel, write


def test_a_folder_without_assets_is_refused_before_anything_happens(tmp_path, monkeypatch):
    monkeypatch.setattr(_install, "_install_robohive", lambda: pytest.fail("it went on"))
    with pytest.raises(SetupFailedError, match=r"No simulation assets in .*nowhere"):
        _install.setup(tmp_path / "nowhere")


def test_two_setups_at_once_do_not_break_each_other(package, index, tmp_path):
    code = f"""
    import sys, time
    from rlhive.envs import _assets, _install
    sys.prefix = {str(tmp_path)!r}
    _assets.ASSETS_WHEEL_SHA256 = {_assets.ASSETS_WHEEL_SHA256!r}
    _assets.KNOWN_TREES = {_assets.KNOWN_TREES!r}
    _install._install_robohive = lambda: ()
    _install.package_folder = lambda: _assets.Path({str(package)!r})
    _install._probe_families = lambda record: (0, ())
    original = _assets._swap_in
    def slow(*arguments):
        time.sleep(0.5)
        original(*arguments)
        print("swapped")
    _assets._swap_in = slow
    print(_install.setup(progress=False).assets.source)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    output = sorted(process.communicate()[0] for process in both)
    assert output == ["pypi\n", "swapped\npypi\n"]
    assert content(package / "simhive") == installed(TREE)
    assert leftovers(package) == []


def test_the_requirements_of_the_extra_are_read_from_the_metadata(tmp_path, monkeypatch):
    from importlib.metadata import version

    lines = [
        f"numpy=={version('numpy')}",
        "numpy<1",
        "tqdm>=99 ; extra == 'robohive'",
        "a-package-that-is-not-there>=2,<3 ; extra == 'robohive'",
        "another-one ; extra == 'dev'",
        "a-third ; python_version < '3'",
    ]
    metadata = "Metadata-Version: 2.1\nName: tiny\nVersion: 1\nProvides-Extra: robohive\nProvides-Extra: dev\n"
    metadata += "".join(f"Requires-Dist: {line}\n" for line in lines)
    write(tmp_path, {"tiny-1.dist-info/METADATA": metadata.encode()})
    monkeypatch.syspath_prepend(str(tmp_path))
    assert _install._find_unsatisfied("tiny") == ["numpy<1", "tqdm>=99", "a-package-that-is-not-there<3,>=2"]


def test_a_python_without_wheels_of_mujoco_is_refused_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(_install, "_find_unsatisfied", lambda name: ["mujoco==3.1.3"])
    monkeypatch.setattr(_install, "installed_version", lambda name: None)
    monkeypatch.setattr(_install, "_install_packages", lambda arguments: pytest.fail("it went on"))
    monkeypatch.setattr(_install, "NO_WHEELS_FROM", sys.version_info[:2])

    with pytest.raises(SetupFailedError, match=r"mujoco 3\.1\.3 that it needs has wheels for 3\.11 and 3\.12 only"):
        _install._install_robohive()


def test_another_version_of_robohive_is_replaced_by_the_right_one(tmp_path, monkeypatch):
    """In an environment of its own that sees this one's packages, so that only robohive is to be installed."""
    wheel(tmp_path / "index", "0.7.0", {"robohive/__init__.py": b"__version__ = '0.7.0'\n"})
    old = wheel(tmp_path / "old", "0.6.0", {"robohive/__init__.py": b"", "robohive/gone.py": b""})
    target = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(target)], check=True)
    site = target / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    with zipfile.ZipFile(old) as archive:
        archive.extractall(site)
    package_origins = [importlib.util.find_spec(name).origin for name in ("pip", "rlhive")]
    (site / "here.pth").write_text("".join(f"{Path(origin).parent.parent}\n" for origin in package_origins))
    code = "from rlhive.envs import _install; print(_install._install_robohive(), _install.package_folder())"
    serve(monkeypatch, tmp_path / "index")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # without uv
    monkeypatch.delenv("UV", raising=False)
    python = str(target / "bin" / "python")
    for expected in ("('robohive==0.7.0',)", "()"):
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == f"{expected} {site / 'robohive'}"
    assert not (site / "robohive" / "gone.py").exists()
    assert (site / "robohive-0.7.0.dist-info").is_dir()


def test_a_package_that_cannot_be_installed_is_an_error_in_one_sentence(monkeypatch, tmp_path):
    serve(monkeypatch, tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("UV", raising=False)
    with pytest.raises(SetupFailedError, match=r"a-package-that-is-not-there could not be installed: ERROR.*network"):
        _install._install_packages(["a-package-that-is-not-there"])


def test_missing_parts_are_named_with_the_command_that_installs_them(monkeypatch, package):
    _install.require_robohive()
    with monkeypatch.context() as without:
        without.setattr(_install, "package_folder", lambda: package)
        with pytest.raises(RoboHiveMissingError, match=r"no simulation assets.*rlhive setup"):
            _install.require_robohive()
    find_spec = importlib.util.find_spec
    for name, command in (("robohive", "Type: rlhive setup"), ("mujoco", r"pip install 'rlhive\[robohive\]'")):
        with monkeypatch.context() as without:
            without.setattr(
                importlib.util, "find_spec", lambda n, *a, gone=name: None if n == gone else find_spec(n, *a)
            )
            with pytest.raises(RoboHiveMissingError, match=command):
                _install.require_robohive()


def test_importing_the_module_loads_neither_robohive_nor_torch():
    code = "import sys, rlhive.envs._install; print([n for n in ('robohive', 'mujoco', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_repeated_setup_changes_nothing_and_reports_the_families():
    simhive = _install.package_folder() / "simhive"
    before = simhive.stat().st_ino
    report = _install.setup(progress=False)
    assert report.installed == ()
    assert report.robohive_version == "0.7.0"
    assert report.observation_size == 75
    assert simhive.stat().st_ino == before
    available = {family.env_name: family.available for family in report.families}
    assert available["FK1_Knob1OnRandom-v4"]
    assert available["FrankaReachRandom-v0"]
    if report.assets.source == "pypi":
        assert not available["DKittyWalkRandom-v0"]
        assert "no  D'Kitty: needs rlhive setup --assets git" in str(report)
    assert os.linesep not in report.families[0].name
