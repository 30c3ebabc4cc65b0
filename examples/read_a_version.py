"""Read and verify a version without RLHive, as docs/specification.md says.

    python examples/read_a_version.py ~/.rlhive/datasets/robohive/kitchen_knob1/1.0.0

needs pyarrow, NumPy, Pillow, and PyAV where pictures are videos, and no RLHive. It compares every file, every episode
and the version with their hashes.
"""

import functools
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Arrays = dict[str, Any]

#: NumPy's dtypes of what it has no dtype for: the bits of bfloat16, and text.
_DTYPES = {"bfloat16": "uint16", "string": "object"}
_VIDEOS = ("ffv1", "av1", "h264", "h265")
_LOSSY = ("jpeg", "av1", "h264", "h265")
#: FFmpeg's pixel format of an array, by dtype and number of channels.
_FORMATS = {("uint8", 1): "gray", ("uint8", 3): "rgb24", ("uint8", 4): "rgba", ("uint16", 1): "gray16le"}


def read_version(folder: Path) -> Iterator[tuple[dict[str, Any], Arrays, Arrays]]:
    """Yield the row of the episode table, the columns and the final values of every episode, after their hashes."""
    manifest = json.loads((folder / "rlhive.json").read_text(encoding="utf-8"))
    if manifest["format_version"] not in (1, 2, 3):
        sys.exit(f"unknown format_version {manifest['format_version']}")
    for file in manifest["files"]:
        verify_file(folder, file)
    schema = manifest["schema"]
    table = pq.read_table(folder / "meta/episodes.parquet")
    finals = {
        field["column"]: to_rows(table[f"final.{field['column']}"], field, folder)
        for field in schema
        if field["observed"]
    }
    lossy = [field for field in schema if codec_of(field) in _LOSSY]
    positions = {episode: index for index, episode in enumerate(table["episode"].to_pylist())}
    identities: dict[int, str] = {}
    for file in (file for file in manifest["files"] if file["split"]):
        rows = pq.read_table(folder / file["path"])
        columns = {field["column"]: to_rows(rows[field["column"]], field, folder) for field in schema}
        episodes = rows["episode"].to_numpy()
        starts = np.flatnonzero(np.concatenate([[True], episodes[1:] != episodes[:-1]])) if len(episodes) else []
        for start, stop in zip(starts, [*starts[1:], len(episodes)], strict=True):
            index = positions[int(episodes[start])]
            row = table.slice(index, 1).to_pylist()[0]
            episode = {name: values[start:stop] for name, values in columns.items()}
            final = {name: values[index] for name, values in finals.items()}
            encoded = {}
            for field in lossy:
                cells = rows[field["column"]].slice(start, stop - start).to_pylist()
                final_cells = [row[f"final.{field['column']}"]] if field["observed"] else []
                encoded[field["column"]] = to_parts(cells, final_cells, field, folder)
            if hash_content(episode, final, schema, encoded) != row["content_hash"]:
                sys.exit(f"episode {row['episode']}: other content than its hash")
            identities[row["episode"]] = hash_identity(row)
            yield row, episode, final
    if hash_version(schema, [identities[episode] for episode in sorted(identities)]) != manifest["fingerprint"]:
        sys.exit("other content than the fingerprint")


def verify_file(folder: Path, file: dict[str, Any]) -> None:
    """Compare a file with the manifest."""
    path = folder / file["path"]
    if not path.resolve().is_relative_to(folder.resolve()):
        sys.exit(f"{file['path']} leaves the folder")
    content = path.read_bytes()
    if (len(content), hashlib.sha256(content).hexdigest()) != (file["bytes"], file["sha256"]):
        sys.exit(f"{file['path']} is not the file that the manifest names")


def codec_of(field: dict[str, Any]) -> str:
    """Return how a column is stored: ``"av1"`` of ``"av1:crf=30:gop=2:preset=10"``."""
    return str(field.get("storage", "raw")).split(":")[0]


def to_rows(column: pa.ChunkedArray, field: dict[str, Any], folder: Path) -> Any:
    """Return a column as an array ``[rows, *shape]``, or as a list of texts or of arrays."""
    shape, dtype = field["shape"], np.dtype(_DTYPES.get(field["dtype"], field["dtype"]))
    if field["dtype"] == "string":
        return column.to_pylist()
    if shape[:1] == [-1]:
        return [np.array(row, dtype).reshape(-1, *shape[1:]) for row in column.to_pylist()]
    if codec_of(field) != "raw":
        cells = column.to_pylist()
        if len(shape) > 3:
            cells = [picture for cameras in cells for picture in cameras]
        is_channels_last = shape[-1] in ((1,) if dtype == np.uint16 else (1, 2, 3, 4))
        height, width, channels = shape[-3:] if is_channels_last else (*shape[-2:], shape[-3])
        if codec_of(field) in _VIDEOS:
            pictures = read_frames(cells, folder, _FORMATS[dtype.name, channels])
        else:
            pictures = np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in cells]).astype(dtype)
        pictures = pictures.reshape(-1, height, width, channels)
        return (pictures if is_channels_last else np.moveaxis(pictures, 3, 1)).reshape(-1, *shape)
    chunk = column.combine_chunks()
    values = chunk.flatten() if pa.types.is_fixed_size_list(column.type) else chunk
    return values.to_numpy(zero_copy_only=False).astype(dtype, copy=False).reshape(-1, *shape)


