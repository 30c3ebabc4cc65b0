"""HDF5 files that name other files, and that declare or unpack to more than they hold; all made here."""

import json
import os
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from rlhive.data.formats._convert import import_dataset, open_source
from rlhive.data.formats._hdf5 import Hdf5Group, open_hdf5
from rlhive.errors import RLHiveError, SchemaMismatchError

EXAMPLES = int(os.environ.get("RLHIVE_FUZZ", "25"))
SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----"
ROWS = 10


@pytest.fixture
def private(tmp_path):
    """Files of the victim, elsewhere on the machine."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "id_rsa").write_bytes(SECRET.ljust(ROWS * 3 * 8, b"\n"))
    with h5py.File(folder / "private.h5", "w") as h5:
        h5["data"] = np.full((ROWS, 3), 42.5)
        h5["group/data"] = np.full((ROWS, 3), 42.5)
    return folder


def add_external_link(h5, name, private):
    h5[name] = h5py.ExternalLink(private / "private.h5", "data")


def add_relative_external_link(h5, name, private):
    h5[name] = h5py.ExternalLink("home/private.h5", "data")


def add_link_through_an_external_group(h5, name, private):
    h5["shared"] = h5py.ExternalLink(private / "private.h5", "group")
    h5[name] = h5py.SoftLink("shared/data")


def add_chain_of_links(h5, name, private):
    h5["hidden/one"] = h5py.ExternalLink(private / "private.h5", "data")
    h5["hidden/two"] = h5py.SoftLink("one")
    h5[name] = h5py.SoftLink("hidden/two")


def add_virtual_dataset(h5, name, private):
    layout = h5py.VirtualLayout((ROWS, 3), "f8")
    layout[...] = h5py.VirtualSource(private / "private.h5", "data", shape=(ROWS, 3))
    h5.create_virtual_dataset(name, layout)


def add_link_to_a_virtual_dataset(h5, name, private):
    add_virtual_dataset(h5, "hidden/v", private)
    h5[name] = h5["hidden/v"]


def add_virtual_dataset_of_a_virtual_one(h5, name, private):
    add_virtual_dataset(h5, "hidden/v", private)
    layout = h5py.VirtualLayout((ROWS, 3), "f8")
    layout[...] = h5py.VirtualSource(".", f"{h5.name.rstrip('/')}/hidden/v", shape=(ROWS, 3))
    h5.create_virtual_dataset(name, layout)


def add_virtual_dataset_of_itself(h5, name, private):
    layout = h5py.VirtualLayout((ROWS, 3), "f8")
    layout[...] = h5py.VirtualSource(".", f"{h5.name.rstrip('/')}/{name}", shape=(ROWS, 3))
    h5.create_virtual_dataset(name, layout)


def add_external_storage(h5, name, private):
    h5.create_dataset(name, (ROWS, 3), "f8", external=[(str(private / "id_rsa"), 0, ROWS * 3 * 8)])


REFERENCES = [function for name, function in list(globals().items()) if name.startswith("add_")]


def write_d4rl(folder, add, private):
    with h5py.File(folder / "d4rl.hdf5", "w") as h5:
        h5["actions"], h5["rewards"] = np.zeros((ROWS, 2)), np.zeros(ROWS)
        h5["terminals"], h5["timeouts"] = np.zeros(ROWS, bool), np.arange(ROWS) == ROWS - 1
        h5["next_observations"] = np.zeros((ROWS, 3))
        add(h5, "observations", private)
    return folder / "d4rl.hdf5", {"breaks": "marked"}


def write_roboset(folder, add, private):
    with h5py.File(folder / "log.h5", "w") as h5:
        trial = h5.create_group("Trial0")
        trial["actions"] = np.where(np.arange(ROWS)[:, None] == ROWS - 1, np.nan, np.zeros((ROWS, 2)))
        trial["rewards"], trial["time"], trial["done"] = np.zeros(ROWS), np.arange(ROWS) / 10, np.zeros(ROWS, bool)
        add(trial, "observations", private)
    return folder / "log.h5", {}


def write_minari(folder, add, private):
    box = {"type": "Box", "dtype": "float64", "low": [-100.0] * 3, "high": [100.0] * 3, "shape": [3]}
    (folder / "minari/data").mkdir(parents=True)
    metadata = {
        "total_episodes": 1,
        "total_steps": ROWS - 1,
        "data_format": "hdf5",
        "observation_space": json.dumps(box),
        "action_space": json.dumps(box),
    }
    (folder / "minari/data/metadata.json").write_text(json.dumps(metadata))
    with h5py.File(folder / "minari/data/main_data.hdf5", "w") as h5:
        episode = h5.create_group("episode_0")
        episode["actions"], episode["rewards"] = np.zeros((ROWS - 1, 3)), np.zeros(ROWS - 1)
        episode["terminations"], episode["truncations"] = np.zeros(ROWS - 1, bool), np.arange(ROWS - 1) == ROWS - 2
        add(episode, "observations", private)
    return folder / "minari", {}


WRITERS = {"d4rl": write_d4rl, "roboset": write_roboset, "minari": write_minari}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("add", REFERENCES)
def test_a_reference_to_another_file_is_refused(kind, add, tmp_path, private):
    source, options = WRITERS[kind](tmp_path, add, private)

    with pytest.raises(SchemaMismatchError, match=r"expected values inside the file, got (an ext|a vir|val)"):
        import_dataset(kind, source, "lab/x", license="mit", store=tmp_path / "store", progress=False, **options)
    assert not [path for path in tmp_path.glob("store/**/*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("kind", WRITERS)
def test_links_inside_the_file_are_followed(kind, tmp_path, private):
    walk = np.arange(ROWS * 3, dtype=np.float64).reshape(ROWS, 3)

    def add_links(h5, name, private):
        h5["parts/first"], h5["parts/second"] = walk[:4], walk[4:]
        layout = h5py.VirtualLayout(walk.shape, "f8")
        root = h5.name.rstrip("/")
        layout[:4] = h5py.VirtualSource(".", f"{root}/parts/first", shape=(4, 3))
        layout[4:] = h5py.VirtualSource(".", f"{root}/parts/second", shape=(ROWS - 4, 3))
        h5.create_virtual_dataset("parts/all", layout)
        h5["alias"] = h5py.SoftLink("parts/all")
        h5[name] = h5py.SoftLink(f"{root}/alias")

    source, options = WRITERS[kind](tmp_path, add_links, private)
    if kind == "d4rl":
        with h5py.File(source, "a") as h5:
            h5["next_observations"][:-1] = walk[1:]

    record = next(open_source(kind, source, **options).records())

    expected = walk if kind == "d4rl" else walk[:-1]
    assert np.array_equal(record.columns["observation"], expected)


def test_links_in_a_circle_end(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["a"], h5["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")
    with open_hdf5(tmp_path / "x.h5") as h5, pytest.raises(SchemaMismatchError, match="more than 16 links in a row"):
        _ = "a" in h5
    with h5py.File(tmp_path / "y.h5", "w") as h5:
        h5["group/inner"], h5["nothing"] = h5["/"], h5py.SoftLink("/missing")
    with open_hdf5(tmp_path / "y.h5") as h5:
        assert isinstance(h5["group/inner/group/inner"], Hdf5Group)
        with pytest.raises(SchemaMismatchError, match="at most 32 groups in one another"):
            h5["group"].require_bounded()


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "log.h5")

    with pytest.raises(SchemaMismatchError, match="expected a file, got a file of another kind"):
        open_source("roboset", tmp_path)
    with pytest.raises(SchemaMismatchError):
        open_source("d4rl", tmp_path / "log.h5")


def test_values_texts_and_attributes_are_h5pys(tmp_path):
    texts = [["a", "bb"], ["", "π"], ["x" * 1000, "y"]]
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["texts"], h5["one"], h5["numbers"] = np.array(texts, object), "text", np.arange(12).reshape(3, 4)
        h5.create_dataset("packed", data=np.arange(1000), chunks=(100,), compression="gzip", shuffle=True)
        h5.attrs.update({"name": "knob", "levels": [1, 2], "words": ["a", "b"]})
    with open_hdf5(tmp_path / "x.h5") as h5:
        encoded = [[text.encode() for text in row] for row in texts]
        assert h5["texts"][()].tolist() == encoded
        assert h5["texts"][1:].tolist() == encoded[1:]
        assert h5["texts"][-1].tolist() == encoded[-1]
        assert h5["one"][()] == b"text"
        assert np.asarray(h5["numbers"]).tolist() == np.arange(12).reshape(3, 4).tolist()
        assert h5["numbers"][-1].tolist() == [8, 9, 10, 11]
        assert np.array_equal(h5["packed"][250:350], np.arange(250, 350))
        assert h5.attrs["name"] == "knob"
        assert h5.attrs["levels"].tolist() == [1, 2]
        assert sorted(h5) == ["numbers", "one", "packed", "texts"]
        assert "texts" in h5
        assert "nothing" not in h5
        assert "texts/inner" not in h5


def add_declared(h5, name):
    """A dataset of 24 GB whose values were never written."""
    h5.create_dataset(name, (10**9, 3), "f8", chunks=(10**4, 3))


def add_contiguous(h5, name):
    h5.create_dataset(name, (10**9, 3), "f8")


def add_inflating_chunk(h5, name):
    """A chunk of 240 bytes whose stream inflates to 100 MB."""
    dataset = h5.create_dataset(name, (ROWS, 3), "f8", chunks=(ROWS, 3), compression="gzip")
    packer, zeros = zlib.compressobj(1), bytes(2**20)
    content = b"".join(packer.compress(zeros) for _ in range(100)) + packer.flush()
    dataset.id.write_direct_chunk((0, 0), content)


def add_nested_compression(h5, name):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((ROWS, 3))
    plist.set_deflate(9)
    plist.set_deflate(9)
    h5py.h5d.create(h5.id, name.encode(), h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((ROWS, 3)), plist)


BOMBS = [add_declared, add_contiguous, add_inflating_chunk, add_nested_compression]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("add", BOMBS)
def test_data_that_unpack_to_more_than_the_file_accounts_for_are_refused(kind, add, tmp_path):
    source, options = WRITERS[kind](tmp_path, lambda h5, name, _: add(h5, name), None)

    with pytest.raises(SchemaMismatchError, match=r"unpack to|one compression|lengths"):
        list(open_source(kind, source, **options).records())


def test_one_text_that_stands_in_every_row_is_not_read_a_million_times(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        texts = h5.create_dataset("texts", (2000,), h5py.string_dtype())
        texts[0] = "x" * 10**6
    content = bytearray((tmp_path / "x.h5").read_bytes())
    entry = content.find((10**6).to_bytes(4, "little"))
    while content[entry - 16 : entry] != bytes(16) and content[entry + 16 : entry + 32] != bytes(16):
        entry = content.find((10**6).to_bytes(4, "little"), entry + 1)  # the first row: length, address and index
    for row in range(2000):
        content[entry + 16 * row : entry + 16 * (row + 1)] = content[entry : entry + 16]
    (tmp_path / "x.h5").write_bytes(content)
    with open_hdf5(tmp_path / "x.h5") as h5:
        assert len(h5["texts"][1234]) == 10**6
        with pytest.raises(SchemaMismatchError, match="unpack to"):
            h5["texts"][()]


@pytest.mark.parametrize("data", [np.zeros((200, 64, 64, 3), np.uint8), np.random.default_rng(0).normal(size=(500, 9))])
def test_healthy_data_are_read_whatever_their_compression(data, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        for name, options in {
            "raw": {},
            "gzip": {"compression": 9, "shuffle": True},
            "lzf": {"compression": "lzf"},
        }.items():
            h5.create_dataset(name, data=data, **options)
        h5.create_dataset("checked", data=data, compression=1, fletcher32=True)
        h5.create_dataset("whole", data=data, chunks=data.shape, compression=1)
    with open_hdf5(tmp_path / "x.h5") as h5:
        h5.require_bounded()
        for name in h5:
            assert np.array_equal(h5[name][()], data)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_graph_of_links_leads_out_of_the_file(data, tmp_path_factory):
    """Groups, links of all kinds and datasets at random: no value of the other file is ever read."""
    folder = tmp_path_factory.mktemp("links")
    with h5py.File(folder / "private.h5", "w") as h5:
        h5["a/b"], h5["b"] = np.full(3, 42.5), np.full(3, 42.5)
    names = st.sampled_from(["a", "b", "c", "a/b", "a/c", "b/c", "a/b/c"])
    with h5py.File(folder / "x.h5", "w") as h5:
        for name in data.draw(st.lists(names, min_size=1, max_size=6, unique=True)):
            kind = data.draw(st.sampled_from(["soft", "external", "virtual", "values", "group"]))
            target = data.draw(names)
            try:
                if kind == "soft":
                    h5[name] = h5py.SoftLink(data.draw(st.sampled_from([f"/{target}", target, f"./{target}"])))
                elif kind == "external":
                    h5[name] = h5py.ExternalLink(data.draw(st.sampled_from(["private.h5", "x.h5"])), target)
                elif kind == "virtual":
                    layout = h5py.VirtualLayout((3,), "f8")
                    file = data.draw(st.sampled_from([".", "private.h5", "%b.h5", str(folder / "private.h5")]))
                    layout[...] = h5py.VirtualSource(file, target, shape=(3,))
                    h5.create_virtual_dataset(name, layout)
                elif kind == "values":
                    h5[name] = np.zeros(3)
                else:
                    h5.create_group(name)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError):
                continue  # the name is taken, or h5py follows a link that leads nowhere
    with open_hdf5(folder / "x.h5") as h5:
        for name in ("a", "b", "c", "a/b", "a/c", "b/c", "a/b/c"):
            try:
                item = h5[name]
                values = np.zeros(3) if isinstance(item, Hdf5Group) else item[()]
            except (KeyError, RLHiveError):
                continue
            assert not np.any(values == 42.5)
