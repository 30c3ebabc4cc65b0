"""Diffusion Policy's replay buffers, written by its ReplayBuffer (make_diffusion_policy.py), and stores of anyone."""

import json
import shutil
import zipfile
import zlib

import numpy as np
import pytest

pytest.importorskip("numcodecs")

from rlhive.data.formats._builtin import DiffusionPolicy
from rlhive.data.formats._convert import open_source
from rlhive.data.formats._memory_limits import FREE_BYTES
from rlhive.errors import SchemaMismatchError
from rlhive.testing import ExpectedEpisode, FormatTests
from tests.data.formats.make_diffusion_policy import FILE, LENGTHS, walk

NAMES = {"img": "pixels.img", "wrist": "pixels.wrist", "action": "action"}


def expected_episode(number):
    arrays = {NAMES.get(name, f"observation.{name}"): rows for name, rows in walk(number).items()}
    arrays["pixels.img"] = arrays["pixels.img"].astype(np.uint8)
    final = {column: rows[-1] for column, rows in arrays.items() if column != "action"}
    return ExpectedEpisode({column: rows[:-1] for column, rows in arrays.items()}, final, "unfinished")


class TestDiffusionPolicy(FormatTests):
    """A .zip file."""

    format = DiffusionPolicy()

    @pytest.fixture
    def source(self, tmp_path):
        return shutil.copy(FILE, tmp_path / "pusht.zarr.zip")

    @pytest.fixture
    def expected(self):
        return [expected_episode(number) for number in range(len(LENGTHS))]


@pytest.mark.slow
class TestDiffusionPolicyFolder(FormatTests):
    """A folder, as Push-T's demonstrations are unpacked."""

    format = DiffusionPolicy()
    ignored_files = ("data/.zgroup", "meta/.zgroup")

    @pytest.fixture
    def source(self, tmp_path):
        return unpack(tmp_path)

    @pytest.fixture
    def expected(self):
        return [expected_episode(number) for number in range(len(LENGTHS))]


def unpack(tmp_path):
    with zipfile.ZipFile(FILE) as archive:
        archive.extractall(tmp_path / "pusht.zarr")
    return tmp_path / "pusht.zarr"


def read(path, **options):
    return list(open_source("diffusion_policy", path, **options).records())


def test_a_zip_file_gives_the_same_episodes_as_a_folder(tmp_path):
    from_folder = [record.identity() for record in read(unpack(tmp_path))]
    assert [record.identity() for record in read(FILE)] == from_folder


def test_a_single_array_of_states_is_the_observation(tmp_path):
    folder = unpack(tmp_path)
    for name in ("keypoint", "n_contacts"):
        shutil.rmtree(folder / "data" / name)
    record = read(folder)[2]
    np.testing.assert_array_equal(record.columns["observation"], walk(2)["state"][:-1])
    assert "img" not in "".join(read(folder, drop="data/img")[0].columns)


def test_a_chunk_that_the_store_lacks_is_its_fill_value_and_is_noted(tmp_path):
    """zarr 3 writes no chunk of zeros."""
    folder = unpack(tmp_path)
    (folder / "data/img/6.0.0.0").unlink()  # the second frame of the second episode
    source = open_source("diffusion_policy", folder)
    records = list(source.records())
    np.testing.assert_array_equal(records[1].columns["pixels.img"][1], 0)
    np.testing.assert_array_equal(records[0].columns["pixels.img"], expected_episode(0).columns["pixels.img"])
    assert "data/img, in chunks that the store lacks, which are its fill value (in 1 episodes)" in "\n".join(
        source.notes
    )


def change(folder, path, **changes):
    file = folder / path / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compressor": {"id": "pickle"}}, "codec pickle; expected blosc, zlib, gzip, zstd, lz4 or none"),
        ({"compressor": {"id": "imagecodecs_jpegxl"}}, "codec imagecodecs_jpegxl"),
        ({"dtype": "|O", "filters": [{"id": "pickle"}]}, "values of dtype object"),
        ({"filters": [{"id": "delta"}]}, "filters; expected none"),
        ({"dtype": [["a", "<f4"]]}, "values of dtype object"),
    ],
)
def test_codecs_that_run_code_and_those_without_a_bound_are_refused(tmp_path, changes, message):
    folder = change(unpack(tmp_path), "data/state", **changes)
    with pytest.raises(SchemaMismatchError, match=f"data/state: not understood: {message}"):
        open_source("diffusion_policy", folder)
    assert len(read(folder, drop="data/state")) == len(LENGTHS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunks": [0, 5]}, "array in chunks"),
        ({"shape": [-1, 5]}, "a count, got -1"),
        ({"order": "K"}, "metadata of an array"),
        ({"dtype": "<q9"}, "metadata of an array"),
        ({"dtype": ","}, "metadata of an array"),
        ({"compressor": "blosc"}, "metadata of an array"),
        ({"shape": [17, 5]}, "expected 18 rows, the last of episode_ends, got 17"),
        ({"chunks": [3, 5]}, "expected a chunk of 60 bytes"),
        ({"shape": [18, 10**9], "chunks": [4, 10**9]}, "that unpack to"),
        ({"shape": [18, 10**7], "chunks": [1, 1]}, "at most 1000000 chunks"),
        ({"shape": [18, 2**62, 0], "chunks": [18, 1, 1]}, "at most 1000000 chunks"),
    ],
)
def test_malformed_metadata_are_refused(tmp_path, changes, message):
    with pytest.raises(SchemaMismatchError, match=message):
        open_source("diffusion_policy", change(unpack(tmp_path), "data/state", **changes))


