"""RLDS datasets, written by TensorFlow Datasets (make_rlds.py), and modified copies of them."""

import json
import shutil
import struct
import tracemalloc
import zlib

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from rlhive import RoboHiveDataset
from rlhive.cli import app
from rlhive.data.formats import _tfrecord
from rlhive.data.formats._builtin import RLDS
from rlhive.data.formats._convert import import_dataset, open_source
from rlhive.data.formats._rlds import read_rlds
from rlhive.errors import SchemaMismatchError, UnsupportedFormatError
from rlhive.testing import ExpectedEpisode, FormatTests
from tests.data.formats.make_rlds import FILES, LENGTHS, SPLITS, TERMINAL, truth

CLOSED, LOGGED = FILES / "closed-tfrecord", FILES / "logged-tfrecord"
SHARD = "arm-train.tfrecord-00000-of-00002"

#: Column → what it holds at every row of the truth; observed ones have a row more.
OBSERVED = {
    "observation.state": "state",
    "observation.precise": "precise",
    "observation.touch": "touch",
    "observation.plan.corners": "corners",
    "pixels.top": "top",
    "depth.depth": "depth",
    "depth.millimetres": "millimetres",
}
OTHERS = {
    "action.move": "move",
    "action.grip": "grip",
    "discount": "discount",
    "language_instruction": "instruction",
}


def number_of(record):
    return record.metadata["episode_metadata"]["number"]


def assert_true(record, *, num_rows, final):
    """Compare ``num_rows`` transitions and the final values, which are those of state ``final``."""
    number = number_of(record)
    values = truth(number)
    assert record.length == num_rows
    for column, name in OBSERVED.items():
        expected = values[name]
        assert record.columns[column].dtype == expected.dtype, column
        np.testing.assert_array_equal(record.columns[column], expected[:num_rows], err_msg=column)
        np.testing.assert_array_equal(record.final[column], expected[final], err_msg=column)
    for column, name in OTHERS.items():
        assert record.columns[column].dtype == values[name].dtype, column
        np.testing.assert_array_equal(record.columns[column], values[name][:num_rows], err_msg=column)
    np.testing.assert_array_equal(record.columns["next.reward"], values["reward"][:num_rows, None])
    forces, lengths = record.columns["forces"], record.columns["forces_length"]
    assert lengths.tolist() == [row % 3 for row in range(num_rows)]
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(forces[row], np.pad(values["forces"][row], (0, 2 - length)))
    decoded = np.load(FILES / "wrist_as_tensorflow_decodes_it.npz")[str(number)]
    np.testing.assert_array_equal(record.columns["pixels.wrist"], decoded[:num_rows])
    np.testing.assert_array_equal(record.final["pixels.wrist"], decoded[final])
    assert set(record.columns) == {
        *OBSERVED,
        *OTHERS,
        "pixels.wrist",
        *(f"next.{name}" for name in ("reward", "terminated", "truncated")),
        "forces",
        "forces_length",
    }


def expected_episode(number, length, final):
    """Return ``length`` transitions of an episode, and the final values of state ``final``."""
    values = truth(number)
    observed = {column: values[name] for column, name in OBSERVED.items()}
    observed["pixels.wrist"] = np.load(FILES / "wrist_as_tensorflow_decodes_it.npz")[str(number)]
    columns = {column: rows[:length] for column, rows in observed.items()}
    columns |= {column: values[name][:length] for column, name in OTHERS.items()}
    columns["next.reward"] = values["reward"][:length, None]
    columns["forces"] = np.zeros((length, 2), np.float32)
    for row, forces in enumerate(values["forces"][:length]):
        columns["forces"][row, : len(forces)] = forces
    columns["forces_length"] = np.arange(length) % 3
    split = next(split for split, numbers in SPLITS.items() if number in numbers)
    return ExpectedEpisode(
        columns,
        {column: rows[final] for column, rows in observed.items()},
        "terminated" if TERMINAL[number] else "truncated",
        split=split,
        metadata={"task": f"öffne Schublade {number}"},
    )


class ClosedTests(FormatTests):
    """Episodes whose last step is the final observation alone."""

    format = RLDS()
    kind: str
    ignored_files = ("LICENSE",)

    @pytest.fixture
    def source(self, tmp_path):
        return shutil.copytree(FILES / self.kind, tmp_path / self.kind)

    @pytest.fixture
    def expected(self):
        return [expected_episode(number, length, -1) for number, length in enumerate(LENGTHS)]


class TestClosedTFRecord(ClosedTests):
    kind = "closed-tfrecord"


