"""Environment ids that stand for all of RoboHive's families."""

import pytest

#: One id or two of each class of tasks and of each kind of hidden state; the package index has their assets.
WITH_PYPI_ASSETS = (
    *("FK1_Knob1OnRandom-v4", "FK1_CloseAllRandom-v4", "franka_slide_random-v3", "FrankaReachRandom-v0"),
    *("FrankaPushRandom-v0", "FrankaPickPlaceRandom-v0", "rpFrankaRobotiqPoseRandom-v0", "rpFrankaDmanusPoseRandom-v0"),
    *("rpFrankaRobotiqData-v0", "TrifingerReachRandom-v0", "FetchReachRandom-v0", "baoding-v1"),
)

#: Those whose assets are in RoboHive's repositories only.
WITH_GIT_ASSETS = (
    *("door-v1", "hammer-v1", "pen-v1", "relocate-v1"),
    *("DKittyWalkRandom-v0", "DKittyOrientRandom-v0", "DKittyStandRandom-v0"),
    *("motorFingerReachRandom-v0", "myoElbowPose1D6MExoRandom-v0", "myoHandPoseRandom-v0", "myoHandReachRandom-v0"),
    *("myoFatiElbowPose1D6MRandom-v0", "myoFatiHandReorient8-v0", "myoHandBaodingRandom-v1", "myoHandReorientID-v0"),
    *("myoHandObjHoldRandom-v0", "myoLegWalk-v0", "myoLegRoughTerrainWalk-v0", "myoChallengeChaseTagP2-v0"),
    *("myoChallengeRelocateP2-v0", "myoChallengeDieReorientP2-v0", "myoChallengeBaodingP2-v1"),
    *("MyoHandAppleRandom-v0", "MyoHandAirplaneFly-v0"),
)

#: All of them as parameters of a test, which skips where assets are not installed; those of whole trees are slow.
ALL = [*WITH_PYPI_ASSETS, *(pytest.param(name, marks=pytest.mark.slow) for name in WITH_GIT_ASSETS)]

#: One id of each family.
ONE_EACH = (
    *("FK1_Knob1OnRandom-v4", "franka_slide_random-v3", "FrankaReachRandom-v0", "rpFrankaRobotiqPoseRandom-v0"),
    *("FetchReachRandom-v0", "TrifingerReachRandom-v0", "baoding-v1", "door-v1", "DKittyWalkRandom-v0"),
    *("motorFingerReachRandom-v0", "myoHandPoseRandom-v0", "myoFatiElbowPose1D6MRandom-v0", "myoLegWalk-v0"),
    *("myoChallengeChaseTagP2-v0", "MyoHandAppleRandom-v0"),
)

NO_ASSETS = "simulation assets are not installed. Type: rlhive setup --assets git"