@pytest.mark.parametrize("ends", [[5, 8, 8, 18], [8, 5, 16, 18], [0, 5, 16, 18]])
def test_episode_ends_that_do_not_rise_are_refused(tmp_path, ends):
    folder = change(unpack(tmp_path), "meta/episode_ends", compressor=None)
    (folder / "meta/episode_ends/0").write_bytes(np.array(ends, np.int64).tobytes())
    with pytest.raises(SchemaMismatchError, match="expected rising row numbers"):
        open_source("diffusion_policy", folder)


def test_a_store_of_another_layout_is_refused(tmp_path):
    folder = unpack(tmp_path)
    (folder / ".zgroup").rename(folder / "zarr.json")
    with pytest.raises(SchemaMismatchError, match="expected a zarr v2 store, got zarr v3"):
        open_source("diffusion_policy", folder)
    (folder / "zarr.json").rename(folder / ".zgroup")
    shutil.rmtree(folder / "data/action")
    with pytest.raises(SchemaMismatchError, match=r"expected data/action and meta/episode_ends"):
        open_source("diffusion_policy", folder)


def test_a_missing_chunk_takes_no_memory(tmp_path):
    folder = change(unpack(tmp_path), "data/state", chunks=[2**44, 5], fill_value=7)
    for chunk in (folder / "data/state").glob("[0-9]*"):
        chunk.unlink()
    np.testing.assert_array_equal(read(folder)[0].columns["observation.state"], np.full((4, 5), 7, np.float32))
    change(folder, "data/state", chunks=[2**62, 5])
    with pytest.raises(SchemaMismatchError, match=r"data/state: expected the chunk data/state/0\.0, got none"):
        open_source("diffusion_policy", folder)


def test_a_zip_file_that_is_made_to_harm_is_refused(tmp_path):
    path, folder = tmp_path / "x.zarr.zip", unpack(tmp_path)
    for compression, message in ((zipfile.ZIP_LZMA, "got compression 14"), (zipfile.ZIP_STORED, "password required")):
        with zipfile.ZipFile(path, "w", compression) as archive:
            for file in sorted(item for item in folder.rglob("*") if item.is_file()):
                archive.write(file, file.relative_to(folder))
        content = bytearray(path.read_bytes())
        if compression == zipfile.ZIP_STORED:  # the flag of an encrypted member, in the list of members
            content[content.index(b"PK\x01\x02") + 8] |= 1
            path.write_bytes(content)
        with pytest.raises(SchemaMismatchError, match=rf"x\.zarr\.zip, \.zgroup: .*{message}"):
            open_source("diffusion_policy", path)


def test_a_link_that_leaves_the_store_is_refused(tmp_path):
    folder = unpack(tmp_path)
    chunk = folder / "data/action/0.0"
    chunk.rename(tmp_path / "secret")
    chunk.symlink_to(tmp_path / "secret")
    with pytest.raises(SchemaMismatchError, match=r"^\S*/data/action/0\.0: expected a file inside .* got a link to"):
        open_source("diffusion_policy", folder)


@pytest.mark.parametrize("codec", ["blosc", "zlib", "gzip", "zstd", "lz4"])
def test_a_chunk_that_unpacks_to_another_size_is_refused(tmp_path, codec):
    import numcodecs

    large = np.zeros(2**16)
    content = numcodecs.get_codec({"id": codec}).encode(large)
    folder = change(unpack(tmp_path), "data/action", compressor={"id": codec})
    (folder / "data/action/0.0").write_bytes(content)
    with pytest.raises(SchemaMismatchError, match=r"expected a chunk of 800 bytes at data/action/0\.0"):
        open_source("diffusion_policy", folder)


def test_a_store_that_unpacks_to_gigabytes_is_refused(tmp_path):
    size = FREE_BYTES // 8
    changes = {"compressor": {"id": "zlib"}, "shape": [18, size], "chunks": [18, size], "dtype": "<f8"}
    folder = change(unpack(tmp_path), "data/state", **changes)
    (folder / "data/state/0.0").write_bytes(zlib.compress(bytes(2**20)))
    with pytest.raises(SchemaMismatchError, match="that unpack to"):
        open_source("diffusion_policy", folder)
