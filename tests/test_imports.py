"""The import law of docs/decisions/001: strictly downward, the wings never meet, one room owns each library."""

import ast
from pathlib import Path

import pytest

import rlhive

ROOT = Path(rlhive.__file__).parent

#: Packages that hold the parts of a step; their ``__init__`` imports nothing.
GROUPS = ("recording", "packed", "versions", "checks", "formats")

#: A room may import rooms of lower floors only. A room without a floor fails: a new room is a decision.
FLOORS = [
    {"keys", "errors", "provenance", "envs", "data"} | {f"data.{group}" for group in GROUPS},
    {"envs.references"},
    {"data.checks.findings", "data.untrusted", "data.versions.picture"},
    {
        "data.schema",
        "data.packed.frames",
        "data.packed.leaves",
        "envs.tasks",
        "envs.assets",
        "envs.visual",
        "envs.opengl",
    },
    {"data.episodes", "data.cache", "data.statistics", "envs.install", "envs.toy", "envs.rendering", "envs.robot"},
    {"envs.loading", "envs.kinematics"},
    {
        "data.formats.hdf5",
        "data.formats.pictures",
        "data.formats.tfrecord",
        "data.arrow",
        "data.manifest",
        "data.packed.layout",
        "data.connection",
        "envs.robohive",
        "envs.tabletop",
        "envs.carrying",
    },
    {
        "data.versions.card",
        "data.recording.stream",
        "data.shards",
        "data.packed.windows",
        "data.hub",
        "envs.rehearsal",
        "envs.scripted",
        "envs.custom",
        "rl_envs",
    },
    {"data.recording.order", "envs.kitchen_policies", "envs.tabletop_policies"},
    {"data.recording.folder", "data.recording.assemble", "data.checks.certificate", "envs.experts"},
    {"data.recording.ring"},
    {
        "data.versions.source",
        "data.recording.writer",
        "data.packed.storage",
        "data.versions.numbers",
        "data.versions.sketches",
        "data.versions.selection",
        "data.packed.normalization",
        "data.versions.diff",
    },
    {"data.checks.agreement", "data.seal", "data.formats.imported", "data.formats.tfds", "data.recording.intake"},
    {f"data.formats.{kind}" for kind in ("roboset", "d4rl", "minari", "lerobot", "rlds_steps")},
    {"data.formats.lerobot_writing", "data.formats.rlds"},
    {
        "data.packed.sampling",
        "data.packed.ahead",
        "data.packed.online",
        "data.checks.duplicates",
        "data.versions.robot_metadata",
    },
    {
        "data.load",
        "data.versions.writing",
        "data.buffer",
        "data.packed.dataloader",
        "data.packed.serving",
        "envs.make",
        "envs.tune",
        "envs.probe",
        "envs.rewards",
    },
    {"data.export"},
    {"data.versions.derive", "data.convert", "data.recover", "rollout", "checkpoint"},
    {"data.record", "data.checks.scan"},
    {"data.checks.certificate"},
    {"data.checks.rows"},
    {"data.check"},
    {"recreate"},
    {"data.publish", "replay", "data.streaming"},
    {"collect", "evaluate"},
    {"deriving"},
    {"resolve", "cli.terminal", "feeding"},
    {"dataset"},
    {"registry"},
    {"sim_algos.config", "sim_algos.networks", "sim_algos.preparing"},
    {"sim_algos.bc", "sim_algos.iql", "sim_algos.sac", "sim_algos.course"},
    {"sim_algos.online"},
    {"sim_algos.training"},
    {"sim_algos", "sim_algos.run"},
    {f"cli.{verbs}" for verbs in ("environments", "collecting", "learning", "diff", "hub", "formats")},
    {"cli.datasets"},
    {"cli.app"},
    {"cli"},
    {"cli.__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}

CLI = {room for room in LEVEL if room.split(".")[0] == "cli"}

OWNERS = {
    "gymnasium": {"envs.loading", "envs.custom"},
    "robohive": {"envs.loading", "envs.kinematics"},
    "dm_control": {"envs.loading", "envs.kinematics"},
    "mujoco": {
        "envs.robohive",
        "envs.rendering",
        "envs.opengl",
        "envs.kinematics",
        "envs.tabletop",
        "envs.carrying",
        "envs.rehearsal",
        "envs.scripted",
        "envs.kitchen_policies",
        "envs.tabletop_policies",
    },
    "OpenGL": {"envs.opengl"},
    "pyarrow": {
        "data.arrow",
        "data.formats.minari",
        "data.formats.lerobot",
        "data.formats.lerobot_writing",
        "data.formats.tfds",
        "data.shards",
        "data.recording.stream",
        "data.packed.frames",
        "data.versions.sketches",
        "data.versions.selection",
        "data.versions.derive",
        "deriving",
        "data.load",
        "dataset",
    }
    | {"data.checks.scan", "data.check", "data.checks.rows", "data.checks.agreement"},
    "h5py": {"data.formats.hdf5"},
    "av": {"data.formats.pictures"},
    "PIL": {"data.formats.pictures"},
    "google_crc32c": {"data.formats.tfrecord"},
    "google": {"data.formats.tfrecord"},
    "huggingface_hub": {"data.connection", "data.hub", "data.publish", "data.streaming"},
    "datasets": {"dataset"},
    "typer": CLI,
    "rich": CLI,
    "hydra": {"sim_algos.config", "sim_algos.run"},
}


def rooms():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path):
    """Every module that a file imports, at its top or inside a function; ``from a import b`` also as ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(room, path):
    for name in imported(path):
        library, _, rest = name.partition(".")
        if library in OWNERS and room not in OWNERS[library]:
            yield f"{room} imports {library}, which belongs to {sorted(OWNERS[library])}"
        if library != "rlhive" or rest not in LEVEL or LEVEL[rest] == 0 or rest == room:
            continue
        if LEVEL[rest] >= LEVEL[room]:
            yield f"{room} (floor {LEVEL[room]}) imports {rest} (floor {LEVEL[rest]})"
        if {room.split(".")[0], rest.split(".")[0]} == {"envs", "data"}:
            yield f"{room} imports {rest}: the wings never meet"


@pytest.mark.parametrize(("room", "path"), [pair for pair in rooms() if pair[0]], ids=lambda value: str(value)[-30:])
def test_imports_go_downward(room, path):
    assert room in LEVEL, f"{room} has no floor: give it one in {__file__}"
    assert list(violations(room, path)) == []


@pytest.mark.parametrize(
    ("room", "source", "says"),
    [
        ("data.schema", "from rlhive.data import arrow", "floor"),
        ("data.arrow", "import rlhive.dataset", "floor"),
        ("data.load", "from rlhive.envs.toy import ToyEnv", "wings"),
        ("collect", "def f():\n    import pyarrow.parquet", "belongs to"),
    ],
)
def test_the_law_sees_a_violation(room, source, says, tmp_path):
    path = tmp_path / "room.py"
    path.write_text(source)

    assert any(says in violation for violation in violations(room, path))
