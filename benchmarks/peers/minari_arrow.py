"""Minari with its Arrow storage: one folder per episode."""

from benchmarks.peers import minari


class Peer(minari.Peer):
    """Adapter of Minari's Arrow storage."""

    data_format = "arrow"
