"""One adapter module per peer, run by the Python of that peer's pinned virtual environment.

A peer is a library that RLHive is compared with, or RLHive itself. An adapter defines the class ``Peer`` that
:mod:`benchmarks.peers.worker` describes. Of this project it imports only :mod:`benchmarks.peers`; the adapter of RLHive
also imports ``rlhive``.
"""