def read_frames(cells: list[Any], folder: Path, kind: str) -> np.ndarray:
    """Return the decoded frames that cells name, ``[cells, height, width(, channels)]``; each video is decoded once."""
    import av

    addresses = [(cell["path"], cell["frame"]) for cell in cells]
    needed, frames = set(addresses), {}
    for path in {path for path, _ in addresses}:
        with (folder / path).open("rb") as file, av.open(file, format="mp4") as container:
            for number, frame in enumerate(container.decode(video=0)):
                if (path, number) in needed:
                    frames[path, number] = frame.to_ndarray(format=kind)
    return np.stack([frames[address] for address in addresses])


@functools.lru_cache(maxsize=64)
def read_packets(path: Path) -> tuple[bytes, list[bytes]]:
    """Return the decoder's header and the packets of a video; one packet is one frame."""
    import av

    content = path.read_bytes()
    with av.open(io.BytesIO(content), format="mp4") as container:
        stream = container.streams.video[0]
        packets = [content[entry.pos : entry.pos + entry.size] for entry in stream.index_entries]
        return bytes(stream.codec_context.extradata or b""), packets


def to_parts(cells: list[Any], final_cells: list[Any], field: dict[str, Any], folder: Path) -> dict[str, list[bytes]]:
    """Return the encoded pictures of an episode that its hash is over, of the rows and of the final value."""
    is_list = len(field["shape"]) > 3
    parts = {}
    for name, rows in (("row", cells), ("final", final_cells)):
        pictures = [row if is_list else [row] for row in rows]
        if codec_of(field) == "jpeg":
            parts[name] = [picture["bytes"] for row in pictures for picture in row]
            continue
        parts[name] = []
        for camera in zip(*pictures, strict=True):
            header, packets = read_packets(folder / camera[0]["path"])
            parts[name] += [*([header] if name == "row" else []), *(packets[picture["frame"]] for picture in camera)]
    return parts


def hash_content(
    columns: Arrays, final: Arrays, schema: list[dict[str, Any]], encoded: dict[str, dict[str, list[bytes]]]
) -> str:
    """Return the content hash of an episode."""
    digest = hashlib.sha256()
    fields = {field["column"]: field for field in schema}
    for kind, arrays in (("row", columns), ("final", final)):
        for name in sorted(arrays):
            if name in encoded:
                feed_texts(digest, f"{kind}\0{name}\0{codec_of(fields[name])}", encoded[name][kind])
                continue
            feed(digest, f"{kind}\0{name}", arrays[name], fields[name], is_final=kind == "final")
    return digest.hexdigest()


def feed(digest: Any, address: str, values: Any, field: dict[str, Any], *, is_final: bool) -> None:
    """Feed one column of an episode to a hash."""
    is_ragged = field["shape"][:1] == [-1]
    if is_ragged or field["dtype"] == "string":
        rows = [values] if is_final else list(values)
        shape = (len(rows),)
        if is_ragged:
            digest.update(f"{address}\0ragged\0{shape}\0".encode())
            digest.update(np.array([len(row) for row in rows], "<i8"))
            values = np.concatenate(rows)
        else:
            feed_texts(digest, f"{address}\0string", [text.encode() for text in rows])
            return
    array = np.ascontiguousarray(values)  # (1,) for a single number
    digest.update(f"{address}\0{field['dtype']}\0{array.shape}\0".encode())
    digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())


def feed_texts(digest: Any, address: str, texts: list[bytes]) -> None:
    """Feed texts or encoded pictures to a hash, with their lengths."""
    digest.update(f"{address}\0({len(texts)},)\0".encode())
    digest.update(np.array([len(text) for text in texts], "<i8"))
    digest.update(b"".join(texts))


def hash_identity(row: dict[str, Any]) -> str:
    """Return the identity of an episode."""
    names = ("episode", "split", "seed", "policy")
    content = [*(row[name] for name in names), json.loads(row["metadata"]), row["content_hash"]]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(name for name in row if name.startswith("start.") and row[name] is not None):
        state = np.array(row[name], "<f8")
        digest.update(f"{name.removeprefix('start.')}\0{state.shape}\0".encode() + state.tobytes())
    return digest.hexdigest()


def hash_version(schema: list[dict[str, Any]], identities: list[str]) -> str:
    """Return the fingerprint of a version."""
    columns = [{name: value for name, value in field.items() if name != "storage"} for field in schema]
    return hashlib.sha256((json.dumps(columns, sort_keys=True) + "".join(identities)).encode()).hexdigest()


if __name__ == "__main__":
    num_episodes = num_transitions = 0
    for row, _, _ in read_version(Path(sys.argv[1])):
        num_episodes += 1
        num_transitions += row["length"]
    print(f"{num_episodes} episodes, {num_transitions} transitions: every file and episode has its hash")
