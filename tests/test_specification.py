"""docs/specification.md: a program that knows only the specification reads and verifies what RLHive writes."""

import json
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlhive.data._ragged import make_rows
from rlhive.data._schema import Field, Schema
from rlhive.data.versions import Manifest, export, read_records
from tests.data.strategies import records
from tests.data.test_pictures import make_records

EXAMPLE = Path(__file__).parents[1] / "examples/read_a_version.py"


def odd_version(store):
    """Write a version with observed text, ragged rows, bfloat16 bits and episodes without a start state."""
    from rlhive.data._dtypes import BFLOAT16

    schema, made = records([3, 1, 4])
    further = {
        "text": ("string", ()),
        "audio": ("int16", (-1, 2)),
        "half": ("bfloat16", (3,)),
        "instant": ("float32", ()),
    }
    fields = [Field(name, dtype, shape, True) for name, (dtype, shape) in further.items()]
    schema = Schema(tuple(sorted((*schema.fields, *fields), key=lambda field: field.column)))

    def add(record):
        length = record.length + 1
        values = {
            "text": np.array([f"№ {index}" * index for index in range(length)], object),
            "audio": make_rows([np.full((index % 3, 2), index, np.int16) for index in range(length)]),
            "half": np.arange(3 * length, dtype=np.uint16).reshape(length, 3).view(BFLOAT16),
            "instant": np.linspace(0, 1, length, dtype=np.float32),
        }
        columns = record.columns | {name: rows[:-1] for name, rows in values.items()}
        finals = {name: rows[-1:].reshape(Field(name, *further[name], True).kind[1]) for name, rows in values.items()}
        return replace(record, columns=columns, final=record.final | finals)

    made = [add(record) for record in made]
    made[1] = replace(made[1], start_state={})
    return export(made, "my/odd", license="mit", schema=schema, store=store)


def camera_version(store):
    """Write a version with pictures: channels last and first, two cameras, and depth."""
    shapes = {
        "pixels": ("uint8", (32, 40, 3)),
        "first": ("uint8", (3, 32, 40)),
        "cameras": ("uint8", (2, 32, 40, 1)),
        "depth": ("uint16", (1, 32, 40)),
    }
    return export(list(make_records(shapes=shapes)), "my/cameras", license="mit", store=store)


def lossy_version(store):
    """Write a version with every storage that loses detail or is a video, of one camera and of two."""
    pytest.importorskip("av")
    shapes = {
        "pixels": ("uint8", (32, 40, 3)),
        "first": ("uint8", (3, 32, 40)),
        "cameras": ("uint8", (2, 64, 64, 3)),
        "wrist": ("uint8", (2, 32, 40, 3)),
        "mask": ("uint8", (2, 32, 40, 1)),
        "depth": ("uint16", (1, 32, 40)),
        "colours": ("uint8", (32, 40, 3)),
    }
    storage = {
        "pixels": "jpeg:80",
        "first": "av1",
        "cameras": "h265",
        "wrist": "h264:gop=3",
        "mask": "jpeg",
        "depth": "ffv1",
        "colours": "ffv1",
    }
    return export(list(make_records(shapes=shapes)), "my/lossy", license="mit", store=store, storage=storage)


def check(folder):
    """Run the example on a version, in a process that has no RLHive."""
    blocked = "import sys, runpy; sys.modules['rlhive'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    command = [sys.executable, "-I", "-c", blocked, EXAMPLE, folder]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("write", [odd_version, camera_version, lossy_version])
def test_a_program_that_knows_only_the_specification_reads_every_value(tmp_path, write):
    folder = write(tmp_path)
    manifest = Manifest.read(folder)
    read_version = runpy.run_path(str(EXAMPLE))["read_version"]

    by_id = {row["episode"]: (columns, final) for row, columns, final in read_version(folder)}

    assert len(by_id) == manifest.num_episodes
    for record in read_records(folder, manifest, list(manifest.splits)):
        columns, final = by_id[record.episode]
        for field in manifest.schema.fields:
            pairs = [*zip(columns[field.column], record.columns[field.column], strict=True)]
            if field.observed:
                pairs.append((final[field.column], record.final[field.column]))
            for got, expected in pairs:
                values = expected.item() if isinstance(expected, np.ndarray) and expected.dtype.hasobject else expected
                np.testing.assert_array_equal(got, values.view(np.uint16) if field.dtype == "bfloat16" else values)


def test_it_finds_damage_and_needs_no_rlhive(tmp_path):
    folder = camera_version(tmp_path)
    assert check(folder).stdout == "3 episodes, 12 transitions: every file and episode has its hash\n"

    damaged = shutil.copytree(folder, tmp_path / "damaged")
    shard = damaged / "data/train-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert check(damaged).stderr == "data/train-00000-of-00001.parquet is not the file that the manifest names\n"

    renamed = shutil.copytree(folder, tmp_path / "renamed")
    manifest = json.loads((renamed / "rlhive.json").read_text())
    (renamed / "rlhive.json").write_text(json.dumps(manifest | {"fingerprint": "0" * 64}))
    assert check(renamed).stderr == "other content than the fingerprint\n"
