"""Diffusion: how far and how fast the weights travel."""
