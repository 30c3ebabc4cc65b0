"""The verbs for formats of other libraries, run as commands against the loopback Hub."""

import inspect
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.environments import VENVS
from rlhive import RoboHiveDataset
from rlhive.cli import _formats
from rlhive.data.formats import BUILT_IN
from rlhive.data.formats._convert import export_to
from rlhive.data.formats._lerobot import read_lerobot
from tests.cli.conftest import TYPE
from tests.cli.test_hub import parsed
from tests.data.formats import make_lerobot
from tests.hub_client import TOKEN, read_files
from tests.hub_server import Repository

LEROBOT = make_lerobot.FILES / "v3.0-image"
IMPORT = ("import", "lerobot", LEROBOT, "lab/frames", "--license", "mit")


@pytest.fixture
def imported(rlhive, store):
    """A dataset in the store that came from LeRobot's own files."""
    described = parsed(rlhive(*IMPORT, "--json"))
    return RoboHiveDataset(store / "lab/frames" / described["version"])


def pushed(rlhive, *words):
    return parsed(rlhive("export-to", "lerobot", "lab/frames", *words, "--push", "org/frames", "--json"))


def content(hub, tag="v3.0"):
    repository = hub.repositories["org/frames"]
    files = dict(repository.commits[repository.tags[tag]])
    del files[".gitattributes"]
    return files


def test_the_notes_are_printed_if_a_library_handles_the_root_logger(online, store):
    """Python's last resort prints warnings only while no logger has a handler."""
    words = ["import", "lerobot", str(LEROBOT), "lab/other", "--license", "mit"]
    handled = "import logging\nhandler = logging.NullHandler()\nlogging.getLogger().addHandler(handler)"
    code = handled + TYPE + "logging.getLogger().removeHandler(handler)"
    status, _, stderr = online.run(code, store=str(store), words=words)
    assert status == 0
    assert stderr.count("the last frame of an episode that was cut off is its final observation") == 1


def test_an_import_prints_the_version_and_the_notes_of_the_reader(rlhive, store):
    described = parsed(rlhive(*IMPORT, "--json"))
    assert (described["name"], described["version"]) == ("lab/frames", "1.0.0")
    assert parsed(rlhive(*IMPORT, "--json")) == described  # nothing differs, so nothing is written
    for version, says in (("1.0.0", "a version is never overwritten"), ("2.0.0", "expected a PATCH step")):
        status, _, stderr = rlhive(*IMPORT, "--version", version)
        assert status == 1
        assert says in " ".join(stderr.split())
    status, stdout, stderr = rlhive("import", "lerobot", LEROBOT, "lab/other", "--license", "mit")
    assert (status, stdout.splitlines()[0]) == (0, "RoboHiveDataset lab/other 1.0.0")
    assert "the last frame of an episode that was cut off is its final observation" in stderr


def test_a_lerobot_dataset_is_published_under_lerobots_tag(hub, rlhive, imported, tmp_path):
    done = pushed(rlhive)
    repository = hub.repositories["org/frames"]
    assert done["target"] is None
    assert done["pushed"] == {
        "repo_id": "org/frames",
        "version": "1.0.0",
        "commit": repository.tags["v3.0"],
        "url": f"{hub.url}/datasets/org/frames/tree/v3.0",
    }
    assert repository.tags == {"v3.0": repository.head}
    target = export_to("lerobot", imported.path, tmp_path / "out", progress=False)
    assert content(hub) == read_files(target)
    assert json.loads(content(hub)["meta/info.json"])["codebase_version"] == "v3.0"
    assert b"- LeRobot\n" in content(hub)["README.md"]
    assert parsed(rlhive("list", "--remote", "--json")) == {}  # it is no dataset that `rlhive pull` could fetch

    hub.requests.clear()
    assert pushed(rlhive) == done  # what is there is done
    assert not [line for line in hub.requests if line.startswith(("PUT", "POST"))]
    status, stdout, _ = rlhive("export-to", "lerobot", "lab/frames", "--push", "org/frames")
    assert (status, stdout.split(": ")[0]) == (0, f"org/frames v3.0 is commit {repository.head[:12]}")


