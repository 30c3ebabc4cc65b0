"""Offline-RL results on RoboHive: a catalogue of cells, a runner that fills what is missing, and the statistics."""
