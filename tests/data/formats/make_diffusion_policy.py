"""Write files/diffusion_policy.zarr.zip with Diffusion Policy's ReplayBuffer.

    uv run --no-project --python 3.11 --with zarr==2.18.3 --with numcodecs==0.15.1 --with numpy==1.26.4 \\
        python make_diffusion_policy.py replay_buffer.py

replay_buffer.py is diffusion_policy/common/replay_buffer.py of github.com/real-stanford/diffusion_policy, which is on
no package index.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "files" / "diffusion_policy.zarr.zip"
LENGTHS = (5, 3, 8, 2)


def walk(number: int) -> dict[str, np.ndarray]:
    """Return the arrays of an episode as Push-T's demonstrations have them: pictures are floats."""
    generator = np.random.default_rng(number)
    length = LENGTHS[number]
    return {
        "state": generator.uniform(0, 512, (length, 5)).astype(np.float32),
        "keypoint": generator.uniform(0, 512, (length, 9, 2)).astype(np.float32),
        "action": generator.uniform(0, 512, (length, 2)).astype(np.float32),
        "img": generator.integers(0, 256, (length, 6, 6, 3)).astype(np.float32),
        "wrist": generator.integers(0, 256, (length, 4, 4, 3)).astype(np.uint8),
        "n_contacts": np.full((length, 1), number, np.float32),
    }


def main() -> None:
    """Write the store: chunks of any length, both compressors of ReplayBuffer, none, and zarr's own."""
    import numcodecs
    import zarr

    spec = importlib.util.spec_from_file_location("replay_buffer", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    buffer = module.ReplayBuffer.create_empty_numpy()
    for number in range(len(LENGTHS)):
        buffer.add_episode(walk(number))
    FILE.unlink(missing_ok=True)
    chunks = {"state": (4, 5), "keypoint": (7, 4, 2), "action": (100, 2), "img": (1, 6, 6, 3), "wrist": (5, 4, 3, 3)}
    compressors = {"state": "default", "img": "disk", "action": None, "n_contacts": numcodecs.Zstd()}
    compressors |= {"keypoint": numcodecs.Zlib(), "wrist": numcodecs.LZ4()}
    with zarr.ZipStore(str(FILE), mode="w") as store:
        buffer.save_to_store(store, chunks=chunks, compressors=compressors)


if __name__ == "__main__":
    main()
