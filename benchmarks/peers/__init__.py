"""One room per peer, each run by the Python of its own pinned virtual environment.

A room imports its library, NumPy, the standard library and :mod:`benchmarks.peers.source`, nothing else of this project
(``ours`` excepted), and holds a class ``Peer`` as :mod:`benchmarks.peers.worker` describes it.
"""
