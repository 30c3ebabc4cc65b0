"""Tune the scripted expert of a task: ``python -m rlhive.envs.experts FK1_Knob1OnRandom-v4``."""

from rlhive.envs.experts._tune import main

if __name__ == "__main__":
    main()