class TestClosedParquet(ClosedTests):
    kind = "closed-parquet"


class TestLoggedTFRecord(ClosedTests):
    """Episodes whose last step is a transition: one that was cut off loses it, and one step that was cut off all."""

    kind = "logged-tfrecord"

    @pytest.fixture
    def expected(self):
        lengths = {number: LENGTHS[number] - (not TERMINAL[number]) for number in (0, 2, 3, 4)}
        return [expected_episode(number, length, LENGTHS[number] - 1) for number, length in lengths.items()]


@pytest.mark.parametrize("kind", ["tfrecord", "parquet"])
def test_the_last_step_is_the_true_final_observation_bit_for_bit(kind):
    source = read_rlds(FILES / f"closed-{kind}")
    records = list(source.records())
    assert [number_of(record) for record in records] == [0, 1, 2, 3, 4]
    assert source.num_episodes == 5
    assert source.splits == ("train", "val")
    assert source.notes[0].startswith("the last step of an episode is its final observation")
    for record in records:
        number = number_of(record)
        assert_true(record, num_rows=LENGTHS[number], final=-1)
        assert record.ended == ("terminated" if TERMINAL[number] else "truncated")
        assert number in SPLITS[record.split]
        assert record.metadata["task"] == f"öffne Schublade {number}"
        metadata = {"number": number, "operator": f"Åsa {number}", "gains": [float(number), float(np.float32(0.1))]}
        assert record.metadata["episode_metadata"] == metadata
    assert records[1].metadata["file"] == f"arm-train.{kind}-00000-of-00002"
    assert records[1].metadata["record"] == 1


def test_logged_steps_are_transitions_and_nothing_is_invented():
    source = read_rlds(LOGGED)
    records = {number_of(record): record for record in source.records()}
    # Episode 1 has a single step and was cut off: what its action led to is not known.
    assert sorted(records) == [0, 2, 3, 4]
    assert source.num_episodes == 4
    assert "episodes without a transition, left out: 1" in source.notes
    assert "is a transition" in source.notes[0]
    for number, record in records.items():
        if TERMINAL[number]:  # the end is read; its state is not in the files
            assert_true(record, num_rows=LENGTHS[number], final=LENGTHS[number] - 1)
            assert record.metadata["final_observation"] == "unknown"
            assert record.ended == "terminated"
        else:
            assert_true(record, num_rows=LENGTHS[number] - 1, final=LENGTHS[number] - 1)
            assert "final_observation" not in record.metadata
            assert record.ended == "truncated"


def test_an_import_creates_a_version(tmp_path, caplog):
    folder = import_dataset("rlds", CLOSED, "lab/arm", license="cc-by-4.0", store=tmp_path, progress=False)
    dataset = RoboHiveDataset(folder)
    assert dataset.episodes["split"].to_pylist() == ["train", "train", "train", "val", "val"]
    td = dataset.as_tensordict()
    first = truth(0)
    np.testing.assert_array_equal(td["next", "observation", "state"][: LENGTHS[0]], first["state"][1:])
    assert td["next", "terminated"].sum() == sum(TERMINAL)
    run = dataset.manifest.runs[0]
    assert (run["dataset"], run["last_step"], len(run["sha256"])) == ("arm/closed:1.2.0", "observation", 4)
    messages = "\n".join(caplog.messages)
    for words in ("its final observation", "JPEG pictures, decoded: observation/wrist", "cc-by-4.0"):
        assert words in messages
    with pytest.raises(UnsupportedFormatError, match=r"no option 'breaks'.*last_step, drop, split"):
        import_dataset("rlds", CLOSED, "lab/b", license="mit", store=tmp_path, progress=False, breaks="found")
    assert not (tmp_path / "lab" / "b").exists()


