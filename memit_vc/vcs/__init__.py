"""Graph and state as pure functions: no files, no database, no tensors."""
