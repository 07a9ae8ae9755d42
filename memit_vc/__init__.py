"""memit-vc: version control for the facts inside a language model."""

__version__ = "0.1.0"