def test_the_command_takes_its_options(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHIVE_DATASETS_PATH", str(tmp_path))
    command = ["import", "rlds", str(CLOSED), "lab/arm", "--license", "mit", "--split", "val"]
    command += ["--drop", "observation/top", "--drop", "observation/plan", "--last-step", "transition"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    dataset = RoboHiveDataset("lab/arm")
    assert list(dataset.manifest.splits) == ["val"]
    columns = dataset.manifest.schema.columns
    assert "pixels.wrist" in columns
    assert not {"pixels.top", "observation.plan.corners"} & set(columns)
    # Taken at its word: the closing step of the episode that ended is a transition too.
    assert dataset.episodes["length"].to_pylist() == [LENGTHS[3], LENGTHS[4] + 1]


# --- copies that were changed ---


def contents_of(path):
    return list(_tfrecord.read_tfrecords(path))


def write_records(path, contents):
    """Write a TFRecord file."""
    with path.open("wb") as file:
        for content in contents:
            head = struct.pack("<Q", len(content))
            for part in (head, content):
                file.write(part + struct.pack("<I", _tfrecord.mask_checksum(google_crc32c.value(part))))


@pytest.fixture
def copy(tmp_path):
    """Return a function that copies a dataset, changing every parsed record in place."""

    def copied(source, change=lambda number, features: None):
        target = tmp_path / "copy"
        shutil.copytree(source, target)
        message, _ = _tfrecord.build_example_class()
        for path in sorted(target.glob("*.tfrecord-*")):
            changed = []
            for content in contents_of(path):
                example = message.FromString(content)
                features = example.features.feature
                change(features["episode_metadata/number"].int64_list.value[0], features)
                changed.append(example.SerializeToString())
            write_records(path, changed)
        return target

    return copied


def floats(features, name, width=1):
    values = features[f"steps/{name}"].float_list.value
    return np.array(values).reshape(-1, width)


def put(features, name, rows):
    values = features[f"steps/{name}"].float_list.value
    del values[:]
    values.extend(np.ravel(rows).tolist())


def test_a_copy_that_nothing_changed_is_the_same(copy):
    again = list(read_rlds(copy(CLOSED)).records())
    for before, after in zip(read_rlds(CLOSED).records(), again, strict=True):
        assert before.content_hash() == after.content_hash()


def without_last_reward(number, features):
    rewards = floats(features, "reward")
    rewards[-1] = 0
    put(features, "reward", rewards)


def with_full_discount(number, features):
    put(features, "discount", np.ones_like(floats(features, "discount")))


def with_one_closing_step_filled(number, features):
    if number == 3:
        put(features, "reward", floats(features, "reward") + 1)
        put(features, "action/move", floats(features, "action/move", 6) + 1)


@pytest.mark.parametrize(
    ("source", "change", "says"),
    [
        (LOGGED, without_last_reward, "0 have no action, reward or discount but zeros, 0 have both"),
        (CLOSED, with_full_discount, "0 have no action"),
        (CLOSED, with_one_closing_step_filled, "of 5 last steps, 4 have no action"),
    ],
)
def test_ambiguous_last_steps_are_refused_without_an_option(copy, source, change, says):
    folder = copy(source, change)
    with pytest.raises(SchemaMismatchError, match=says) as refused:
        read_rlds(folder)
    assert "last_step='observation'" in str(refused.value)
    for last_step in ("observation", "transition", "each"):
        assert read_rlds(folder, last_step=last_step).notes[0].endswith("as the option last_step says")


def test_last_actions_of_zero_decide_nothing_if_zeros_are_frequent(copy):
    """One class in three is 0: five last steps with a 0 say little, and with as many zeros elsewhere nothing."""

    def idle(number, features):
        put(features, "action/move", np.zeros_like(floats(features, "action/move", 6)))
        put(features, "reward", np.zeros_like(floats(features, "reward")))
        grips = features["steps/action/grip"].int64_list.value
        grips[:] = [0] * len(grips)

    with pytest.raises(SchemaMismatchError, match="100% of the other steps have zeros too"):
        read_rlds(copy(CLOSED, idle))


def test_the_option_each_decides_for_every_episode(copy):
    """As in TFDS's conversion of D4RL: a closing step where the task ended, of zeros where the state is not known."""

    def as_d4rl(number, features):
        if TERMINAL[number]:
            state = floats(features, "observation/state", 7)
            state[-1] = 0
            put(features, "observation/state", state)
        else:
            with_one_closing_step_filled(3, features)

    folder = copy(CLOSED, as_d4rl)
    keep = ["observation/precise", "observation/top", "observation/wrist", "observation/depth"]
    keep += ["observation/millimetres", "observation/touch", "observation/plan"]
    with pytest.raises(SchemaMismatchError, match="3 have no action, reward or discount but zeros, 2 have both"):
        read_rlds(folder)
    records = {number_of(record): record for record in read_rlds(folder, last_step="each", drop=keep).records()}
    assert records[0].length == LENGTHS[0]
    assert records[0].metadata["final_observation"] == "unknown"
    assert not records[0].final["observation.state"].any()
    assert records[3].length == LENGTHS[3]
    np.testing.assert_array_equal(records[3].final["observation.state"], truth(3)["state"][-1])


def test_a_recording_that_was_cut_short_is_unfinished(copy):
    def cut(number, features):
        features["steps/is_last"].int64_list.value[-1] = 0
        features["steps/is_terminal"].int64_list.value[-1] = 0

    records = list(read_rlds(copy(LOGGED, cut)).records())
    assert [record.ended for record in records] == ["unfinished"] * 4
    for record in records:
        number = number_of(record)
        assert_true(record, num_rows=LENGTHS[number] - 1, final=LENGTHS[number] - 1)


@pytest.mark.parametrize("flag", ["is_first", "is_last", "is_terminal"])
def test_flags_inside_an_episode_are_refused(copy, flag):
    def change(number, features):
        if number == 3:
            features[f"steps/{flag}"].int64_list.value[2] = 1

    with pytest.raises(
        SchemaMismatchError, match=f"val.*record 0: expected {flag} at the .* of its 6 steps, got it at step 2"
    ):
        read_rlds(copy(CLOSED, change))


def test_a_missing_is_first_flag_is_recorded_in_the_metadata(copy):
    def change(number, features):
        features["steps/is_first"].int64_list.value[0] = 0

    assert all(record.metadata["is_first"] is False for record in read_rlds(copy(CLOSED, change)).records())


def test_lists_of_a_record_that_features_json_does_not_list_are_counted(copy):
    def add(number, features):
        features["steps/observation/force"].float_list.value.extend([1.0, 2.0])
        if number == 3:
            features["comment"].bytes_list.value.append(b"rain")

    (note,) = [note for note in read_rlds(copy(CLOSED, add)).notes if "not list" in note]
    listed = "comment (in 1 records), steps/observation/force (in 5 records)"
    assert note == f"left out, as features.json does not list them: {listed}"
    for kind in ("closed-tfrecord", "closed-parquet", "logged-tfrecord"):
        assert not any("not list" in note for note in read_rlds(FILES / kind).notes)


# --- damage ---


def flipped(path, byte):
    content = bytearray(path.read_bytes())
    content[byte] ^= 4
    path.write_bytes(content)


def truncated(path, size):
    path.write_bytes(path.read_bytes()[:size])


DAMAGE = [
    (lambda path: flipped(path, 2), "record 0 at byte 0, length: expected the checksum"),
    (lambda path: flipped(path, 5000), "record 0 at byte 0: expected the checksum"),
    (lambda path: flipped(path, -3), "record 1 at byte .*: expected the checksum"),
    (lambda path: truncated(path, 7), "record 0 at byte 0: expected a whole record"),
    (lambda path: truncated(path, 5000), "record 0 at byte 0: expected a whole record"),
    (
        lambda path: truncated(path, len(contents_of(path)[0]) + 16),
        "expected 2 records, as dataset_info.json says, got 1",
    ),
    (lambda path: path.unlink(), "expected the file arm-train.tfrecord-00000-of-00002"),
    (lambda path: write_records(path, [b"\xff\xff", b""]), "record 0: expected a tf.train.Example"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGE, ids=[says[:40] for _, says in DAMAGE])
def test_a_damaged_file_is_an_error_in_one_sentence_and_leaves_nothing(damage, says, tmp_path):
    source, store = tmp_path / "source", tmp_path / "store"
    shutil.copytree(CLOSED, source)
    damage(source / SHARD)
    with pytest.raises(SchemaMismatchError, match=says):
        import_dataset("rlds", source, "lab/arm", license="mit", store=store, progress=False)
    assert not list(store.rglob("*.parquet"))


def test_a_flip_of_any_bit_of_a_tfrecord_is_detected(tmp_path):
    """All flips of a small file, one at a time: never a value that was not written, never another error."""
    path = tmp_path / "x.tfrecord"
    write_records(path, [b"abc", b"defgh"])
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(SchemaMismatchError):
            contents_of(path)
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        if size != 16 + 3:  # the end of a record, which the number of records tells
            with pytest.raises(SchemaMismatchError, match="whole record"):
                contents_of(path)


def test_damaged_parquet_is_an_error_in_one_sentence(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(FILES / "closed-parquet", source)
    shard = source / "arm-train.parquet-00000-of-00002"
    truncated(shard, 5000)
    with pytest.raises(SchemaMismatchError, match="expected Parquet with a column of records"):
        read_rlds(source)
    pq.write_table(pa.table({"other": [b""]}), shard)
    with pytest.raises(SchemaMismatchError, match="expected Parquet with a column of records"):
        read_rlds(source)


def set_feature(node, *path):
    for part in path[:-1]:
        node = node[part]
    return node, path[-1]


STEP = ("featuresDict", "features", "steps", "sequence", "feature", "featuresDict", "features")


def features_changed(change):
    def apply(folder):
        path = folder / "features.json"
        tree = json.loads(path.read_text())
        node = tree
        for part in STEP:
            node = node[part]
        change(node)
        path.write_text(json.dumps(tree))

    return apply


def rename(node, old, new):
    node[new] = node.pop(old)


STRANGE = [
    (
        lambda node: node["reward"].update(pythonClassName="lab.Spectrum", tensor={}),
        "feature steps/reward.*got Spectrum",
    ),
    (
        lambda node: node["reward"]["tensor"].update(dtype="complex64"),
        "feature steps/reward: expected one of.*complex64",
    ),
    (lambda node: node["reward"]["tensor"].update(dtype="int64"), "steps/reward: expected int64.*stored as float32"),
    (lambda node: node["discount"]["tensor"].update(shape={"dimensions": ["2"]}), "steps/discount"),
    (
        lambda node: node["language_instruction"].update(node["reward"]),
        "language_instruction to hold numbers, got bytes",
    ),
    (lambda node: rename(node, "is_last", "last"), "no RLDS dataset"),
    (lambda node: rename(node, "discount", "gamma"), "expected steps/gamma, which features.json names, got none"),
    (lambda node: rename(node, "discount", "a.b"), "drop='a.b'"),
    (lambda node: node.update(reward={"tensor": {}}), "as TFDS 4.6 and later write them"),
    (lambda node: node["action"]["featuresDict"]["features"]["grip"].update(node["is_last"]), "grip: expected bool"),
]


@pytest.mark.parametrize(("change", "says"), STRANGE, ids=[says[:30] for _, says in STRANGE])
def test_a_feature_that_is_not_what_the_files_hold_is_refused(change, says, tmp_path):
    folder = tmp_path / "source"
    shutil.copytree(CLOSED, folder)
    features_changed(change)(folder)
    with pytest.raises(SchemaMismatchError, match=says):
        list(read_rlds(folder).records())


def test_nothing_that_features_json_names_is_imported(tmp_path, monkeypatch):
    (tmp_path / "lab_trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "source"
    shutil.copytree(CLOSED, folder)
    features_changed(lambda node: node["reward"].update(pythonClassName="lab_trap.Tensor"))(folder)
    assert next(read_rlds(folder).records()).length == LENGTHS[0]


def test_a_folder_that_is_not_an_rlds_dataset_is_refused(tmp_path):
    with pytest.raises(SchemaMismatchError, match="got one below closed-parquet, closed-tfrecord, logged-tfrecord"):
        read_rlds(FILES)
    with pytest.raises(SchemaMismatchError, match=r"with dataset_info.json, got none"):
        read_rlds(tmp_path)
    with pytest.raises(SchemaMismatchError, match="expected a split 'test', got train, val"):
        read_rlds(CLOSED, split="test")
    with pytest.raises(SchemaMismatchError, match="drop='observation/nose': expected one of"):
        read_rlds(CLOSED, drop="observation/nose")
    with pytest.raises(SchemaMismatchError, match="last_step='zero': expected one of"):
        open_source("rlds", CLOSED, last_step="zero")
    folder = tmp_path / "source"
    shutil.copytree(CLOSED, folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    for change, says in [
        ({"fileFormat": "array_record"}, "tfds convert_format"),
        ({"splits": [{"name": "train"}]}, "as TFDS 4.6 and later write them"),
        (
            {"splits": [{**info["splits"][0], "filepathTemplate": "../x"}]},
            r"filepathTemplate: expected a path inside .*source, got '\.\./x'",
        ),
    ]:
        (folder / "dataset_info.json").write_text(json.dumps({**info, **change}))
        with pytest.raises(SchemaMismatchError, match=says):
            read_rlds(folder)
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(SchemaMismatchError, match="expected JSON"):
        read_rlds(folder)


def test_a_damaged_picture_names_its_record(copy):
    def change(number, features):
        if number == 4:
            features["steps/observation/top"].bytes_list.value[1] = b"\x89PNG nothing"

    source = read_rlds(copy(CLOSED, change))
    with pytest.raises(
        SchemaMismatchError, match=r"val.*record 0: steps/observation/top: expected a PNG or JPEG picture"
    ):
        list(source.records())


def test_a_decompression_bomb_is_not_unpacked(copy):
    def change(number, features):
        features["steps/observation/precise"].bytes_list.value[0] = zlib.compress(bytes(2**26))

    source = copy(CLOSED, change)
    tracemalloc.start()
    try:
        with pytest.raises(SchemaMismatchError, match=r"steps/observation/precise: expected float64 \[2\]"):
            read_rlds(source)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
