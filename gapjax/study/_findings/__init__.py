"""Findings: intervals, the gap and its share, budgets, diffusion, the landscape."""
