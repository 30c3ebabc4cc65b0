"""Pretrained encoders: the embeddings of TorchRL's transforms, weights from files, and what is refused."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import R3MTransform, VIPTransform

from rlhive.errors import CheckpointMismatchError, HubUnreachableError, InvalidOptionError
from rlhive.policies._frozen import (
    FrozenEncoder,
    copy_values,
    describe_embedding,
    hash_weights,
    load_frozen_encoder,
    parse_embedding,
    save_frozen_weights,
)

pytest.importorskip("torchvision")

SHAPE = (2, 20, 24, 3)
SMALL = {"name": "torchvision", "model": "resnet18", "resize": 32}
TRANSFORMS = {"r3m": ("resnet18", R3MTransform), "vip": ("resnet50", VIPTransform)}


def draw_pictures(num_rows: int, shape=SHAPE) -> torch.Tensor:
    return torch.randint(0, 256, (num_rows, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_embeddings_are_those_of_torchrls_transform(name) -> None:
    model, transform_class = TRANSFORMS[name]
    encoder, _ = load_frozen_encoder(SHAPE, {"name": name, "model": model, "resize": 64}, "random")
    transform = transform_class(model, in_keys=["pixels"], out_keys=["embedding"], size=64).eval()
    transform[-1].convnet.load_state_dict(encoder.convnet.state_dict(), strict=False)
    pictures = draw_pictures(3)
    with torch.no_grad():
        expected = transform(TensorDict({"pixels": pictures}, batch_size=[3]))["embedding"]
    assert encoder.feature_dim == expected.flatten(1).shape[1]
    assert torch.equal(encoder(pictures), expected.flatten(1))


@pytest.mark.parametrize("name", ["r3m", "torchvision"])
def test_weights_are_read_from_the_file_that_their_publisher_offers(tmp_path, name) -> None:
    section = SMALL | {"name": name}
    random, digest = load_frozen_encoder(SHAPE, section, "random")
    with torch.no_grad():
        for parameter in random.parameters():
            parameter.mul_(1.5)
    state = {**random.convnet.state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    state |= {"bn1.num_batches_tracked": torch.tensor(3)}
    published = {
        "r3m": {f"module.convnet.{key}": value for key, value in state.items()} | {"module.lang": torch.ones(2)}
    }
    torch.save(published if name == "r3m" else state, tmp_path / "weights.pt")
    loaded, loaded_digest = load_frozen_encoder(SHAPE, section, tmp_path / "weights.pt")
    pictures = draw_pictures(2)
    assert torch.equal(loaded(pictures), random(pictures))
    assert loaded_digest == hash_weights(random.convnet) != digest

    save_frozen_weights(loaded, section, tmp_path / "own" / "weights.pt")
    assert load_frozen_encoder(SHAPE, section, tmp_path / "own" / "weights.pt")[1] == loaded_digest


def test_random_weights_are_the_same_ones_every_time_and_leave_torchs_generator_alone() -> None:
    before = torch.random.get_rng_state()
    digests = {load_frozen_encoder(SHAPE, SMALL, "random")[1] for _ in range(2)}
    assert len(digests) == 1
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_encoder_stays_in_evaluation_mode_and_has_no_gradient() -> None:
    encoder, _ = load_frozen_encoder(SHAPE, SMALL, "random")
    pictures = draw_pictures(4)
    together = encoder.train()(pictures)
    assert not together.requires_grad
    alone = torch.cat([encoder(row.unsqueeze(0)) for row in pictures])
    assert torch.allclose(together, alone, atol=1e-5)  # batch statistics would differ by more
    assert not any(name.endswith("num_batches_tracked") for name in encoder.state_dict())
    assert encoder(pictures.view(2, 2, *SHAPE)).shape == (2, 2, 1024)


def test_values_are_copied_into_an_encoder_that_has_none() -> None:
    source, _ = load_frozen_encoder(SHAPE, SMALL, "random")
    with torch.device("meta"):
        target = FrozenEncoder(SHAPE, SMALL)
    target.to_empty(device="cpu")
    copy_values(target, source.state_dict())
    assert hash_weights(target.convnet) == hash_weights(source.convnet)


@pytest.mark.parametrize(
    ("section", "weights", "message"),
    [
        (SMALL, None, "expected weights, got none"),
        (SMALL | {"name": "clip"}, "random", "encoder.name: expected one of r3m, vip, torchvision, got 'clip'"),
        (SMALL | {"name": "vip"}, "random", "encoder.model: expected one of resnet50, got 'resnet18'"),
        (SMALL | {"model": "regnet_y_400mf"}, "random", "its sizes cannot be read before its weights are"),
        (SMALL | {"model": "squeezenet1_0"}, "random", "expected a model whose last layer is linear"),
        (SMALL | {"model": "vit_b_16"}, "random", "the model takes no pictures of 32 x 32 pixels"),
        (SMALL | {"resize": 8}, "random", "encoder.resize: expected 32 to 1024 pixels, got 8"),
        (SMALL, "missing.pt", "missing.pt: expected a file, got none"),
    ],
)
def test_what_cannot_be_built_is_refused(section, weights, message) -> None:
    with pytest.raises(InvalidOptionError, match=message), torch.device("meta"):
        load_frozen_encoder(SHAPE, section, weights)


def test_files_of_other_content_are_refused(tmp_path) -> None:
    class Exploit:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"r3m": Exploit()}, tmp_path / "exploit.pt")
    (tmp_path / "text.pt").write_text("no weights")
    torch.save([1], tmp_path / "list.pt")
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save({"r3m": {"module.convnet.conv1.weight": 5}}, tmp_path / "number.pt")
    for name in ("exploit", "text", "list", "other"):
        with pytest.raises(CheckpointMismatchError, match="expected"):
            load_frozen_encoder(SHAPE, SMALL, tmp_path / f"{name}.pt")
    with pytest.raises(CheckpointMismatchError, match=r"expected conv1.weight of shape \[64, 3, 7, 7\], got none"):
        load_frozen_encoder(SHAPE, SMALL | {"name": "r3m"}, tmp_path / "number.pt")
    assert not (tmp_path / "written").exists()


def test_weights_that_cannot_be_downloaded_are_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(HubUnreachableError, match=r"weights of r3m resnet18 cannot be downloaded: .* Pass the file"):
        load_frozen_encoder(SHAPE, SMALL | {"name": "r3m"}, "download")


def test_the_unit_of_an_embedding_says_what_computed_it() -> None:
    unit = describe_embedding("pixels.top", SMALL, "0f" * 32)
    assert unit == f"embedding of pixels.top by torchvision resnet18 at 32 px, sha256 {'0f' * 32}"
    embedding = parse_embedding(unit)
    assert (embedding.column, embedding.encoder, embedding.digest) == ("pixels.top", SMALL, "0f" * 32)
    for other in (None, "m", unit[:-1], unit.replace("torchvision", "clip"), unit + "\n"):
        assert parse_embedding(other) is None
