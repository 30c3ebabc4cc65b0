"""The environment wing: tasks, RoboHive and its set-up, scripted policies. Imports nothing by itself."""
