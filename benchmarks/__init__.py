"""Benchmarks of RLHive and its peers on the same work in one run; see benchmarks/README.md."""
