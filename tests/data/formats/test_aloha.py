"""ALOHA's episode files, written here by the layout of ACT's record_sim_episodes.py and ALOHA's record_episodes.py."""

import h5py
import numpy as np
import pytest

from rlhive.data.formats._builtin import Aloha
from rlhive.data.formats._convert import open_source
from rlhive.errors import SchemaMismatchError
from rlhive.testing import ExpectedEpisode, FormatTests
from tests.data.formats.odd_sources import encode

LENGTHS = {0: 4, 2: 3, 10: 5}
CAMERAS = ("cam_high", "cam_left_wrist")
JOINTS = 14


def walk(number):
    """Return the arrays of an episode by path; the pictures are smooth, so that JPEG keeps them nearly."""
    generator = np.random.default_rng(number)
    length = LENGTHS[number]
    arrays = {"action": generator.uniform(size=(length, JOINTS)).astype(np.float32)}
    for name in ("qpos", "qvel"):
        arrays[f"observations/{name}"] = generator.uniform(size=(length, JOINTS)).astype(np.float32)
    for index, camera in enumerate(CAMERAS):
        rows, columns, colours = np.meshgrid(np.arange(8), np.arange(8), [200, 100, 20], indexing="ij")
        pictures = [rows * 3 + columns * 2 + colours + number + index + step for step in range(length)]
        arrays[f"observations/images/{camera}"] = np.stack(pictures).astype(np.uint8)
    return arrays


def write(folder, *, compress=False, **others):
    """Write all episodes; compressed pictures as ALOHA pads them, with their sizes beside them."""
    folder.mkdir()
    for number in LENGTHS:
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as root:
            root.attrs["sim"] = not compress
            sizes = []
            for path, values in walk(number).items():
                if not (compress and "images" in path):
                    chunks = (1, *values.shape[1:]) if "images" in path else None
                    root.create_dataset(path, data=values, chunks=chunks)
                    continue
                contents = [encode(picture, kind="JPEG", quality=95) for picture in values]
                sizes.append([len(content) for content in contents])
                padded = np.zeros((len(contents), max(map(len, contents)) + 5), np.uint8)
                for row, content in zip(padded, contents, strict=True):
                    row[: len(content)] = np.frombuffer(content, np.uint8)
                root.create_dataset(path, data=padded, chunks=(1, padded.shape[1]))
            if compress:
                root.attrs["compress"] = True
                root["compress_len"] = np.array(sizes)
            for path, make in others.items():
                root[path] = make(LENGTHS[number])
    return folder


@pytest.mark.slow
class TestAloha(FormatTests):
    format = Aloha()

    @pytest.fixture
    def source(self, tmp_path):
        return write(tmp_path / "sim_transfer_cube")

    @pytest.fixture
    def expected(self):
        return [expected_episode(number) for number in LENGTHS]


def expected_episode(number):
    names = {"action": "action", "observations/qpos": "observation.qpos", "observations/qvel": "observation.qvel"}
    names |= {f"observations/images/{camera}": f"pixels.{camera}" for camera in CAMERAS}
    arrays = {column: walk(number)[path] for path, column in names.items()}
    columns = {column: rows[:-1] for column, rows in arrays.items()}
    final = {column: rows[-1] for column, rows in arrays.items() if column != "action"}
    return ExpectedEpisode(columns, final, "unfinished")


def read(path, **options):
    return list(open_source("aloha", path, **options).records())


def test_compressed_pictures_are_decoded_without_their_padding(tmp_path):
    folder = write(tmp_path / "real", compress=True)
    source = open_source("aloha", folder)
    records = list(source.records())
    assert [record.episode for record in records] == [*LENGTHS]
    for record in records:
        truth = walk(record.episode)
        for camera in CAMERAS:
            pictures = np.concatenate([record.columns[f"pixels.{camera}"], record.final[f"pixels.{camera}"][None]])
            assert np.abs(pictures.astype(int) - truth[f"observations/images/{camera}"]).max() <= 6
        assert record.metadata == {"file": f"episode_{record.episode}.hdf5", "sim": False, "compress": True}
    assert "compress_len" not in "\n".join(source.notes)


