"""What a push is about to publish: its provenance, and a search of every file for secrets.

Parquet is searched column by column, text wherever it is nested; every other file as bytes. What is compressed in
another way, as the datasets in an HDF5 file can be, is not seen.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import get_token

from rlhive._provenance import MACHINE_FIELDS
from rlhive._secrets import ANY_FORM, find_secret, own_secrets
from rlhive._text import printable
from rlhive.data import _parquet
from rlhive.data.versions import EPISODES_PATH, Manifest
from rlhive.errors import CheckFailedError

_CHUNK_BYTES = 4 * 2**20
#: Bytes that two chunks share, so that no secret is cut by the border between them.
_OVERLAP = 4096
_ROWS = 4096
#: Bytes of the shortest secret of a known form.
_MIN_RUN = 12


def require_no_secret(files: Mapping[str, Path], *, next_step: str) -> None:
    """Raise unless no file holds a token of a known form, the Hub's token or a secret of this environment.

    Args:
        files: Files that are about to be published, by their path in the repository.
        next_step: What the user can do, for the message.

    Raises:
        CheckFailedError: A file holds a secret; the message gives its address and not the secret.
    """
    hub_token = get_token()
    values = [*([hub_token] if hub_token else []), *own_secrets()]
    pattern = "|".join([ANY_FORM, *(re.escape(value) for value in values)])
    for path, file in files.items():
        search = _search_parquet if path.endswith(".parquet") else _search_bytes
        for address, text in search(file, pattern):
            quotes_token = hub_token is not None and hub_token in text
            secret = "quotes your Hub token" if quotes_token else f"holds {find_secret(text, values) or 'a secret'}"
            msg = f"{path}{printable(address)}: expected no secret, it {secret}. Nothing was sent. {next_step}"
            raise CheckFailedError(msg)


def describe_provenance(manifest: Manifest, folder: Path) -> str:
    """Return which provenance a version carries, in one sentence."""
    names = sorted({name for run in manifest.runs for name in run})
    machine = [
        f"{name} ({printable(run[name])[:200]})" for run in manifest.runs for name in MACHINE_FIELDS if run.get(name)
    ]
    keys = _list_metadata_keys(folder / EPISODES_PATH)
    parts = [
        f"{len(manifest.runs)} runs" + (f" with {', '.join(names)}" if names else ""),
        f"metadata of the episodes: {', '.join(keys) or 'none'}",
        f"{len(manifest.parents)} parents",
        f"this machine: {'; '.join(dict.fromkeys(machine))}" if machine else "neither command line nor machine",
    ]
    return printable("; ".join(parts))


def describe_files(files: Mapping[str, Path]) -> str:
    """Return how many files of which kinds are published, and which text columns, in one sentence."""
    kinds = Counter(PurePosixPath(path).suffix or path for path in files)
    columns = {
        field.name
        for path, file in files.items()
        if path.endswith(".parquet")
        for field in pq.read_schema(file)
        if _holds_text(field.type)
    }
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return printable(f"{len(files)} files ({counts}); columns of text: {', '.join(sorted(columns)) or 'none'}")


def _list_metadata_keys(path: Path) -> list[str]:
    """Return the names in the metadata of the episodes."""
    keys: set[str] = set()
    texts = _parquet.read_table(path, ["metadata"])["metadata"].unique().to_pylist()
    for text in texts:
        keys.update(re.findall(r'[{,]\s*"([^"\\]{1,60})"\s*:', text or ""))
    return sorted(keys)


def _search_parquet(file: Path, pattern: str) -> Iterator[tuple[str, str]]:
    """Yield the address and the text of what matches a pattern in the schema and the text columns of a Parquet file."""
    with pq.ParquetFile(file, pre_buffer=False) as opened:
        schema = opened.schema_arrow
        described = f"{opened.metadata.metadata!r} {schema}"
        if re.search(pattern, described):
            yield ", schema", described
        columns = [field.name for field in schema if _holds_text(field.type)]
        start = 0
        for batch in opened.iter_batches(_ROWS, columns=columns) if columns else ():
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                for row, text in _search_column(column, pattern):
                    yield f", column {name}, row {start + row}", text
            start += batch.num_rows


def _search_column(column: pa.Array, pattern: str) -> Iterator[tuple[int, str]]:
    """Yield the row and the text of every value of a column that matches a pattern."""
    for texts, rows in _flatten_texts(column, None):
        matches = pc.match_substring_regex(texts, pattern)
        if pc.any(matches).as_py():
            index = pc.index(matches, value=True).as_py()
            value = texts[index].as_py()
            row = index if rows is None else rows[index].as_py()
            yield row, value.decode(errors="replace") if isinstance(value, bytes) else value


def _flatten_texts(column: pa.Array, rows: pa.Array | None) -> Iterator[tuple[pa.Array, pa.Array | None]]:
    """Yield the arrays of text in a column, nested ones included, each with the row of every value."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        yield from _flatten_texts(column.dictionary_decode(), rows)
    elif _is_text(kind):
        yield column, rows
    elif pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _flatten_texts(column.field(index), rows)
    elif _is_list(kind):
        parents = pc.list_parent_indices(column)
        yield from _flatten_texts(pc.list_flatten(column), parents if rows is None else rows.take(parents))


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind) or _is_list(kind):
        return _holds_text(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_holds_text(kind.field(index).type) for index in range(kind.num_fields))
    return _is_text(kind)


def _is_text(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_list(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _search_bytes(file: Path, pattern: str) -> Iterator[tuple[str, str]]:
    """Yield the address and the text of what matches a pattern in any other file."""
    compiled = re.compile(pattern.encode())
    for start, chunk in _read_chunks(file):
        text = _extract_text(chunk)
        if text and pc.match_substring_regex(pa.array([text], pa.binary()), pattern)[0].as_py():
            match = compiled.search(text)
            secret = match[0] if match else text
            yield f", byte {start + chunk.find(secret)}", secret.decode(errors="replace")


def _extract_text(content: bytes) -> bytes:
    """Return the runs of printable ASCII that are long enough for a secret, one per line: a video has hardly any."""
    codes = np.frombuffer(content, np.uint8)
    borders = np.flatnonzero((codes < 0x20) | (codes > 0x7E))
    starts, stops = np.append(0, borders + 1), np.append(borders, len(codes))
    is_long = stops - starts >= _MIN_RUN
    return b"\n".join(content[start:stop] for start, stop in zip(starts[is_long], stops[is_long], strict=True))


def _read_chunks(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the position and content of overlapping chunks of a file."""
    start, rest = 0, b""
    with file.open("rb") as opened:
        while block := opened.read(_CHUNK_BYTES):
            chunk = rest + block
            yield start, chunk
            rest = chunk[-_OVERLAP:]
            start += len(chunk) - len(rest)
