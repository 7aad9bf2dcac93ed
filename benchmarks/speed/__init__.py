"""Speed: each module runs as `python -m benchmarks.speed.NAME` and keeps its figures as JSON."""
