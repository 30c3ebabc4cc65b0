"""The ``visual_*`` ids of earlier versions: which RoboHive environment each one is today, and what it shows.

This file is data. docs/visual.md has the same table in words, and where RoboHive changed a task in the meantime.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Cameras and image height and width in pixels of the historical ids.
CAMERAS = ("right_cam", "left_cam")
IMAGE_SIZE = (224, 224)

_ADROIT_CAMERAS = ("vil_camera", "fixed")


@dataclass(frozen=True)
class Visual:
    """What an id shows unless the caller says otherwise.

    Attributes:
        robohive_id: The environment that RoboHive registers.
        cameras: Names, in the order of the pictures; None for all that the model has.
        image_size: Height and width in pixels.
        depth: Whether depth is given too.
        env_kwargs: Arguments of the RoboHive environment.
    """

    robohive_id: str
    cameras: tuple[str, ...] | None = CAMERAS
    image_size: tuple[int, int] = IMAGE_SIZE
    depth: bool = False
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)


def _arm(robohive_id: str, **env_kwargs: Any) -> Visual:
    """A kitchen or an appliance: joints and gripper are observed, the rest is to be seen.

    ``end_effector`` [3] of old is the first half of today's ``ee_pose`` [6].
    """
    return Visual(robohive_id, env_kwargs={"obs_keys_wt": ["robot_jnt", "ee_pose"], **env_kwargs})


def _hand(robohive_id: str) -> Visual:
    return Visual(robohive_id, cameras=_ADROIT_CAMERAS, env_kwargs={"obs_keys": ["hand_jnt"]})


_KITCHEN = {
    **{f"knob{knob}_{end}": f"Knob{knob}{end.title()}" for knob in (1, 2, 3, 4) for end in ("off", "on")},
    **{f"light_{end}": f"Light{end.title()}" for end in ("off", "on")},
    **{
        f"{part}_{end}": f"{part.title()}{end.title()}"
        for part in ("sdoor", "ldoor", "rdoor", "micro")
        for end in ("close", "open")
    },
}

#: The 25 ids of the first versions.
HISTORICAL = {
    **{
        f"visual_franka_{part}_{what}-v3": _arm(f"franka_{part}_{what}-v3")
        for part in ("slide", "micro")
        for what in ("random", "close", "open")
    },
    **{f"visual_kitchen_{old}-v3": _arm(f"FK1_{new}Random-v4") for old, new in _KITCHEN.items()},
    "visual_kitchen_close-v3": _arm("FK1_CloseAllRandom-v4", max_episode_steps=50),
}

#: The names that AgentHive gave them later; the six of the appliances it kept.
AGENTHIVE = {
    **{f"visual_FK1_{new}Random-v4": _arm(f"FK1_{new}Random-v4") for new in (*_KITCHEN.values(), "Relax")},
    **{f"visual_{task}-v1": _hand(f"{task}-v1") for task in ("door", "hammer", "pen", "relocate")},
    # It asked for an observation and for cameras that this environment does not have: RoboHive's own are given.
    "visual_motorFingerReachFixed-v0": Visual("motorFingerReachFixed-v0", cameras=None),
}

VISUAL = {**HISTORICAL, **AGENTHIVE}


def visual_of_keys(robohive_id: str, visual_keys: Sequence[str]) -> Visual:
    """Return what RoboHive's own visual keys ask for.

    Args:
        robohive_id: The environment.
        visual_keys: As RoboHive writes them, for example "rgb:left_cam:224x224:2d"; all of one size.
    """
    cameras = [key.split(":", 1)[1].rsplit(":", 2)[0] for key in visual_keys if key.startswith("rgb:")]
    height, width = visual_keys[0].rsplit(":", 2)[1].split("x")
    has_depth = any(key.startswith("d:") for key in visual_keys)
    return Visual(robohive_id, tuple(cameras), (int(height), int(width)), has_depth)
