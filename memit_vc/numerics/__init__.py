"""MEMIT, the patch algebra and exact materialisation: the only package that imports torch at module level."""