def test_each_compressed_picture_may_be_a_list_of_bytes(tmp_path):
    folder = write(tmp_path / "real")
    with h5py.File(folder / "episode_0.hdf5", "r+") as h5:
        path = f"observations/images/{CAMERAS[0]}"
        contents = [np.frombuffer(encode(picture), np.uint8) for picture in h5[path]]
        del h5[path]
        rows = h5.create_dataset(path, (len(contents),), h5py.vlen_dtype(np.uint8))
        for row, content in enumerate(contents):
            rows[row] = content
    (record, *_) = read(folder)
    expected = expected_episode(0)
    np.testing.assert_array_equal(record.columns[f"pixels.{CAMERAS[0]}"], expected.columns[f"pixels.{CAMERAS[0]}"])


def test_colours_are_exchanged_by_an_option(tmp_path):
    """Depth has none: its columns are not mirrored."""
    depth = np.arange(8 * 9, dtype=np.uint16).reshape(8, 9)
    others = {"observations/images/depth": lambda length: np.stack([depth] * length)}
    folder = write(tmp_path / "bgr", **others)
    (record, *_) = read(folder, swap_colours=True)
    pictures = expected_episode(0).columns["pixels.cam_high"]
    np.testing.assert_array_equal(record.columns["pixels.cam_high"], pictures[..., ::-1])
    np.testing.assert_array_equal(record.columns["pixels.depth"].reshape(-1, 8, 9)[0], depth)


def test_other_datasets_are_information(tmp_path):
    others = {"base_action": lambda length: np.ones((length, 2)), "timestamps": lambda length: np.zeros(length + 1)}
    source = open_source("aloha", write(tmp_path / "mobile", **others))
    record = next(source.records())
    np.testing.assert_array_equal(record.columns["info.base_action"], np.ones((LENGTHS[0] - 1, 2)))
    assert "timestamps, which has no row for each action (in 3 episodes)" in "\n".join(source.notes)


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_picture_that_cannot_be_decoded_is_refused(tmp_path, content):
    folder = write(tmp_path / "real", compress=True)
    with h5py.File(folder / "episode_2.hdf5", "r+") as h5:
        rows = h5["observations/images/cam_high"]
        rows[1] = np.frombuffer(content.ljust(rows.shape[1], b"\0"), np.uint8)
    with pytest.raises(SchemaMismatchError, match=r"episode_2\.hdf5, /observations/images/cam_high.*PNG or JPEG"):
        open_source("aloha", folder)
    assert len(read(folder, skip_episode=2)) == 2
    assert len(read(folder, drop="observations/images/cam_high")) == 3


def test_another_layout_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SchemaMismatchError, match=r"expected files episode_0\.hdf5"):
        open_source("aloha", tmp_path / "empty")
    folder = write(tmp_path / "twice")
    (folder / "episode_00.hdf5").write_bytes((folder / "episode_0.hdf5").read_bytes())
    with pytest.raises(SchemaMismatchError, match="expected one file of episode 0"):
        open_source("aloha", folder)
    (tmp_path / "empty" / f"episode_{2**70}.hdf5").write_bytes((folder / "episode_0.hdf5").read_bytes())
    with pytest.raises(SchemaMismatchError, match=r"expected files episode_0\.hdf5"):
        open_source("aloha", tmp_path / "empty")
    with h5py.File(tmp_path / "x.hdf5", "w") as h5:
        h5["actions"] = np.zeros(3)
    with pytest.raises(SchemaMismatchError, match="ALOHA's action and observations, got actions"):
        open_source("aloha", tmp_path / "x.hdf5")


def test_folders_and_links_beside_the_episodes_are_no_episodes(tmp_path):
    folder = write(tmp_path / "real")
    (folder / "videos").mkdir()
    (folder / "robot").symlink_to(tmp_path)
    assert len(read(folder)) == len(LENGTHS)


def test_a_link_to_another_file_is_refused(tmp_path):
    folder = write(tmp_path / "linked")
    with h5py.File(folder / "episode_0.hdf5", "r+") as h5:
        del h5["observations/qvel"]
        h5["observations/qvel"] = h5py.ExternalLink("other.hdf5", "/secret")
    with pytest.raises(SchemaMismatchError, match="external link"):
        open_source("aloha", folder)