def test_an_interrupted_push_of_a_folder_is_resumed_by_the_same_command(hub, rlhive, imported, tmp_path):
    from tests.hub_server import Fault

    target = tmp_path / "out"
    hub.faults.append(Fault("POST /api/datasets/org/frames/commit", 500, times=9))
    status, _, stderr = rlhive("export-to", "lerobot", "lab/frames", target, "--push", "org/frames")
    assert (status, "still answers 500" in stderr) == (1, True)
    assert (target / "meta/info.json").is_file()
    assert "org/frames" in hub.repositories
    assert not hub.repositories["org/frames"].tags
    hub.faults.clear()

    inode = target.stat().st_ino
    assert pushed(rlhive, target)["target"] == str(target)
    assert target.stat().st_ino == inode  # pushed, not written again
    assert content(hub) == read_files(target)
    status, _, stderr = rlhive("export-to", "lerobot", "lab/frames", target, "--push", "org/frames", "--task", "other")
    assert (status, "expected the path of a new folder" in " ".join(stderr.split())) == (1, True)


def test_the_tag_is_never_moved_and_private_stays_private(hub, rlhive, imported):
    pushed(rlhive)
    before = content(hub)
    status, _, stderr = rlhive("export-to", "lerobot", "lab/frames", "--push", "org/frames", "--task", "other")
    assert status == 1
    assert "a tag is never moved. Push to a repository of its own" in " ".join(stderr.split())
    assert content(hub) == before
    status, _, stderr = rlhive("export-to", "lerobot", "lab/frames", "--push", "org/frames", "--private")
    assert (status, "expected a private repository" in " ".join(stderr.split())) == (1, True)
    parsed(rlhive("export-to", "lerobot", "lab/frames", "--push", "org/hidden", "--private", "--json"))
    assert hub.repositories["org/hidden"].private


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("minari", "lab/frames", "--push", "org/frames"), 1, "Format minari cannot be pushed: expected lerobot"),
        (("lerobot", "lab/frames"), 2, "expected a target folder, or a repository"),
        (("zarr", "lab/frames", "out"), 1, "expected one of minari, lerobot"),
        (("lerobot", "lab/nothing", "out"), 1, "lab/nothing"),
    ],
)
def test_bad_input_is_one_sentence(hub, rlhive, imported, words, status, says):
    ran = rlhive("export-to", *words)
    assert ran[0] == status
    assert says in " ".join(ran[2].replace("│", " ").split())
    assert not hub.repositories


def test_a_read_only_token_is_one_sentence(hub, clients, imported, store):
    from tests.cli.conftest import TYPE

    hub.tokens[TOKEN] = "read"
    client = clients.start(hub.url)
    words = ["export-to", "lerobot", "lab/frames", "--push", "org/frames"]
    status, _, stderr = client.run(TYPE, store=str(store), words=words)
    assert status == 1
    assert "may not do this" in stderr
    assert TOKEN not in stderr


def test_a_published_dataset_is_imported_by_its_tag(hub, rlhive, imported, online, tmp_path):
    pushed(rlhive)
    fetch = (
        "from huggingface_hub import snapshot_download\nanswer = snapshot_download(repo, repo_type='dataset', **more)"
    )
    folder = online.run(fetch, repo="org/frames", more={"revision": "v3.0", "local_dir": str(tmp_path / "back")})
    records = list(read_lerobot(Path(folder)).records())
    ours = imported.as_tensordict()
    assert sum(record.length for record in records) == len(ours)
    actions = np.concatenate([record.columns["action"] for record in records])
    np.testing.assert_array_equal(actions, ours["action"].numpy())
    last = np.concatenate([record.final["observation"][None] for record in records])
    ends = ours["next", "done"].flatten()
    np.testing.assert_array_equal(last, ours["next", "observation"][ends].numpy())


