"""Minari with its Arrow storage: one folder per episode."""

from benchmarks.peers import minari


class Peer(minari.Peer):
    """As ``minari``, in the other format."""

    data_format = "arrow"
