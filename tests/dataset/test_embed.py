"""Embeddings as a column: their values, going on after an interrupt, and training on them."""

import pytest
import torch

from rlhive import RoboHiveDataset, diff, embed, evaluate, load_policy, make_env, train
from rlhive.dataset import _embed
from rlhive.errors import InvalidOptionError, SchemaMismatchError
from rlhive.policies import load_frozen_encoder, parse_embedding
from rlhive.sim_algos._frozen_pictures import FrozenPictures, embed_observations
from tests.cli.conftest import invoke
from tests.sim_algos.toy import QUICK_SAC, collect_pixels

pytest.importorskip("torchvision")

ENCODER = {"name": "torchvision", "model": "resnet18", "resize": 32}
OPTIONS = {"encoder": "torchvision", "weights": "random", "resize": 32, "progress": False}
QUICK = ["train.num_steps=3", "train.batch_size=8", "logger=null", "network.hidden_sizes=[8]"]
COLUMN = "pixels_torchvision_resnet18"


@pytest.fixture
def dataset(store):
    return RoboHiveDataset(collect_pixels(store, expert=2, random=1))


def test_the_column_holds_what_the_encoder_computes(dataset) -> None:
    embedded = embed(dataset, **OPTIONS)
    encoder, digest = load_frozen_encoder((1, 16, 32, 3), ENCODER, "random")
    rows = embedded.as_tensordict()
    for part in (rows, rows["next"]):
        assert torch.allclose(part[COLUMN], encoder(part["pixels"]), atol=1e-5)
    assert (embedded.name, embedded.version) == (dataset.name, "1.1.0")
    embedding = parse_embedding(embedded.schema[COLUMN].unit)
    assert (embedding.column, embedding.encoder, embedding.digest) == ("pixels", ENCODER, digest)
    assert list(diff(dataset.path, embedded.path).to_json()["columns"]["added"]) == [COLUMN]
    assert not list((dataset.store / ".embeddings").iterdir())
    with pytest.raises(SchemaMismatchError, match=COLUMN):
        embed(embedded, **OPTIONS)


def test_an_interrupted_run_goes_on_where_it_was(dataset, monkeypatch) -> None:
    encode, calls = _embed._EpisodeEncoder._encode, []

    def stop_at_second(self, pictures):
        calls.append(len(pictures))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, pictures)

    monkeypatch.setattr(_embed._EpisodeEncoder, "_encode", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        embed(dataset, **OPTIONS)
    assert [path.name for path in dataset.path.parent.glob("[!.]*")] == ["1.0.0"]
    embedded = embed(dataset, **OPTIONS)
    assert len(calls) == 4  # the second and third episode; the first was kept
    monkeypatch.undo()
    whole = embed(dataset, **OPTIONS, name="my/whole")
    assert torch.equal(whole.as_tensordict()[COLUMN], embedded.as_tensordict()[COLUMN])


@pytest.mark.slow
def test_a_policy_of_embeddings_encodes_the_pictures_of_its_environment(dataset, tmp_path) -> None:
    embed(dataset, **OPTIONS)
    overrides = [*QUICK, "encoder=torchvision", "encoder.resize=32", "obs_keys=[pixels,goal]"]
    result = train("bc", dataset.name, overrides=overrides, output_dir=tmp_path, progress=False)
    policy = load_policy(result.checkpoint)
    assert policy.in_keys == ["goal", "pixels"]
    rows = RoboHiveDataset(dataset.name).as_tensordict()
    normalizer = policy.module[0].normalizer
    joined = torch.cat([rows["goal"], rows[COLUMN].double()], -1)
    expected = policy.module[1](normalizer(joined))
    assert torch.allclose(policy(rows.clone())["action"], expected, atol=1e-4)
    assert evaluate(result.checkpoint, "toy_point", num_episodes=1, num_workers=1, progress=False).num_episodes == 1


@pytest.mark.slow
def test_other_weights_than_those_of_the_column_are_refused(dataset, tmp_path) -> None:
    embedded = embed(dataset, **OPTIONS)
    overrides = [*QUICK, "encoder=torchvision", "encoder.resize=32"]
    kept = next((dataset.store / ".encoders").iterdir())
    state = torch.load(kept, weights_only=True)
    torch.save({name: value + 1 for name, value in state.items()}, tmp_path / "other.pt")
    others = [*overrides, f"encoder.weights={tmp_path / 'other.pt'}"]
    with pytest.raises(InvalidOptionError, match="was computed with other weights, expected sha256"):
        train("bc", embedded.name, overrides=others, output_dir=tmp_path / "run", progress=False)
    kept.rename(tmp_path / "moved.pt")
    with pytest.raises(
        InvalidOptionError, match=r"weights that are not on this machine .* expected encoder.weights=FILE"
    ):
        train("bc", embedded.name, overrides=overrides, output_dir=tmp_path / "run", progress=False)
    overrides.append(f"encoder.weights={tmp_path / 'moved.pt'}")
    assert train("bc", embedded.name, overrides=overrides, output_dir=tmp_path / "run", progress=False).curve


@pytest.mark.slow
def test_collected_episodes_are_embedded_as_those_of_the_dataset(dataset, tmp_path) -> None:
    embed(dataset, **OPTIONS)
    overrides = [*QUICK_SAC, "train.num_steps=4", "encoder=torchvision", "encoder.resize=32", "logger=null"]
    from_data = train("sac", dataset.name, overrides=overrides, output_dir=tmp_path / "data", progress=False)
    overrides += ["encoder.weights=random", "encoder.image_size=[16,32]"]
    alone = train("sac", env="toy_point", overrides=overrides, output_dir=tmp_path / "alone", progress=False)
    for result in (from_data, alone):
        assert load_policy(result.checkpoint).in_keys == ["pixels"]


def test_an_environment_returns_the_embeddings_of_its_pictures() -> None:
    encoder, _ = load_frozen_encoder((1, 16, 32, 3), ENCODER, "random")
    base = make_env("toy_point", from_pixels=True, image_size=(16, 32), seed=0)
    env = embed_observations(base, [FrozenPictures("pixels", COLUMN, encoder)])
    rows = env.rollout(3)
    for part in (rows, rows["next"]):
        expected = torch.cat([encoder(picture.unsqueeze(0)) for picture in part["pixels"]])
        assert torch.equal(part[COLUMN], expected)
    assert env.observation_spec[COLUMN].shape == (512,)


def test_what_is_no_column_of_pictures_is_refused(dataset) -> None:
    for column, got in (("observation", r"float64 \(2,\)"), ("picture", "none")):
        with pytest.raises(InvalidOptionError, match=f"expected pictures in the column '{column}', got {got}"):
            embed(dataset, **OPTIONS, column=column)


def test_the_command_writes_the_next_version_and_asks_for_weights(dataset) -> None:
    words = ["embed", dataset.name, "--encoder", "torchvision", "--resize", 32]
    refused = invoke(*words)
    assert refused.exit_code == 1
    assert "error: encoder=torchvision: expected weights, got none" in refused.stderr
    ran = invoke(*words, "--weights", "random")
    assert ran.exit_code == 0, ran.stderr
    assert f"{COLUMN}: float32 [512]" in ran.stdout
