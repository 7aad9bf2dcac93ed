"""The tables of the papers, run again: what is kept, and the pages that are built from it."""
