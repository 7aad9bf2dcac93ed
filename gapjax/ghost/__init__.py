"""Ghost batch normalization: statistics of small ghosts inside a large batch."""
