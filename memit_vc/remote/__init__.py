"""Remotes: a plain directory and a Hugging Face Hub repository behind one protocol."""
