"""Benchmarks that anyone can run; each prints JSON on its last line."""
