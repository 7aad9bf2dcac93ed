"""Study: every regime over many seeds, what was measured, and the report."""
