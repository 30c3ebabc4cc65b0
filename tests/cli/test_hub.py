"""The verbs that move versions, run as commands against the loopback Hub."""

import json

import pytest

from rlhive.data.versions._export import export
from tests.data.strategies import records
from tests.hub_client import read_files


def parsed(ran):
    status, shown, stderr = ran
    assert status == 0, stderr
    return json.loads(shown)


def test_push_versions_pull_and_delete(hub, two_versions, rlhive, store):
    origin = two_versions["1.0.0"].parents[2]
    for version in two_versions:
        done = parsed(rlhive("push", "org/knob", "--version", version, "--json", at=origin))
        assert done == {
            "repo_id": "org/knob",
            "version": version,
            "commit": hub.repositories["org/knob"].tags[f"v{version}"],
            "url": f"{hub.url}/datasets/org/knob/tree/v{version}",
        }
    status, _, stderr = rlhive("push", "org/knob", "knob", at=origin)
    assert (status, "expected a repository as org/name, got no org" in stderr) == (1, True)
    tags = hub.repositories["org/knob"].tags
    remote = {version: {"path": None, "commit": tags[f"v{version}"]} for version in two_versions}
    assert parsed(rlhive("versions", "org/knob", "--json")) == remote

    described = parsed(rlhive("pull", "org/knob", "--version", "1.0.0", "--split", "b", "--json"))
    assert (described["version"], list(described["splits"])) == ("1.0.0", ["b"])
    assert list(parsed(rlhive("show", "org/knob", "--json"))["splits"]) == ["a", "b"]  # from the manifest alone
    assert not list(store.glob("org/knob/1.0.0/data/a*"))
    assert "RoboHiveDataset org/knob 2.0.0" in rlhive("pull", "org/knob")[1]
    assert read_files(store / "org/knob/2.0.0") == read_files(two_versions["2.0.0"])
    assert parsed(rlhive("versions", "org/knob", "--json"))["2.0.0"]["path"] == str(store / "org/knob/2.0.0")
    shown = rlhive("versions", "org/knob")[1]
    assert "2.0.0" in shown
    assert "…" not in shown

    assert parsed(rlhive("delete", "org/knob", "--version", "1.0.0", "--yes", "--json")) == {
        "deleted": str(store / "org/knob/1.0.0")
    }
    assert parsed(rlhive("versions", "org/knob", "--json"))["1.0.0"] == remote["1.0.0"]
    assert sorted(path.name for path in (store / "org/knob").glob("[!.]*")) == ["2.0.0"]


def test_scrub_makes_the_next_patch_version_which_a_push_accepts(hub, rlhive, store):
    schema, episodes = records([3, 2])
    token = "ghp_" + "aB3" * 12
    episodes[0].metadata["note"] = token
    export(episodes, "org/knob", schema=schema, license="mit", store=store)

    status, _, said = rlhive("push", "org/knob")
    assert (status, "holds a GitHub token" in said, token in said) == (1, True, False)
    assert parsed(rlhive("scrub", "org/knob", "--version", "1.0.0", "--json"))["version"] == "1.0.1"
    assert rlhive("scrub", "org/knob")[1] == f"made {store / 'org/knob/1.0.2'}\n"
    assert parsed(rlhive("push", "org/knob", "--version", "1.0.1", "--json"))["version"] == "1.0.1"


def test_list_remote_names_what_is_on_the_hub(hub, published, rlhive):
    from tests.hub_server import Repository

    hub.repositories["org/other"] = Repository()
    hub.repositories["org/other"].commit({"README.md": b"not ours"})

    assert parsed(rlhive("list", "--remote", "--json")) == {"org/knob": "2026-01-01"}
    assert "org/knob" in rlhive("list", "--remote", "--namespace", "org")[1]
    assert parsed(rlhive("list", "--remote", "--namespace", "them", "--json")) == {}


