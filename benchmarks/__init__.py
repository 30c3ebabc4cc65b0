"""Benchmarks: ours and peers on the same work in one run; see benchmarks/README.md."""