@pytest.mark.slow
@pytest.mark.skipif(
    not (VENVS / "lerobot").exists(),
    reason="needs LeRobot's environment: python -m benchmarks.peers.environments lerobot",
)
def test_lerobots_client_loads_a_published_dataset(hub, rlhive, imported, tmp_path):
    pushed(rlhive)
    command = [VENVS / "lerobot/bin/python", make_lerobot.__file__, "pull", "org/frames", str(tmp_path / "theirs")]
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    clean |= {"HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=clean)
    assert ran.returncode == 0, ran.stderr[-3000:]
    frames = json.loads(ran.stdout)["frames"]
    assert len(frames) == len(imported.as_tensordict())
    actions = np.array([frame["action"] for frame in frames], np.float32)
    np.testing.assert_array_equal(actions, imported.as_tensordict()["action"].numpy())


def test_the_shell_completes_the_formats():
    assert list(_formats._complete_readable("")) == list(BUILT_IN)
    assert list(_formats._complete_writable("")) == ["minari", "lerobot"]
    assert list(_formats._complete_readable("r")) == ["roboset", "rlds", "robomimic"]


def test_every_declared_option_is_a_command_line_option():
    for verb, declared in ((_formats.import_, "read_options"), (_formats.export_to, "write_options")):
        parameters = inspect.signature(verb).parameters
        for item in BUILT_IN.values():
            for option in getattr(item, declared):
                assert option.name in parameters
                (info,) = parameters[option.name].annotation.__metadata__
                assert option.help in info.help
                assert item.name in info.help
                assert option.value_type.__name__ in str(parameters[option.name].annotation)


def test_the_common_options_of_an_import_are_options_of_the_command(tmp_path, monkeypatch):
    from tests.cli.conftest import invoke
    from tests.data.formats.odd_sources import minari_episode, write_minari

    monkeypatch.setenv("RLHIVE_DATASETS_PATH", str(tmp_path / "store"))
    source = write_minari(tmp_path / "m", [minari_episode(**{"infos/a": np.arange(3), "infos/b": np.arange(3)})] * 3)
    words = ["import", "minari", source, "lab/odd", "--license", "mit", "--skip-episode", "0", "--skip-episode", "2"]
    words += ["--on-nan", "keep", "--drop", "info.b", "--rename", "info.a=joint", "rewards=x"]
    ran = invoke(*words)
    assert ran.exit_code == 1
    assert "rename='rewards': nearest next.reward" in " ".join(ran.stderr.split())
    ran = invoke(*words[:-1])
    assert ran.exit_code == 0, ran.output
    dataset = RoboHiveDataset("lab/odd", store=tmp_path / "store", generate=False)
    assert dataset.episodes["episode"].to_pylist() == [1]
    assert {"joint", "info.b"} & set(dataset.manifest.schema.columns) == {"joint"}
    for words, says in ((["--rename", "a"], "expected NAME=COLUMN"), (["--on-nan", "x"], "expected one of keep, skip")):
        ran = invoke("import", "minari", source, "lab/other", "--license", "mit", *words)
        assert ran.exit_code in (1, 2)
        assert says in " ".join((ran.stderr + ran.output).replace("│", " ").split())


def test_rename_takes_the_pairs_that_follow_it():
    from typer.testing import CliRunner

    from rlhive.cli import app

    for words in (["--rename", "a=b", "c=d", "minari"], ["minari", "--rename", "a=b", "--rename", "c=d"]):
        ran = CliRunner().invoke(app, ["import", *words, "no-such-source", "lab/x", "--license", "mit"])
        assert ran.exit_code == 1
        assert "no-such-source: expected a Minari dataset" in " ".join(ran.stderr.split())


OPEN = """
from pathlib import Path
from rlhive.dataset import RoboHiveDataset
dataset = RoboHiveDataset("lerobot:lab/frames", store=Path(store), **options)
answer = dataset.name, dataset.version, dataset.manifest.description, dataset.manifest.license, len(dataset)
"""


def test_a_repository_is_opened_pinned_to_a_commit(hub, online, store):
    files = read_files(make_lerobot.FILES / "v3.0-video") | {
        "README.md": b"---\nlicense: apache-2.0\n---\n",
        "other/large.bin": b"x",
    }
    repository = hub.repositories["lab/frames"] = Repository()
    first = repository.commit(files)
    opened = online.run(OPEN, store=str(store), options={"reward": "sparse"})
    name, version, description, license, length = opened
    assert (version, license, length) == (
        "1.0.0",
        "apache-2.0",
        sum(make_lerobot.LENGTHS) - make_lerobot.SOLVED.count(False),
    )
    assert description == f"Imported by RLHive from lab/frames@{first}."
    assert not any("large.bin" in line for line in hub.requests)
    second = repository.commit(read_files(make_lerobot.FILES / "v3.0-image"))
    assert online.run(OPEN, store=str(store), options={"reward": "sparse"})[:2] == (name, "2.0.0")
    assert online.run(OPEN, store=str(store), options={"reward": "sparse", "revision": first}) == opened
    assert second != first
