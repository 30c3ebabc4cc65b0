"""The Croissant description: foreign text in it is data, and mlcroissant accepts whatever a manifest may hold."""

import json
import os
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st
from markdown_it import MarkdownIt

from rlhive.data import _parquet
from rlhive.data._schema import Field, Schema
from rlhive.data.release import Address, Answers, write_release
from rlhive.data.release._croissant import render_croissant
from rlhive.data.release._datasheet import render_datasheet
from rlhive.data.release._description import spdx_license
from rlhive.data.versions import EPISODES_PATH, Manifest
from tests.data.release.samples import ANSWERS, every_kind

EXAMPLES = int(os.environ.get("RLHIVE_FUZZ", "10"))
EVIL = '</script><script>alert(1)</script>\x1b[2J\u202e"}]} [x](javascript:1) | `code` {{x}} \\'
WORDS = st.one_of(st.text(), st.sampled_from([EVIL, "@id", "", "a|b", "_:x", "http://x/#y"]))


@pytest.fixture(scope="module")
def described(exported):
    return Manifest.read(exported[1]), _parquet.read_arrow_schema(exported[1] / EPISODES_PATH)


def render(manifest, episode_schema, *, is_published=False):
    address = replace(Address.of_manifest(manifest), is_published=is_published)
    return render_croissant(manifest, episode_schema, Answers(**ANSWERS), address)


def hostile(manifest, text):
    """Return the manifest with a foreign text wherever one may stand."""
    run = {
        "env": {"env_name": text, "versions": {"mujoco": text, "robohive": [text]}},
        "versions": {"rlhive": text},
        "policies": {text: {text: text}},
        "started": text,
    }
    parent = {"name": text, "version": text, "operations": [text, {"x": text}]}
    fields = tuple(replace(field, unit=text) for field in manifest.schema.fields)
    texts = dict.fromkeys(("license", "description", "env_name", "task", "created"), text)
    return replace(
        manifest, **texts, runs=(run, {"env": text, "policies": [text]}), parents=(parent, {}), schema=Schema(fields)
    )


@settings(max_examples=EXAMPLES, deadline=None)
@given(WORDS)
def test_foreign_text_stays_in_the_strings_and_ids_of_the_description(described, text):
    manifest, episode_schema = described
    plain, foreign = (json.loads(render(each, episode_schema)) for each in (manifest, hostile(manifest, text)))
    raw = render(hostile(manifest, text), episode_schema)

    assert not re.search(r"[<\x00-\x09\x0b-\x1f\x7f-\uffff]", raw)
    assert foreign["@context"] == plain["@context"]
    assert foreign["distribution"] == plain["distribution"]
    assert [each["@id"] for each in foreign["recordSet"]] == [each["@id"] for each in plain["recordSet"]]
    new_keys = foreign.keys() - plain.keys()
    assert new_keys <= {
        "rai:dataCollectionType",
        "rai:hasSyntheticData",
        "rai:dataPreprocessingProtocol",
        "prov:wasDerivedFrom",
        "rai:machineAnnotationTools",
        "rai:dataCollectionTimeFrame",
    }


@settings(max_examples=EXAMPLES, deadline=None)
@given(WORDS)
def test_foreign_text_is_escaped_in_the_datasheet(described, text):
    manifest, _ = described
    answers = Answers(*([text] * 3))
    sheet = render_datasheet(hostile(manifest, text), answers, Address.of_manifest(manifest))

    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", sheet)
    tokens = [token for block in MarkdownIt("commonmark").parse(sheet) for token in (block, *(block.children or ()))]
    assert not [token for token in tokens if token.type in ("html_block", "html_inline", "image")]
    links = [token.attrs["href"] for token in tokens if token.type == "link_open"]
    assert links == ["https://huggingface.co/datasets/org/kinds"]
    assert sum(token.type == "heading_open" for token in tokens) == 8  # the title and seven sections


@pytest.mark.parametrize("is_published", [False, True])
def test_mlcroissant_accepts_a_hostile_manifest(described, is_published):
    mlcroissant = pytest.importorskip("mlcroissant")
    manifest, episode_schema = described
    content = json.loads(render(hostile(manifest, EVIL), episode_schema, is_published=is_published))
    metadata = mlcroissant.Dataset(content).metadata

    assert metadata.issues.errors == set()
    assert "alert(1)" in metadata.description
    assert metadata.data_limitations == [ANSWERS["limitations"]]


