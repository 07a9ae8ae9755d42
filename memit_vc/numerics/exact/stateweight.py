"""A weight of a state in another dtype than the checkpoint's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memit_vc.errors import EngineError
from memit_vc.numerics.exact.factored import Term
from memit_vc.numerics.exact.materialise import materialise
from memit_vc.objects import EditableWeight


def state_weight(base: Tensor, terms: Sequence[Term], weight: EditableWeight, dtype: torch.dtype) -> Tensor:
    """The weight of a state in `dtype`: shape and orientation of `base`, the tensor as stored; on the CPU.

    In the storage dtype it is `materialise`, bit for bit what `checkout` writes. In another one the sum float64(W) + D
    is rounded to float32 and then to `dtype`, never to the storage dtype between: a float32 copy of a bfloat16 model
    holds the whole edit. Errors as for `materialise`, and EngineError where `dtype` is too narrow.
    """
    if dtype == base.dtype:
        return materialise(base, terms, weight)
    # every storage dtype's values are values of the working one, so the one rounded addition is the same
    working = torch.float64 if torch.float64 in (base.dtype, dtype) else torch.float32
    return convert(materialise(base.to(working), terms, weight), dtype, weight.name)


def convert(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """A cast to nearest even. EngineError where a finite value overflows."""
    made = tensor.to(dtype)
    if bool((torch.isfinite(tensor) & ~torch.isfinite(made)).any()):
        raise EngineError(
            f"{name}: holds {float(tensor[torch.isfinite(tensor)].abs().max()):.3g}, more than {dtype} can",
            hint="Choose bfloat16 or float32.",
        )
    return made
