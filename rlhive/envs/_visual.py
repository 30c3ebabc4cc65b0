"""The ``visual_*`` ids of earlier versions: the RoboHive environment behind each id, and its default pictures.

This file is data. docs/visual.md shows it as tables and lists what RoboHive changed in these tasks since.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Cameras and image height and width in pixels of the historical ids.
CAMERAS = ("right_cam", "left_cam")
IMAGE_SIZE = (224, 224)

_ADROIT_CAMERAS = ("vil_camera", "fixed")


@dataclass(frozen=True)
class VisualDefaults:
    """Environment and default pictures of an id; the caller's arguments override them.

    Attributes:
        robohive_id: Environment id that RoboHive registers.
        cameras: Camera names in the order of the pictures; None for all cameras of the model.
        image_size: Height and width in pixels.
        depth: Whether ``depth`` is returned as well.
        env_kwargs: Arguments of the RoboHive environment.
    """

    robohive_id: str
    cameras: tuple[str, ...] | None = CAMERAS
    image_size: tuple[int, int] = IMAGE_SIZE
    depth: bool = False
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)


def _arm_row(robohive_id: str, **env_kwargs: Any) -> VisualDefaults:
    """Return the row of a kitchen or an appliance, whose observation holds the joints and the gripper's pose only.

    The former ``end_effector`` [3] is the first half of today's ``ee_pose`` [6].
    """
    return VisualDefaults(robohive_id, env_kwargs={"obs_keys_wt": ["robot_jnt", "ee_pose"], **env_kwargs})


def _hand_row(robohive_id: str) -> VisualDefaults:
    return VisualDefaults(robohive_id, cameras=_ADROIT_CAMERAS, env_kwargs={"obs_keys": ["hand_jnt"]})


_KITCHEN = {
    **{f"knob{knob}_{end}": f"Knob{knob}{end.title()}" for knob in (1, 2, 3, 4) for end in ("off", "on")},
    **{f"light_{end}": f"Light{end.title()}" for end in ("off", "on")},
    **{
        f"{part}_{end}": f"{part.title()}{end.title()}"
        for part in ("sdoor", "ldoor", "rdoor", "micro")
        for end in ("close", "open")
    },
}

#: The 25 ids of RLHive's first versions.
HISTORICAL = {
    **{
        f"visual_franka_{part}_{goal}-v3": _arm_row(f"franka_{part}_{goal}-v3")
        for part in ("slide", "micro")
        for goal in ("random", "close", "open")
    },
    **{f"visual_kitchen_{name}-v3": _arm_row(f"FK1_{task}Random-v4") for name, task in _KITCHEN.items()},
    "visual_kitchen_close-v3": _arm_row("FK1_CloseAllRandom-v4", max_episode_steps=50),
}

#: The ids of AgentHive, which renamed all but the six appliances.
AGENTHIVE = {
    **{f"visual_FK1_{task}Random-v4": _arm_row(f"FK1_{task}Random-v4") for task in (*_KITCHEN.values(), "Relax")},
    **{f"visual_{task}-v1": _hand_row(f"{task}-v1") for task in ("door", "hammer", "pen", "relocate")},
    # AgentHive requested an observation and cameras that this environment does not have: it builds without pixels only.
    "visual_motorFingerReachFixed-v0": VisualDefaults("motorFingerReachFixed-v0", cameras=None),
}

VISUAL = {**HISTORICAL, **AGENTHIVE}


def parse_visual_keys(robohive_id: str, visual_keys: Sequence[str]) -> VisualDefaults:
    """Return the default pictures that RoboHive's own visual keys describe.

    Args:
        robohive_id: Environment id.
        visual_keys: Keys in RoboHive's format, for example "rgb:left_cam:224x224:2d"; all of one image size.
    """
    cameras = [key.split(":", 1)[1].rsplit(":", 2)[0] for key in visual_keys if key.startswith("rgb:")]
    height, width = visual_keys[0].rsplit(":", 2)[1].split("x")
    has_depth = any(key.startswith("d:") for key in visual_keys)
    return VisualDefaults(robohive_id, tuple(cameras), (int(height), int(width)), has_depth)
