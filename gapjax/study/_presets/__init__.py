"""Studies with a name: those of this library, and a row each of the papers' tables."""
