"""Size and CPU time of lossless codecs for the pictures of one camera.

    python -m benchmarks.picture_codecs

prints the compressed size as a share of the raw bytes and the CPU time per frame, for frames of a RoboHive kitchen
rendered at several sizes and for the synthetic frames of the benchmarks. "difference" encodes the difference of a frame
to the first frame of its episode, as ``image_cache="encoded"`` does; its decoding time includes that first frame.
"""

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torchvision.io import decode_png

from benchmarks.peers import source
from rlhive.envs._robohive import RoboHiveEnv

KITCHEN, CAMERA = "FK1_Knob1OnRandom-v4", "left_cam"
FRAMES = 40


def kitchen(side: int) -> np.ndarray:
    """Return the frames of one rendered episode, uint8 ``[FRAMES, side, side, 3]``."""
    env = RoboHiveEnv(KITCHEN, from_pixels=True, cameras=[CAMERA], image_size=(side, side), render_quality="fast")
    frames, state = [], env.reset(seed=0)
    for _ in range(FRAMES):
        frames.append(state["pixels"][0].numpy().copy())
        state = env.step(env.rand_action(state))["next"]
    env.close()
    return np.stack(frames)


def synthetic(side: int) -> np.ndarray:
    """Return the frames of one synthetic episode of :mod:`benchmarks.peers.source`."""
    with tempfile.TemporaryDirectory() as folder:
        episodes = source.make(Path(folder), num_transitions=FRAMES, length=FRAMES, kind="pixels", side=side)
        return np.array(episodes.pixels[:FRAMES])


def measure(frames: np.ndarray) -> Iterator[tuple[str, float, float, float]]:
    """Yield codec, share of the raw bytes, µs to encode and µs to decode a frame; every round trip is verified."""
    size = frames[0].nbytes

    def make_image_encoder(image_format: str, **options: object) -> Callable[[np.ndarray], bytes]:
        def encode(frame: np.ndarray) -> bytes:
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, image_format, **options)
            return buffer.getvalue()

        return encode

    def decode_with_pillow(content: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(content)))

    def decode_with_torchvision(content: bytes) -> np.ndarray:
        return decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8)).permute(1, 2, 0).numpy()

    yield ("PNG, Pillow", *_costs(frames, make_image_encoder("PNG", compress_level=1), decode_with_pillow))
    yield ("PNG, torchvision", *_costs(frames, make_image_encoder("PNG", compress_level=1), decode_with_torchvision))
    yield (
        "WebP lossless",
        *_costs(frames, make_image_encoder("WEBP", lossless=True, quality=0, method=0), decode_with_pillow),
    )
    for name, level in (("lz4", None), ("zstd", 1), ("zstd", 9)):
        codec = pa.Codec(name, compression_level=level)
        label = name if level is None else f"{name} {level}"
        key = codec.compress(frames[0], asbytes=True)

        def decode(content: bytes, codec: pa.Codec = codec) -> np.ndarray:
            return np.frombuffer(codec.decompress(content, size), np.uint8)

        yield (label, *_costs(frames, lambda frame, codec=codec: codec.compress(frame, asbytes=True), decode))
        yield (
            f"{label}, difference",
            *_costs(
                frames,
                lambda frame, codec=codec: codec.compress(frame - frames[0], asbytes=True),
                lambda content, decoded=decode, key=key: decode(content) + decode(key),
            ),
        )


def _costs(frames: np.ndarray, encode: Callable, decode: Callable) -> tuple[float, float, float]:
    start = time.process_time()
    contents = [encode(frame) for frame in frames[1:]]
    encode_us = (time.process_time() - start) / len(contents) * 1e6
    for content, frame in zip(contents, frames[1:], strict=True):
        if decode(content).tobytes() != frame.tobytes():
            msg = "a decoded frame differs from the original"
            raise AssertionError(msg)
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for content in contents:
            decode(content)
        best = min(best, (time.process_time() - start) / len(contents) * 1e6)
    return float(np.mean([len(content) for content in contents])) / frames[0].nbytes, encode_us, best


def main() -> None:
    """Print a Markdown table."""
    torch.set_num_threads(1)
    sets = {f"kitchen {side}²": kitchen(side) for side in (84, 128, 256)} | {"synthetic 128²": synthetic(128)}
    print("| share of raw bytes; µs to encode; µs to decode | " + " | ".join(sets) + " |")
    print("| --- |" + " --- |" * len(sets))
    for rows in zip(*(list(measure(frames)) for frames in sets.values()), strict=True):
        cells = (f"{share:.2f}; {encode:,.0f}; {decode:,.0f}" for _, share, encode, decode in rows)
        print(f"| {rows[0][0]} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
