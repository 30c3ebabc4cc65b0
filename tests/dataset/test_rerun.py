"""Episodes for the Rerun viewer."""

import sys

import numpy as np
import pytest

from rlhive import RoboHiveDataset
from rlhive.errors import InvalidOptionError, MissingExtraError, SchemaMismatchError, StoreNotWritableError
from tests.cli.conftest import invoke
from tests.dataset.test_film import pictures  # noqa: F401 - a fixture


@pytest.mark.usefixtures("filled")
def test_without_the_sdk_it_is_refused_with_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'rlhive\[rerun\]'"):
        RoboHiveDataset("toy_point").save_rerun(0, tmp_path / "a.rrd")
    with pytest.raises(InvalidOptionError, match=r"expected a file named \.rrd"):
        RoboHiveDataset("toy_point").save_rerun(0, tmp_path / "a.mp4")
    assert list(tmp_path.glob("*.rrd*")) == []


@pytest.mark.usefixtures("filled")
def test_a_recording_holds_the_numbers_of_the_episode(tmp_path):
    dataframe = pytest.importorskip("rerun.dataframe")
    dataset = RoboHiveDataset("toy_point")
    path = dataset.save_rerun(3, tmp_path / "new" / "a.rrd")
    episode = dataset.select([3]).as_tensordict()

    table = dataframe.load_recording(path).view(index="step", contents="/**").select().read_all()
    columns = {name.split(":")[0]: name for name in table.column_names if name.endswith("Scalar")}
    observation, reward, action = (
        table[columns[name]].to_pylist() for name in ("/observation", "/next/reward", "/action")
    )

    assert table["step"].to_pylist() == list(range(21))
    assert np.allclose(observation[:20], episode["observation"].numpy())
    assert np.allclose(observation[20], episode["next", "observation"][-1].numpy())
    assert reward[0] is None
    assert np.allclose(reward[1:], episode["next", "reward"].numpy())
    assert action[20] is None
    assert [file.name for file in path.parent.iterdir()] == ["a.rrd"]


def test_pictures_are_there_for_each_camera_and_state(pictures, tmp_path):  # noqa: F811 - the fixture
    dataframe = pytest.importorskip("rerun.dataframe")
    path = RoboHiveDataset("film").save_rerun(0, tmp_path / "a.rrd")

    table = dataframe.load_recording(path).view(index="time", contents="/**").select().read_all()
    for camera in range(2):
        (name,) = [
            name for name in table.column_names if name.startswith(f"/pixels/{camera}:") and "ImageBuffer" in name
        ]
        stored = [np.array(row[0], np.uint8).reshape(16, 16, 3) for row in table[name].to_pylist()]
        assert np.array_equal(stored, pictures[:, camera])
    seconds = [value.total_seconds() for value in table["time"].to_pylist()]
    assert seconds == pytest.approx(np.arange(6) / 5)


@pytest.mark.usefixtures("filled")
def test_what_cannot_be_written_is_a_sentence(tmp_path):
    pytest.importorskip("rerun")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreNotWritableError, match="No recording can be written"):
        RoboHiveDataset("toy_point").save_rerun(0, tmp_path / "file" / "a.rrd")
    with pytest.raises(SchemaMismatchError, match="There is no episode 99"):
        RoboHiveDataset("toy_point").save_rerun(99, tmp_path / "a.rrd")


@pytest.mark.usefixtures("filled")
def test_the_verb_writes_the_recording_that_the_method_writes(tmp_path, monkeypatch):
    dataframe = pytest.importorskip("rerun.dataframe")
    monkeypatch.chdir(tmp_path)
    ran = invoke("video", "toy_point", "3", "--rerun")
    expected = RoboHiveDataset("toy_point").save_rerun(3, tmp_path / "expected.rrd")

    assert ran.exit_code == 0, ran.output
    assert ran.stdout == "Written: toy_point-3.rrd\n"
    tables = [
        dataframe.load_recording(path).view(index="step", contents="/**").select().read_all()
        for path in (tmp_path / "toy_point-3.rrd", expected)
    ]
    names = [name for name in tables[1].column_names if name.endswith("Scalar")]
    assert tables[0].select(names) == tables[1].select(names)
