"""Models: the networks of the papers, every one with ``norm=``."""
