"""What it takes to keep one camera's pictures without a loss, and to have one of them back.

    python -m benchmarks.picture_codecs

prints, for frames of a RoboHive kitchen rendered at several sizes and for the benchmarks' own, the share of the raw
bytes and the CPU time of one frame. "difference" keeps what a frame has other than its episode's first, as
``image_cache="encoded"`` does; its time is that of two frames decoded and added.
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
    """Return an episode's frames, uint8 ``[FRAMES, side, side, 3]``."""
    env = RoboHiveEnv(KITCHEN, from_pixels=True, cameras=[CAMERA], image_size=(side, side), render_quality="fast")
    seen, state = [], env.reset(seed=0)
    for _ in range(FRAMES):
        seen.append(state["pixels"][0].numpy().copy())
        state = env.step(env.rand_action(state))["next"]
    env.close()
    return np.stack(seen)


def synthetic(side: int) -> np.ndarray:
    """Return the frames of one of the benchmarks' episodes."""
    with tempfile.TemporaryDirectory() as folder:
        made = source.make(Path(folder), num_transitions=FRAMES, length=FRAMES, kind="pixels", side=side)
        return np.array(made.pixels[:FRAMES])


def measured(frames: np.ndarray) -> Iterator[tuple[str, float, float, float]]:
    """Yield codec, share of the raw bytes, µs to encode and µs to decode a frame; every frame is compared."""
    size = frames[0].nbytes

    def pictured(form: str, **how: object) -> Callable[[np.ndarray], bytes]:
        def encode(frame: np.ndarray) -> bytes:
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, form, **how)
            return buffer.getvalue()

        return encode

    def opened(content: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(content)))

    def png_opened(content: bytes) -> np.ndarray:
        return decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8)).permute(1, 2, 0).numpy()

    yield ("PNG, Pillow", *_costs(frames, pictured("PNG", compress_level=1), opened))
    yield ("PNG, torchvision", *_costs(frames, pictured("PNG", compress_level=1), png_opened))
    yield ("WebP lossless", *_costs(frames, pictured("WEBP", lossless=True, quality=0, method=0), opened))
    for name, level in (("lz4", None), ("zstd", 1), ("zstd", 9)):
        codec = pa.Codec(name, compression_level=level)
        label = name if level is None else f"{name} {level}"
        key = codec.compress(frames[0], asbytes=True)

        def decoded(content: bytes, codec: pa.Codec = codec) -> np.ndarray:
            return np.frombuffer(codec.decompress(content, size), np.uint8)

        yield (label, *_costs(frames, lambda frame, codec=codec: codec.compress(frame, asbytes=True), decoded))
        yield (
            f"{label}, difference",
            *_costs(
                frames,
                lambda frame, codec=codec: codec.compress(frame - frames[0], asbytes=True),
                lambda content, decoded=decoded, key=key: decoded(content) + decoded(key),
            ),
        )


def _costs(frames: np.ndarray, encode: Callable, decode: Callable) -> tuple[float, float, float]:
    began = time.process_time()
    contents = [encode(frame) for frame in frames[1:]]
    encode_us = (time.process_time() - began) / len(contents) * 1e6
    for content, frame in zip(contents, frames[1:], strict=True):
        if decode(content).tobytes() != frame.tobytes():
            msg = "a frame came back with other bytes"
            raise AssertionError(msg)
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for content in contents:
            decode(content)
        best = min(best, (time.process_time() - began) / len(contents) * 1e6)
    return float(np.mean([len(content) for content in contents])) / frames[0].nbytes, encode_us, best


def main() -> None:
    """Print a Markdown table."""
    torch.set_num_threads(1)
    sets = {f"kitchen {side}²": kitchen(side) for side in (84, 128, 256)} | {"synthetic 128²": synthetic(128)}
    print("| share of raw; µs to encode; µs to decode | " + " | ".join(sets) + " |")
    print("| --- |" + " --- |" * len(sets))
    for rows in zip(*(list(measured(frames)) for frames in sets.values()), strict=True):
        cells = (f"{share:.2f}; {encode:,.0f}; {decode:,.0f}" for _, share, encode, decode in rows)
        print(f"| {rows[0][0]} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
