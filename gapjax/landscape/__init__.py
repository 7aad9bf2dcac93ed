"""Landscape: curvature and sharpness of the loss around a solution."""