def test_a_moved_tag_is_noticed_by_the_next_pull(hub, published, rlhive, store):
    rlhive("pull", "org/knob", "--version", "1.0.0")
    before = read_files(store / "org/knob/1.0.0")
    tags = hub.repositories["org/knob"].tags
    tags["v1.0.0"] = tags["v2.0.0"]

    status, _, stderr = rlhive("pull", "org/knob", "--version", "1.0.0")

    assert status == 1
    assert "tag v1.0.0 was moved" in stderr
    assert read_files(store / "org/knob/1.0.0") == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pull", "org/knob", "--version", "9.0.0"], "expected one of 1.0.0, 2.0.0"),
        (["pull", "org/nothing"], "has no version at all"),
        (["versions", "org/nothing"], "No dataset named"),
        (["push", "org/nothing"], "No dataset named"),
        (["delete", "org/knob", "--version", "1.0.0", "--yes"], "has no version 1.0.0"),
    ],
)
def test_bad_input_is_one_sentence_and_status_1(hub, published, rlhive, words, says):
    status, shown, stderr = rlhive(*words)

    assert status == 1
    assert stderr.startswith("error: ")
    assert says in stderr
    assert stderr.count("\n") == 1
    assert shown == ""


def test_versions_lists_local_versions_if_the_hub_does_not_answer(hub, published, rlhive, store):
    rlhive("pull", "org/knob")
    hub.broken = 503

    status, shown, stderr = rlhive("versions", "org/knob", "--json")

    assert status == 0
    assert json.loads(shown) == {"2.0.0": {"path": str(store / "org/knob/2.0.0"), "commit": None}}
    assert "still answers 503" in stderr


def test_versions_prints_the_path_of_the_store_in_one_piece(hub, published, rlhive, tmp_path):
    store = tmp_path / ("long" * 30)
    rlhive("pull", "org/knob", at=store)
    lines = rlhive("versions", "org/knob", at=store)[1].splitlines()

    assert lines[-1] == f"store: {store / 'org/knob'}"
    assert [line.split()[5] for line in lines if "0.0" in line] == ["no", "yes"]


def test_a_version_is_not_reported_missing_if_the_hub_does_not_answer(hub, published, rlhive):
    rlhive("pull", "org/knob")
    hub.broken = 503

    _, shown, _ = rlhive("versions", "org/knob")

    assert "not known" in shown
    assert " no " not in shown


def test_list_remote_reports_a_hub_that_does_not_answer_in_one_sentence(hub, rlhive):
    hub.broken = 503

    status, shown, stderr = rlhive("list", "--remote")

    assert (status, shown) == (1, "")
    assert "error: All datasets: the Hub still answers 503" in stderr


def test_a_namespace_filters_the_local_list(hub, published, rlhive):
    rlhive("pull", "org/knob")

    assert parsed(rlhive("list", "--namespace", "org", "--json")) == {"org/knob": ["2.0.0"]}
    assert parsed(rlhive("list", "--namespace", "or", "--json")) == {}
    assert "holds no dataset of or." in rlhive("list", "--namespace", "or")[1]


def test_delete_asks_for_confirmation(hub, published, rlhive, store):
    rlhive("pull", "org/knob")

    assert rlhive("delete", "org/knob", "--version", "2.0.0")[0] == 1
    assert (store / "org/knob/2.0.0/rlhive.json").exists()
    status, _, stderr = rlhive("delete", "org/knob", "--version", "9.9.9")
    assert (status, "Remove" in stderr) == (1, False)
    assert "org/knob has no version 9.9.9" in stderr


def test_the_shell_completes_verbs_and_dataset_names(hub, published, rlhive, store):
    rlhive("pull", "org/knob")

    def completed(line, cword):
        import os
        import subprocess
        import sys

        variables = {"_RLHIVE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(cword)}
        script = "import sys; sys.argv[0] = 'rlhive'; from rlhive.cli import main; main()"
        ran = subprocess.run([sys.executable, "-c", script], env=os.environ | variables, capture_output=True, text=True)
        return ran.stdout.split()

    assert completed("rlhive pu", 1) == ["pull", "push"]
    assert completed("rlhive pull org", 2) == ["org/knob"]
    assert completed("rlhive pull toy", 2) == ["toy_point"]
