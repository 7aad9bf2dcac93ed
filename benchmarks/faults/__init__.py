"""What a run survives: processes that are killed at any moment."""
