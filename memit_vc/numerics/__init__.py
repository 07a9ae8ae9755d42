"""MEMIT, the patch algebra and exact materialisation. Only this package and `compat` import torch at the top."""
