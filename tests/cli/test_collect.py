"""The verb collect: the options of pictures."""

from rlhive import RoboHiveDataset
from tests.cli.conftest import invoke


def test_pictures_are_collected_under_a_name_of_their_own(store) -> None:
    words = ["collect", "toy_point", "--pixels", "--image-size", 8, "--obs-key", "goal", "--workers", 1]
    ran = invoke(*words)
    assert ran.exit_code == 0, ran.stderr
    dataset = RoboHiveDataset("toy_point_pixels", generate=False)
    assert dataset.schema["pixels"].shape == (1, 8, 8, 3)
    assert dataset.schema["goal"].shape == (1,)
    assert dataset.task_name == "toy_point"


def test_options_of_pictures_are_refused_without_pictures(store) -> None:
    for option, value in (
        ("--camera", "top"),
        ("--image-size", 84),
        ("--render-quality", "fast"),
        ("--obs-key", "goal"),
    ):
        ran = invoke("collect", "toy_point", option, value)
        assert ran.exit_code == 1
        assert f"error: {option}: expected --pixels with options of pictures" in ran.stderr
    assert not store.exists()
