"""A version with a column of every kind, and answers."""

import numpy as np

from rlhive.data._dtypes import BFLOAT16
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._ragged import make_rows
from rlhive.data._schema import Field, Schema
from rlhive.data.versions import export

ANSWERS = {
    "intended_use": "Offline learning.\nNot for robots beside people.",
    "limitations": "One robot, in simulation.",
    "personal_information": "None.",
}
NUMBERS = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint32", "uint16", "uint8", "bool")
#: Columns with names that an IRI, JSON or a pattern could take for something else.
ODD = ("a b/c#d?e=%2F&f", 'quote"<script>', "ünï🤖", "@id", "data")
SCHEMA = Schema(
    tuple(
        sorted(
            (
                *(Field(f"{name}_{rank}", name, (2, 3)[:rank], False) for name in NUMBERS for rank in (0, 1, 2)),
                *(Field(name, "float32", (2,), False, unit="m") for name in ODD),
                Field("observation", "float64", (4,), True, unit="rad"),
                Field("half", "bfloat16", (3,), False),
                Field("instruction", "string", (), False),
                Field("audio", "int16", (-1,), False),
                Field("points", "float32", (-1, 3), False),
                Field("picture", "uint8", (32, 33, 3), False),
                Field("pictures", "uint8", (2, 33, 32, 1), False),
                Field("next.reward", "float64", (1,), False),
                Field("next.terminated", "bool", (1,), False),
                Field("next.truncated", "bool", (1,), False),
                Field("success", "bool", (1,), False),
            ),
            key=lambda field: field.column,
        )
    )
)


def random_values(generator, field, length):
    """Return rows of random bits; the floats in arrays include NaN, infinities, -0.0 and subnormal numbers."""
    if field.is_string:
        return np.array([f"№ {index} \"<'&" for index in range(length)], object)
    if field.is_ragged:
        sizes = generator.integers(0, 4, length)
        rows = [generator.integers(0, 99, (size, *field.shape[1:])).astype(field.dtype) for size in sizes]
        return make_rows(rows)
    dtype, shape = field.kind
    if field.dtype == "bool":
        return generator.random((length, *shape)) < 0.5
    bits = generator.integers(0, 256, (length, *shape, dtype.itemsize)).astype(np.uint8)
    if dtype == BFLOAT16 or dtype.kind != "f":
        return bits.view(dtype)[..., 0]
    values = bits.view(dtype)[..., 0].copy()
    if len(field.shape) < 1 or field.column == "next.reward":
        values[~np.isfinite(values)] = -0.0  # mlcroissant reads a single NaN as None
        return values
    values.flat[: min(3, values.size)] = [np.nan, -0.0, np.inf][: min(3, values.size)]
    return values


def every_kind(store, *, shard_bytes=2**20, name="org/kinds", **options):
    """Export four episodes in two splits and return the version's folder."""
    generator = np.random.default_rng(7)
    records = []
    for episode, (length, split) in enumerate(zip((5, 3, 4, 6), ("a", "b", "a", "b"), strict=True)):
        columns = {field.column: random_values(generator, field, length) for field in SCHEMA.fields}
        columns["next.terminated"][:] = False
        columns["next.truncated"][:] = np.arange(length)[:, None] == length - 1
        final = {"observation": generator.random(4)}
        record = EpisodeRecord(
            episode=episode,
            split=split,
            columns=columns,
            final=final,
            seed=episode if episode else None,
            start_state={"qpos": generator.random(3)} if episode % 2 else {},
        )
        records.append(record)
    options = {"license": "cc-by-4.0", "schema": SCHEMA} | options
    return export(records, name, store=store, shard_bytes=shard_bytes, **options)
