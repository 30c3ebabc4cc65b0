"""Size and CPU time of pictures in Parquet: lists of numbers, compressed PNG, and filtered PNG that zstd compresses.

    python -m benchmarks.picture_storage

prints, for frames of a RoboHive kitchen and for the same frames with the noise of a sensor, the size of the file as a
share of the raw bytes, and the CPU time to write and to read a frame: encoding, Parquet and decoding. Every frame is
compared after it was read.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.picture_codecs import FRAMES, kitchen
from rlhive.data import _parquet, _pictures

PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
#: Standard deviation of the noise of a sensor, in steps of 8 bits.
NOISE = 3.0


def add_noise(frames: np.ndarray) -> np.ndarray:
    """Return frames with normal noise of their own in every pixel."""
    noise = np.random.default_rng(0).normal(0, NOISE, frames.shape).round()
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def measure(frames: np.ndarray, folder: Path) -> Iterator[tuple[str, float, float, float]]:
    """Yield storage, share of the raw bytes, and µs to write and to read a frame."""
    for name, level in (("numbers", None), ("PNG, compressed", 1), ("PNG, filtered", 0)):
        path = folder / f"{name}.parquet"
        started = time.process_time()
        _write(frames, path, level)
        written = time.process_time()
        column = pq.read_table(path, use_threads=False)["pixels"].combine_chunks()
        if level is None:
            rows = column.flatten().to_numpy().reshape(frames.shape)
        else:
            contents = column.field("bytes").to_pylist()
            rows = _pictures.decode_rows(contents, "uint8", frames.shape[1:], context=name)
        finished = time.process_time()
        if not np.array_equal(rows, frames):
            msg = f"{name}: a frame differs from the original"
            raise AssertionError(msg)
        to_us = 1e6 / len(frames)
        yield name, path.stat().st_size / frames.nbytes, (written - started) * to_us, (finished - written) * to_us


def _write(frames: np.ndarray, path: Path, level: int | None) -> None:
    if level is None:
        rows = pa.FixedSizeListArray.from_arrays(pa.array(frames.ravel()), frames[0].size)
    else:
        contents = [{"bytes": _pictures.encode_png(frame, level=level), "path": None} for frame in frames]
        rows = pa.array(contents, PICTURE)
    _parquet.write_table(pa.table({"pixels": rows}), path)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[84, 128, 256], help="sizes in pixels")
    sets = {}
    for side in parser.parse_args().sides:
        frames = kitchen(side)
        sets |= {f"kitchen {side}²": frames, f"{side}², noise": add_noise(frames)}
    print(f"{FRAMES} frames; share of raw bytes; µs to write; µs to read a frame")
    print("| storage | " + " | ".join(sets) + " |")
    print("| --- |" + " --- |" * len(sets))
    with tempfile.TemporaryDirectory() as folder:
        measured = [list(measure(frames, Path(folder))) for frames in sets.values()]
    for rows in zip(*measured, strict=True):
        cells = (f"{share:.2f}; {write:,.0f}; {read:,.0f}" for _, share, write, read in rows)
        print(f"| {rows[0][0]} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
