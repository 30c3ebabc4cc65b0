"""Certificates of replays: a written certificate is read back, and an unreadable file counts as none."""

import json

import pytest

from rlhive.data.versions._certificate import (
    BIT_EXACT,
    DIVERGES,
    IMPOSSIBLE,
    TOLERATED,
    Certificate,
    EpisodeReplay,
    read_certificate,
)

FINGERPRINT = "f" * 64


def make_certificate(*, num_episodes=6, **verdicts):
    return Certificate(
        name="my/knob",
        version="1.0.0",
        fingerprint=FINGERPRINT,
        env_name="ToyPoint-v0",
        num_episodes=num_episodes,
        of_episodes=6,
        verdicts=verdicts or {BIT_EXACT: num_episodes},
        observation_error=1.5e-3,
        reward_error=0.0,
        tolerance=1e-6,
        differences=("mujoco 3.1.3, recorded 3.1.2",),
        notable=("episode 3 diverges at step 7",),
        environment={"model_hash": "ab12"},
        host={"machine": "x86_64"},
        created="2026-01-01T00:00:00+00:00",
    )


def test_a_saved_certificate_is_read_back(tmp_path):
    certificate = make_certificate()

    path = certificate.save(store=tmp_path)

    assert path == tmp_path / ".certificates" / f"{FINGERPRINT}.json"
    assert read_certificate(FINGERPRINT, store=tmp_path) == certificate
    content = json.loads(path.read_text())
    assert (content["format_version"], content["verdict"]) == (1, BIT_EXACT)


@pytest.mark.parametrize(
    ("verdicts", "verdict", "ok"),
    [
        ({BIT_EXACT: 3}, BIT_EXACT, True),
        ({BIT_EXACT: 3, TOLERATED: 1}, TOLERATED, True),
        ({BIT_EXACT: 3, TOLERATED: 1, DIVERGES: 1}, DIVERGES, False),
        ({BIT_EXACT: 3, DIVERGES: 1, IMPOSSIBLE: 1}, IMPOSSIBLE, False),
        ({BIT_EXACT: 3, DIVERGES: 0}, BIT_EXACT, True),
        ({BIT_EXACT: 0}, IMPOSSIBLE, False),
    ],
)
def test_the_verdict_is_the_worst_of_any_episode(verdicts, verdict, ok):
    certificate = make_certificate(**verdicts)

    assert (certificate.verdict, certificate.ok) == (verdict, ok)


def test_a_replay_of_fewer_episodes_does_not_replace_one_of_more_with_the_same_verdict(tmp_path):
    make_certificate(num_episodes=4).save(store=tmp_path)

    make_certificate(num_episodes=2).save(store=tmp_path)
    assert read_certificate(FINGERPRINT, store=tmp_path).num_episodes == 4

    make_certificate(num_episodes=5).save(store=tmp_path)
    assert read_certificate(FINGERPRINT, store=tmp_path).num_episodes == 5

    make_certificate(num_episodes=1, **{DIVERGES: 1}).save(store=tmp_path)
    assert read_certificate(FINGERPRINT, store=tmp_path).verdict == DIVERGES


def test_a_certificate_of_more_than_a_mebibyte_is_not_read(tmp_path):
    path = make_certificate().save(store=tmp_path)
    path.write_text(path.read_text() + " " * 2**20)

    assert read_certificate(FINGERPRINT, store=tmp_path) is None


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format_version": 9}', "\x00" * 99], ids=lambda text: text[:9])
def test_a_file_that_is_no_certificate_reads_as_none(content, tmp_path):
    path = make_certificate().save(store=tmp_path)
    path.write_text(content)

    assert read_certificate(FINGERPRINT, store=tmp_path) is None


@pytest.mark.parametrize(
    ("field", "value"), [("fingerprint", "e" * 64), ("format_version", 2), ("notable", 3), ("unknown", 1)]
)
def test_a_certificate_of_other_content_or_format_reads_as_none(field, value, tmp_path):
    path = make_certificate().save(store=tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))

    assert read_certificate(FINGERPRINT, store=tmp_path) is None


def test_the_text_names_counts_and_the_step_that_differs():
    certificate = make_certificate(**{BIT_EXACT: 5, DIVERGES: 1})
    episode = EpisodeReplay(3, DIVERGES, step=7, reason="another reward")

    assert str(certificate) == (
        "6 of 6 episodes replayed in ToyPoint-v0: 5 bit-exact, 1 diverges; largest error 0.0015 in observations, "
        "0 in rewards"
    )
    assert str(episode) == "episode 3 diverges at step 7: another reward"
    assert str(EpisodeReplay(4, BIT_EXACT)) == "episode 4 bit-exact"
