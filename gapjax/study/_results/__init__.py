"""Results: typed records, the one schema of the files, the folder, where numbers come from."""
