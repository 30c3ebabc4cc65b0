"""The exported file: what it holds, how large it may be, and what it may load."""

import base64
import gzip
import hashlib
import json
import re

import pytest

from rlhive.errors import InvalidOptionError, StoreNotWritableError
from rlhive.viewer import ViewedDataset, _export, export_page
from tests.cli.conftest import invoke


def read_answers(path):
    """Return the answers in an exported file by question."""
    data = path.read_text().partition('id="rlhive-data">')[2].partition("</script>")[0]
    return {
        question: json.loads(gzip.decompress(base64.b64decode(packed))) for question, packed in json.loads(data).items()
    }


def test_the_file_holds_every_answer_that_fits(version, tmp_path):
    dataset = ViewedDataset(version)
    page = export_page([dataset], tmp_path / "toy.html", progress=False)
    answers = read_answers(page.path)

    assert page.num_bytes == page.path.stat().st_size < 1_000_000
    assert answers["episodes?dataset=0"] == dataset.episodes()
    assert answers["series?dataset=0&episode=7"] == dataset.series(7)
    assert answers["coverage?key=observation"]["episodes_read"] == 24
    assert answers["checks?dataset=0"]["ok"]
    assert answers["datasets"]["exported"]["note"] == page.note
    assert "rows of all episodes of robohive/toy_point 1.0.0, the numbers over time of all" in page.note
    assert "pictures of 0 (" in page.note  # a toy has no camera
    assert "no camera" in page.note


def test_a_small_file_says_what_is_left_out(version, tmp_path, monkeypatch):
    dataset = ViewedDataset(version)
    whole = export_page([dataset], tmp_path / "whole.html", pictures=0, progress=False)
    monkeypatch.setattr(_export, "_DESCRIPTION_BYTES", 2_000)
    monkeypatch.setattr(_export, "MAX_BYTES", whole.num_bytes - 9_000)
    page = export_page([dataset], tmp_path / "part.html", pictures=0, progress=False)
    count = sum(question.startswith("series") for question in read_answers(page.path))

    assert 0 < count < 24
    assert f"the numbers over time of {count} of 24" in page.note
    assert page.num_bytes <= _export.MAX_BYTES
    monkeypatch.setattr(_export, "MAX_BYTES", 100_000)
    with pytest.raises(InvalidOptionError, match=r"does not fit\. Export fewer episodes"):
        export_page([dataset], tmp_path / "none.html", progress=False)
    assert not (tmp_path / "none.html").exists()


def test_the_scripts_are_named_by_their_hashes_and_nothing_is_loaded(version, tmp_path):
    text = export_page([ViewedDataset(version)], tmp_path / "toy.html", pictures=0, progress=False).path.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    inline = re.findall(r"<(?:script|script type=\"module\"|style)>(.*?)</(?:script|style)>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in inline]

    assert len(hashes) == 5
    assert all(f"'sha256-{value}'" in policy for value in hashes)
    assert policy.startswith("default-src 'none';")
    assert "connect-src" not in policy
    assert not re.findall(r'(?:src|href)="(?!data:,")', text.partition("<script>")[0])


def test_two_datasets_share_the_file(version, tmp_path):
    datasets = [ViewedDataset(version, split=split) for split in ("expert", "random")]
    page = export_page(datasets, tmp_path / "two.html", pictures=0, progress=False)
    answers = read_answers(page.path)

    assert [len(answers[f"episodes?dataset={index}"]["columns"]["episode"]) for index in (0, 1)] == [8, 8]
    assert {part["dataset"] for part in answers["coverage?key=observation"]["parts"]} == {0, 1}
    assert "series?dataset=1&episode=16" in answers


def test_another_suffix_or_folder_is_refused(version, tmp_path):
    dataset = ViewedDataset(version)
    with pytest.raises(InvalidOptionError, match=r"expected a file named \.html"):
        export_page([dataset], tmp_path / "page.pdf")
    with pytest.raises(StoreNotWritableError, match="The page cannot be written to"):
        export_page([dataset], tmp_path / "none" / "page.html", pictures=0, progress=False)


def test_the_verb_writes_the_file(version, tmp_path):
    ran = invoke("view", version, "--where", "success", "--export", tmp_path / "a.html", "--pictures", "0")

    assert ran.exit_code == 0, ran.stderr
    assert ran.stdout.startswith(f"Written: {tmp_path / 'a.html'}, 0.")
    operations = read_answers(tmp_path / "a.html")["datasets"]["datasets"][0]["operations"]
    assert operations == ["where('success')"]
