"""OGBench's files (make_ogbench.py), in its three layouts, and archives of anyone."""

import io
import shutil
import zipfile

import numpy as np
import pytest

from rlhive.data.formats._builtin import OGBench
from rlhive.data.formats._convert import open_source
from rlhive.data.formats._memory_limits import FREE_BYTES
from rlhive.errors import SchemaMismatchError
from rlhive.testing import ExpectedEpisode, FormatTests
from tests.data.formats.make_ogbench import FILES, LENGTHS, NUM_VALIDATION, walk

NAME = "point-play-v0"
NUM_TRAIN = len(LENGTHS) - NUM_VALIDATION
#: Rows of the training file: a transition or a final state each.
NUM_ROWS = sum(LENGTHS[:NUM_TRAIN]) + NUM_TRAIN


def expected_episode(number):
    truth, length = walk(number), LENGTHS[number]
    columns = {"observation": truth["observations"][:length], "action": truth["actions"][:length]}
    columns |= {f"info.{name}": truth[name][:length] for name in ("qpos", "qvel", "button_states")}
    split = "train" if number < NUM_TRAIN else "val"
    return ExpectedEpisode(columns, {"observation": truth["observations"][length]}, "truncated", split=split)


class TestOGBench(FormatTests):
    """A folder as OGBench downloads it: training and validation."""

    format = OGBench()

    @pytest.fixture
    def source(self, tmp_path):
        (tmp_path / "data").mkdir()
        for name in (NAME, f"{NAME}-val"):
            shutil.copy(FILES / f"{name}.npz", tmp_path / "data")
        return tmp_path / "data"

    @pytest.fixture
    def expected(self):
        return [expected_episode(number) for number in range(len(LENGTHS))]


def read(path, **options):
    return list(open_source("ogbench", path, **options).records())


@pytest.mark.parametrize("layout", ["loaded", "compact"])
def test_what_ogbenchs_loader_returns_gives_the_same_episodes(layout):
    """With next_observations, and compact: every row but the final states, in float32."""
    records = read(FILES / "loaded" / f"{layout}.npz")
    assert len(records) == NUM_TRAIN
    for number, record in enumerate(records):
        expected = expected_episode(number)
        for name in ("observation", "action", "info.qpos"):
            np.testing.assert_array_equal(record.columns[name], expected.columns[name])
        np.testing.assert_array_equal(record.final["observation"], expected.final["observation"])
        assert record.ended == "truncated"
        np.testing.assert_array_equal(record.start_state["qpos"], walk(number)["qpos"][0])


def test_the_transitions_equal_those_of_ogbenchs_loader():
    theirs = np.load(FILES / "loaded" / "loaded.npz")
    records = read(FILES / f"{NAME}.npz")
    following = [np.concatenate([r.columns["observation"][1:], r.final["observation"][None]]) for r in records]
    for name, ours in {
        "observations": [record.columns["observation"] for record in records],
        "next_observations": following,
        "actions": [record.columns["action"] for record in records],
        "qpos": [record.columns["info.qpos"] for record in records],
        "terminals": [record.columns["next.truncated"].ravel() for record in records],
    }.items():
        np.testing.assert_array_equal(np.concatenate(ours), theirs[name])


def write(path, **changes):
    """Write the training file with other arrays."""
    arrays = {**np.load(FILES / f"{NAME}.npz"), **changes}
    np.savez_compressed(path, **{name: values for name, values in arrays.items() if values is not None})
    return path


def test_rewards_and_masks_of_a_single_task(tmp_path):
    """A mask of 0 in the last transition ends the task; before it, it does not end the episode."""
    loaded = dict(np.load(FILES / "loaded" / "loaded.npz"))
    num_rows = len(loaded["terminals"])
    masks = np.ones(num_rows, np.float32)
    masks[[2, LENGTHS[0] - 1]] = 0
    path = tmp_path / "point-play-singletask-v0.npz"
    np.savez_compressed(path, **loaded, rewards=masks * -1, masks=masks)
    records = read(path)
    assert [record.ended for record in records] == ["terminated", "truncated", "truncated", "truncated"]
    np.testing.assert_array_equal(np.concatenate([r.columns["next.reward"] for r in records]).ravel(), -masks)
    np.testing.assert_array_equal(np.concatenate([r.columns["info.masks"] for r in records]).ravel(), masks)


def test_pictures_are_pixels_and_other_lengths_are_left_out(tmp_path):
    pictures = np.arange(NUM_ROWS * 12).reshape(NUM_ROWS, 2, 2, 3).astype(np.uint8)
    source = open_source("ogbench", write(tmp_path / "visual.npz", observations=pictures, seed=np.arange(3)))
    record = next(source.records())
    np.testing.assert_array_equal(record.columns["pixels"], pictures[: LENGTHS[0]])
    np.testing.assert_array_equal(record.final["pixels"], pictures[LENGTHS[0]])
    assert f"seed, which has no row for each action (in {NUM_TRAIN} episodes)" in "\n".join(source.notes)