#: Parts of keys, as a schema allows them.
NAMES = st.text(min_size=1, max_size=12).filter(lambda name: name.isprintable() and "." not in name)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.one_of(NAMES, st.sampled_from(["@id", "a/b", "..", "%41", "A", "#", "?", "data"])), unique=True))
def test_mlcroissant_finds_a_column_of_any_name(described, names):
    mlcroissant = pytest.importorskip("mlcroissant")
    manifest, episode_schema = described
    added = [Field(name, "float32", (2,), False) for name in names if "." not in name]
    flags = [field for field in manifest.schema.fields if field.column.startswith("next.")]
    schema = Schema(tuple(sorted([*flags, *added], key=lambda field: field.column)))
    content = json.loads(render(replace(manifest, schema=schema), episode_schema))
    metadata = mlcroissant.Dataset(content).metadata

    assert metadata.issues.report() == ""
    for records in metadata.record_sets[:2]:
        fields = {field.name: field for field in records.fields}
        assert fields.keys() == {"episode", "step_count", *schema.columns}
        assert {name: field.source.extract.column for name, field in fields.items()} == {name: name for name in fields}
        assert len({field.id for field in records.fields}) == len(fields)


def test_a_published_description_names_the_files_by_their_address_on_the_hub(exported):
    mlcroissant = pytest.importorskip("mlcroissant")
    for folder, is_sharded in zip(exported, (False, True), strict=True):
        manifest, episode_schema = Manifest.read(folder), _parquet.read_arrow_schema(folder / EPISODES_PATH)
        content = json.loads(render(manifest, episode_schema, is_published=True))
        files = {item["@id"]: item for item in content["distribution"]}
        page = "https://huggingface.co/datasets/org/kinds"
        assert files[EPISODES_PATH]["contentUrl"] == f"{page}/resolve/v1.0.0/{EPISODES_PATH}"
        assert ("repository" in files) == is_sharded
        if is_sharded:
            assert files["repository"]["contentUrl"] == f"{page}/tree/refs%2Ftags%2Fv1.0.0"
        local = {item: folder / item for item in files if (folder / item).is_file()}
        clone = {"repository": folder} if is_sharded else {}
        dataset = mlcroissant.Dataset(content, mapping={**local, **clone})
        assert dataset.metadata.issues.report() == ""
        assert len(list(dataset.records("b"))) == 9


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("apache-2.0", "https://spdx.org/licenses/Apache-2.0.html"),
        ("cc-by-4.0", "https://spdx.org/licenses/CC-BY-4.0.html"),
        ("openrail", "LicenseRef-openrail"),
        ("mit AND (apache-2.0 OR cc0-1.0)", "MIT AND (Apache-2.0 OR CC0-1.0)"),
        ("<b>\x1b", "LicenseRef-b"),
        ("", "LicenseRef-unknown"),
    ],
)
def test_the_licence_is_an_spdx_id(described, license, expected):
    manifest, episode_schema = described

    assert json.loads(render(replace(manifest, license=license), episode_schema))["license"] == expected
    assert spdx_license(license) in expected


def test_a_manifest_of_recorded_simulation_fills_the_responsible_ai_fields(described):
    manifest, episode_schema = described
    run = {
        "env": {"versions": {"robohive": "0.7.0", "mujoco": "3.1.3"}},
        "versions": {"rlhive": "0.1.0"},
        "policies": {"expert": {}, "random": {}},
    }
    runs = tuple(run | {"started": f"2026-01-0{day}T00:00:00+00:00"} for day in (2, 1))
    parents = ({"name": "org/a", "version": "1.0.0", "operations": ["where=success"]},)
    content = json.loads(
        render(replace(manifest, runs=runs, parents=parents, env_name="FK1-v4", created="2026-02-03"), episode_schema)
    )

    assert content["rai:dataCollection"] == (
        "4 episodes (18 transitions) were recorded in the simulated environment FK1-v4, in 2 recording runs. "
        "They were acted by the policies expert, random, whose parameters rlhive.json holds."
    )
    assert content["rai:hasSyntheticData"] is True
    assert content["rai:dataCollectionTimeFrame"] == ["2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"]
    assert content["rai:machineAnnotationTools"] == ["mujoco 3.1.3", "rlhive 0.1.0", "robohive 0.7.0"]
    assert content["prov:wasDerivedFrom"] == ["Derived from org/a 1.0.0 by where=success"]
    assert content["datePublished"] == "2026-02-03"
    for name, answer in (
        ("dataUseCases", "intended_use"),
        ("dataSocialImpact", "intended_use"),
        ("dataLimitations", "limitations"),
        ("dataBiases", "limitations"),
        ("personalSensitiveInformation", "personal_information"),
    ):
        assert content[f"rai:{name}"] == ANSWERS[answer]


def test_an_empty_split_has_no_records(tmp_path):
    mlcroissant = pytest.importorskip("mlcroissant")
    folder = every_kind(tmp_path, splits=["a", "b", "empty"])
    release = write_release(folder, ANSWERS)
    dataset = mlcroissant.Dataset(release / "croissant.json")

    assert [records.id for records in dataset.metadata.record_sets] == ["a", "b", "empty", "episode-table"]
    assert list(dataset.records("empty")) == []
