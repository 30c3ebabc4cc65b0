"""Scripted policies of RoboHive's Franka arm: experts, their degraded levels, and a random policy."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.envs.experts._experts import make_scripted_policy as make_scripted_policy
    from rlhive.envs.experts._mixed import make_mixed_policy as make_mixed_policy
    from rlhive.envs.experts._play import (
        make_play_policy as make_play_policy,
        make_stitch_policy as make_stitch_policy,
    )
    from rlhive.envs.experts._scripted import (
        ExpertPolicy as ExpertPolicy,
        RandomPolicy as RandomPolicy,
        ScriptedPolicy as ScriptedPolicy,
    )
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