def test_a_file_that_ends_within_a_trajectory_is_unfinished(tmp_path):
    arrays = {name: values[:-2] for name, values in np.load(FILES / f"{NAME}.npz").items()}
    records = read(write(tmp_path / "cut.npz", **arrays))
    assert [record.ended for record in records] == ["truncated"] * 3 + ["unfinished"]
    assert records[-1].length == LENGTHS[3] - 2


def test_skipped_episodes_and_dropped_columns_are_not_needed(tmp_path):
    records = read(FILES / f"{NAME}.npz", skip_episode=[0, 2], drop="info")
    assert [record.episode for record in records] == [1, 3]
    np.testing.assert_array_equal(records[1].columns["action"], walk(3)["actions"][: LENGTHS[3]])


def test_python_objects_are_never_unpickled(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path.joinpath("harm").mkdir, ())

    path = write(tmp_path / "objects.npz", qpos=np.array([Harmful()], object))
    with pytest.raises(SchemaMismatchError, match=r"qpos\.npy: expected numbers, got Python objects"):
        open_source("ogbench", path)
    assert not (tmp_path / "harm").exists()


def test_another_layout_is_refused(tmp_path):
    with pytest.raises(SchemaMismatchError, match="got no terminals"):
        open_source("ogbench", write(tmp_path / "x.npz", terminals=None))
    with pytest.raises(SchemaMismatchError, match="all of one length, got lengths"):
        open_source("ogbench", write(tmp_path / "y.npz", terminals=np.ones(3, bool)))
    with pytest.raises(SchemaMismatchError, match="column-major"):
        open_source("ogbench", write(tmp_path / "z.npz", qpos=np.asfortranarray(np.ones((20, 2)))))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SchemaMismatchError, match="without"):
        open_source("ogbench", tmp_path / "empty")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminals": np.ones((NUM_ROWS, 2))}, r"terminals\.npy: expected a number for each row, got float64"),
        ({"terminals": np.array(["x"] * NUM_ROWS)}, r"terminals\.npy: expected a number for each row, got <U1"),
        ({"valids": np.ones((NUM_ROWS, 2))}, r"valids\.npy: expected a number for each row"),
        ({"rewards": np.ones((NUM_ROWS, 2))}, r"next\.reward: expected one number for each row, got float64 \[6, 2\]"),
        (dict.fromkeys(("terminals", "observations", "actions"), np.zeros((0, 1))), "without"),
    ],
)
def test_arrays_of_another_shape_are_refused(tmp_path, changes, message):
    with pytest.raises(SchemaMismatchError, match=message):
        open_source("ogbench", write(tmp_path / "x.npz", **changes))


def test_flags_may_have_a_dimension_of_one(tmp_path):
    terminals = np.load(FILES / f"{NAME}.npz")["terminals"].reshape(-1, 1)
    records = read(write(tmp_path / "x.npz", terminals=terminals))
    assert [record.length for record in records] == list(LENGTHS[:NUM_TRAIN])


def write_members(path, compression=zipfile.ZIP_DEFLATED, **shapes):
    """Write members of zeros whose headers declare shapes; a shape may be larger than what follows."""
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as archive:
        for name, (shape, num_bytes) in shapes.items():
            buffer = io.BytesIO()
            np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", buffer.getvalue() + bytes(num_bytes))
    return path


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (-2, -3)}", "a count, got -2"),
        (f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({2**70}, 0)}}", f"a count, got {2**70}"),
        ("{'descr': '<U0', 'fortran_order': False, 'shape': (20,)}", "expected numbers, got <U0, of no bytes"),
        ("{'descr': '(1f4,(', 'fortran_order': False, 'shape': (1,)}", "expected a readable array, got: '\\('"),
        ("{1: 2, 'a': 3}", "expected a readable array, got: '<' not supported"),
        ("{", "expected a readable array, got: .*EOF"),
        ("-" * 3000 + "1", "expected a readable array, got: maximum recursion depth"),
        ("(" * 20_000, r"expected a readable array, got: Header info length [^\n]* load securely\.$"),
    ],
)
def test_a_header_that_is_made_to_harm_is_refused(tmp_path, header, message):
    path = write(tmp_path / "x.npz")
    content = f"{header}\n".encode()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("extra.npy", b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content + bytes(6))
    with pytest.raises(SchemaMismatchError, match=rf"x\.npz, extra\.npy: .*{message}"):
        open_source("ogbench", path)


@pytest.mark.slow
def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path):
    size = FREE_BYTES + 2**24
    empty = dict.fromkeys(("actions", "observations"), ((size, 0), 0))
    with pytest.raises(SchemaMismatchError, match="that unpack to"):
        open_source("ogbench", write_members(tmp_path / "long.npz", terminals=((size,), size), **empty))
    with pytest.raises(SchemaMismatchError, match="rows of at most"):
        open_source("ogbench", write_members(tmp_path / "wide.npz", terminals=((1, size), 0)))
    with pytest.raises(SchemaMismatchError, match="expected 1000000000000 bytes"):
        open_source("ogbench", write_members(tmp_path / "short.npz", terminals=((10**12,), 10)))
    with pytest.raises(SchemaMismatchError, match="compression 14"):
        open_source("ogbench", write_members(tmp_path / "lzma.npz", zipfile.ZIP_LZMA, terminals=((1,), 1)))
