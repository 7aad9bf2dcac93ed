"""Growth: batches that start small and grow."""
