"""Paths, links and templates of foreign folders that lead elsewhere."""

import json
import os
import shutil

import pytest
from hypothesis import given, settings, strategies as st

from rlhive.data.formats._convert import open_source
from rlhive.data.formats._source_files import expand_path_template, list_source_files, require_source_file
from rlhive.errors import SchemaMismatchError
from tests.data.formats import make_lerobot, make_minari, make_rlds

EXAMPLES = int(os.environ.get("RLHIVE_FUZZ", "100"))
FIELDS = {"video_key": "observation.images.top", "episode_index": 7, "chunk_index": 0}

#: Template → the path that it gives.
HEALTHY = {
    "videos/{video_key}/chunk-{chunk_index:03d}/file-{episode_index:06d}.mp4": (
        "videos/observation.images.top/chunk-000/file-000007.mp4"
    ),
    "v/{episode_index}.mp4": "v/7.mp4",
    "{episode_index:3}{{}}.mp4": "  7{}.mp4",
    "..hidden/a..b.mp4": "..hidden/a..b.mp4",
}
HOSTILE = [
    "/etc/passwd",
    "../x.mp4",
    "videos/../../x.mp4",
    "videos\\..\\x.mp4",
    "{episode_index.__class__}",
    "{video_key.__init__.__globals__}",
    "{video_key[0]}",
    "{video_key!r}",
    "{episode_index:0999999999d}",
    "{episode_index:{chunk_index}}",
    "{secret}",
    "{0}",
    "{}",
    "{episode_index",
    "",
    "a\x00b.mp4",
    "\x1b[2J.mp4",
    None,
    3,
    ["videos"],
]


@pytest.mark.parametrize("template", HEALTHY)
def test_templates_of_the_formats_expand(template, tmp_path):
    assert expand_path_template(tmp_path, template, FIELDS, context="info.json") == tmp_path / HEALTHY[template]


@pytest.mark.parametrize("template", HOSTILE)
def test_other_templates_are_refused(template, tmp_path):
    with pytest.raises(SchemaMismatchError, match=r"^info\.json: expected a ") as raised:
        expand_path_template(tmp_path, template, FIELDS, context="info.json")
    assert str(raised.value).isprintable()


def test_a_climbing_value_is_refused(tmp_path):
    with pytest.raises(SchemaMismatchError, match="leaves the folder"):
        expand_path_template(tmp_path, "videos/{video_key}.mp4", {"video_key": "../../home/x"}, context="info.json")


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *"{}:!./[]0d_",
                "..",
                "/",
                "video_key",
                "episode_index",
                "__class__",
                "{video_key}",
                "{episode_index:06d}",
                "a",
            ]
        ),
        max_size=12,
    ).map("".join)
)
def test_no_template_leaves_the_folder(tmp_path_factory, template):
    root = tmp_path_factory.getbasetemp()
    try:
        path = expand_path_template(root, template, FIELDS, context="info.json")
    except SchemaMismatchError:
        return
    assert os.path.normpath(path).startswith(f"{root}{os.sep}") or os.path.normpath(path) == str(root)
    assert len(str(path)) < len(str(root)) + 400


def test_links_may_stay_inside_the_folder(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/x.h5").write_bytes(b"x")
    (tmp_path / "a/b/link.h5").symlink_to("../x.h5")

    assert list_source_files(tmp_path / "a", "**/*.h5") == [tmp_path / "a/b/link.h5", tmp_path / "a/x.h5"]
    with pytest.raises(SchemaMismatchError, match=r"link\.h5: expected a file inside .*got a link to '.*x\.h5'"):
        require_source_file(tmp_path / "a/b", tmp_path / "a/b/link.h5")


def test_a_snapshot_of_the_hugging_face_cache_links_to_its_blobs(tmp_path):
    repository = tmp_path / "datasets--lab--x"
    (repository / "blobs").mkdir(parents=True)
    (repository / "snapshots/abc/meta").mkdir(parents=True)
    (repository / "blobs/123").write_bytes(b"{}")
    (repository / "secret").write_bytes(b"{}")
    snapshot = repository / "snapshots/abc"
    (snapshot / "meta/info.json").symlink_to("../../../blobs/123")
    (snapshot / "other.json").symlink_to("../../secret")

    assert require_source_file(snapshot, snapshot / "meta/info.json").read_bytes() == b"{}"
    with pytest.raises(SchemaMismatchError, match="got a link to"):
        require_source_file(snapshot, snapshot / "other.json")
    shutil.move(repository / "blobs", tmp_path / "elsewhere")
    (repository / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SchemaMismatchError, match="got a link to"):
        require_source_file(snapshot, snapshot / "meta/info.json")


SOURCES = {
    **{f"minari-{name}": ("minari", make_minari.FILES / name) for name in make_minari.STORAGES},
    **{f"lerobot-{path.name}": ("lerobot", path) for path in sorted(make_lerobot.FILES.iterdir())},
    **{f"rlds-{path.name}": ("rlds", path) for path in sorted(make_rlds.FILES.iterdir()) if path.is_dir()},
}


def read_all(kind, source, expected):
    """Return the error of reading a source; a file that is not read makes none, and changes nothing."""
    try:
        assert sum(record.length for record in open_source(kind, source).records()) == expected
    except SchemaMismatchError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", SOURCES)
def test_every_file_of_a_source_must_lie_in_it(name, tmp_path):
    kind, committed = SOURCES[name]
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    shutil.copytree(committed, source)
    elsewhere.mkdir()
    expected = sum(record.length for record in open_source(kind, source).records())
    refused = 0
    for number, path in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        target = path.rename(elsewhere / str(number))
        path.symlink_to(target)
        message = read_all(kind, source, expected)
        assert message is None or f"got a link to '{target}'" in message
        refused += message is not None
        path.unlink()
        target.rename(path)
    assert refused >= 2


def test_templates_of_lerobot_are_refused_in_one_sentence(tmp_path):
    source = shutil.copytree(make_lerobot.FILES / "v2.1-video", tmp_path / "source")
    info = json.loads((source / "meta/info.json").read_text())
    for name in ("video_path", "data_path"):
        for template in ("/etc/passwd", "../x.mp4", "{episode_index.__class__}", "{episode_index:0999999999d}"):
            (source / "meta/info.json").write_text(json.dumps(info | {name: template}))
            with pytest.raises(SchemaMismatchError, match=f"meta/info.json, {name}: expected a path"):
                open_source("lerobot", source)


def test_templates_of_rlds_are_refused_in_one_sentence(tmp_path):
    committed = next(path for path in sorted(make_rlds.FILES.iterdir()) if path.is_dir())
    source = shutil.copytree(committed, tmp_path / "source")
    info = json.loads((source / "dataset_info.json").read_text())
    for template in ("/etc/passwd", "../{DATASET}", "{DATASET.__class__}", "{DATASET:>999999999}"):
        info["splits"][0]["filepathTemplate"] = template
        (source / "dataset_info.json").write_text(json.dumps(info))
        with pytest.raises(SchemaMismatchError, match="filepathTemplate: expected a path"):
            open_source("rlds", source)
