"""The verb evaluate."""

import json

from rlhive.rollouts import _evaluate
from rlhive.rollouts._video import VideoOptions
from tests.cli.conftest import invoke


def test_evaluate_compares_a_policy_with_random_and_expert():
    ran = invoke("evaluate", "medium", "--env", "toy_point", "--episodes", 6, "--workers", 1, "--json")
    rows = json.loads(ran.stdout)

    assert [row["policy"] for row in rows] == ["medium", "random", "expert"]
    assert rows[2]["success_rate"] == 1.0
    assert rows[1]["return_mean"] < rows[0]["return_mean"] < rows[2]["return_mean"]


def test_evaluate_films_the_policy_alone(tmp_path, monkeypatch):
    filmed = []

    def film(env, policy, *, seed, video):
        filmed.append((policy.name, seed, video))
        return 1.0, True

    monkeypatch.setattr(_evaluate, "film_episode", film)
    words = ["evaluate", "noisy", "--env", "toy_point", "--episodes", 3, "--workers", 1, "--video", tmp_path]
    ran = invoke(*words, "--video-episodes", 2, "--video-camera", "top", "--seed", 7)

    assert filmed == [("noisy", seed, VideoOptions(tmp_path, "top")) for seed in (7, 8)]
    assert f"2 videos in {tmp_path}" in ran.stdout.replace("\n", "")


def test_evaluate_refuses_a_video_of_what_has_no_camera(tmp_path):
    ran = invoke("evaluate", "expert", "--env", "toy_point", "--episodes", 2, "--workers", 1, "--video", tmp_path)

    assert ran.exit_code == 1
    assert "error: ToyPoint-v0 has no camera for a video: expected a RoboHive environment" in ran.stderr
