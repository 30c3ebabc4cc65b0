"""Import path of earlier versions: ``from rlhive.rl_envs import RoboHiveEnv``."""

from rlhive.envs import RoboHiveEnv as RoboHiveEnv
