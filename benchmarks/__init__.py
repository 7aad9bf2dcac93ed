"""Benchmarks: `speed/` against peers and the hardware limit, `papers/` the tables of the papers."""
