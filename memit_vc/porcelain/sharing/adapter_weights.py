"""The base's weights that an adapter's modules name, also such as `init` did not record."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

from memit_vc.errors import UnsupportedModelError
from memit_vc.objects import EditableWeight
from memit_vc.porcelain.base import checked_base
from memit_vc.porcelain.setup import STORED, outline, stored_as
from memit_vc.progress import Progress, silent

if TYPE_CHECKING:
    from memit_vc.numerics.model.adapter import ModelAdapter
    from memit_vc.repository import Repository


def weights_of_modules(
    repository: Repository, modules: Collection[str], *, progress: Progress = silent
) -> dict[str, EditableWeight]:
    """The weight of each module. UnsupportedModelError for a module that the model has not, that is no projection of
    one of its layers, or whose tensor cannot be edited exactly.
    """
    from memit_vc.numerics.exact.grid import quantum_of

    known = {weight.parameter: weight for weight in repository.weights() if weight.expert is None}
    found = {module: known[f"{module}.weight"] for module in modules if f"{module}.weight" in known}
    missing = sorted(set(modules) - found.keys())
    if not missing:
        return found
    checkpoint = checked_base(repository, progress=progress)
    adapter = outline(checkpoint.directory, repository.hparams())
    tensors = {tensor.name: tensor for tensor in repository.base().tensors}
    dtype = repository.fact_weights()[0].dtype
    for number, module in enumerate(missing, 1):
        progress("measure the adapter's weights", number, len(missing))
        layer, (d_out, d_in), orientation = _place(adapter, module)
        record = stored_as(adapter, f"{module}.weight", tensors)
        shape = (d_out, d_in) if orientation == "out_in" else (d_in, d_out)
        if record.dtype not in STORED or record.dtype != dtype or record.shape != shape:
            raise UnsupportedModelError(
                f"{record.name} is stored as {record.dtype} {list(record.shape)}, not as {dtype} {list(shape)}",
                hint="Use a base whose matrices are stored unquantised and in one dtype.",
            )
        found[module] = EditableWeight(
            name=record.name,
            parameter=f"{module}.weight",
            layer=layer,
            orientation=orientation,
            d_out=d_out,
            d_in=d_in,
            dtype=record.dtype,
            quantum=quantum_of(checkpoint.chunks(record.name), record.dtype, record.name),
        )
    return found


def _place(adapter: ModelAdapter, module: str) -> tuple[int, tuple[int, int], Literal["out_in", "in_out"]]:
    """Layer, (d_out, d_in) and orientation of a projection."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    owner = adapter.modules.get(module)
    if owner is None:
        raise UnsupportedModelError(
            f"the adapter changes {module!r}, which the base does not have",
            hint="Use the model that the adapter was trained on.",
        )
    blocks = {f"{adapter.architecture.block.format(layer)}.": layer for layer in range(adapter.n_layers)}
    layer = next((layer for block, layer in blocks.items() if module.startswith(block)), None)
    if layer is None or not isinstance(owner, nn.Linear | Conv1D):
        raise UnsupportedModelError(
            f"the adapter changes {module!r} ({type(owner).__name__}), which is not a projection of a layer",
            hint="Train or get an adapter for projections of the layers only; an embedding may be tied to the head.",
        )
    rows, columns = owner.weight.shape
    return (layer, (columns, rows), "in_out") if isinstance(owner, Conv1D) else (layer, (rows, columns), "out_in")
