"""Bytes and rows: blobs, the database, checkpoint files. No tensors."""
