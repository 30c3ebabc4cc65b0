"""Algorithms, one file each; :mod:`rlhive.sim_algos._registry` finds them by name."""
