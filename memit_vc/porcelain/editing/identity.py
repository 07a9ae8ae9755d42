"""Whether a model in memory is the base or a state of it, by its matrices.

Norms and biases would not do: merging an adapter, quantising and coming back, and training with frozen norms all leave
them alone. So the matrices that edits touch are compared whole, and every other parameter in a spread of its rows,
which such a change alters almost everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from memit_vc.errors import BaseChangedError, UnsupportedModelError
from memit_vc.numerics.exact.materialise import state_weight
from memit_vc.numerics.model.checkpoint_tensors import read_tensor
from memit_vc.objects import EditableWeight, StateId
from memit_vc.porcelain.state import LiveState
from memit_vc.store.checkpoint import Checkpoint, stored_name_of
from memit_vc.store.files import storage_errors

if TYPE_CHECKING:
    from torch import Tensor

    from memit_vc.repository import Repository

_ROWS = 16
"""Rows of a parameter that edits do not touch: the first, the last, and others evenly between them."""


def check_model(repository: Repository, checkpoint: Checkpoint, model: Any) -> None:
    """BaseChangedError unless the model is the base, or a state that this repository stores, in its own dtype.

    UnsupportedModelError for one whose parameters are others than the base's, or are not plain floats in memory.
    """
    found = dict(model.named_parameters())
    weights = {weight.parameter: weight for weight in repository.weights()}
    editable = [(weight, parameter_of(found, weight)) for weight in weights.values()]
    for name in _others_that_differ(checkpoint, model, weights.keys()):
        raise _foreign(name)
    differing = [
        (weight, parameter)
        for weight, parameter in editable
        if not same_bits(parameter.data.cpu(), _stored(checkpoint, weight, parameter, LiveState(repository, ())))
    ]
    ever = repository.edited_weights()
    for weight, _ in differing:
        if weight.name not in ever:
            raise _foreign(weight.parameter)
    if differing and not _is_a_state(repository, checkpoint, differing):
        raise _foreign(differing[0][0].parameter)


def parameter_of(found: dict[str, Any], weight: EditableWeight) -> Any:
    """A model's parameter for an editable weight. UnsupportedModelError for none, or one that cannot be replaced."""
    if weight.expert is not None:
        raise UnsupportedModelError(
            f"{weight.parameter} holds all experts of a layer, and a state in memory replaces whole matrices",
            hint="Write the state with `memitvc checkout -o DIR`, and load DIR.",
        )
    parameter = found.get(weight.parameter)
    shape = (weight.d_out, weight.d_in) if weight.orientation == "out_in" else (weight.d_in, weight.d_out)
    if parameter is None or tuple(parameter.shape) != shape or not parameter.is_floating_point():
        raise UnsupportedModelError(
            f"the model has no float parameter {weight.parameter} of shape {list(shape)}",
            hint="Use the repository's base as transformers loads it, not quantised and not wrapped.",
        )
    if parameter.device.type == "meta":
        raise UnsupportedModelError(
            f"{weight.parameter} is offloaded, so its weights cannot be replaced in memory",
            hint="Write the state with `memitvc checkout -o DIR`, and load DIR with the same device_map.",
        )
    return parameter


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal bytes; NaN payloads and the sign of zero count."""
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(one.element_size(), torch.uint8)
    return bool(torch.equal(one.contiguous().view(bits), other.contiguous().view(bits)))


def _others_that_differ(checkpoint: Checkpoint, model: Any, editable: Collection[str]) -> Iterator[str]:
    prefix = getattr(model, "base_model_prefix", "")
    for name, parameter in model.named_parameters():
        stored = stored_name_of(name, prefix, checkpoint.tensors)
        if name not in editable and stored is not None and parameter.device.type != "meta":
            expected, rows = _rows(checkpoint, stored)
            shape = checkpoint.tensors[stored][1].shape
            if tuple(parameter.shape) != shape or not same_bits(
                (parameter.data if rows is None else parameter.data[rows]).cpu(), expected.to(parameter.dtype)
            ):
                yield name


def _rows(checkpoint: Checkpoint, name: str) -> tuple[Tensor, list[int] | None]:
    """A spread of a tensor's rows and which they are; None for all of a tensor that has no more, or is a vector."""
    import torch
    from safetensors import safe_open

    file, entry = checkpoint.tensors[name]
    path = checkpoint.directory / file
    if len(entry.shape) < 2 or entry.shape[0] <= _ROWS:
        return read_tensor(checkpoint, name), None
    rows = [number * (entry.shape[0] - 1) // (_ROWS - 1) for number in range(_ROWS)]
    with storage_errors(path), safe_open(path, framework="pt") as file_:
        part = file_.get_slice(name)
        return torch.cat([part[row : row + 1] for row in rows]), rows


def _is_a_state(
    repository: Repository, checkpoint: Checkpoint, differing: Sequence[tuple[EditableWeight, Any]]
) -> bool:
    """Whether a stored commit's state has exactly these weights, and the base's everywhere else. Newest first."""
    names = {weight.name for weight, _ in differing}
    seen: set[StateId] = set()
    head = repository.head().commit
    for commit in dict.fromkeys([head, *repository.stored_commits()]):
        state = LiveState.at(repository, commit)
        if state.id in seen or not names <= state.bounds.keys():
            continue
        seen.add(state.id)
        if all(
            same_bits(parameter.data.cpu(), _stored(checkpoint, weight, parameter, state))
            for weight, parameter in differing
        ):
            others = [weight for weight in state.touched if weight.name not in names]
            if all(not _changes(checkpoint, weight, state) for weight in others):
                return True
    return False


def _changes(checkpoint: Checkpoint, weight: EditableWeight, state: LiveState) -> bool:
    base = read_tensor(checkpoint, weight.name)
    return not same_bits(state_weight(base, state.terms(weight), weight, base.dtype), base)


def _stored(checkpoint: Checkpoint, weight: EditableWeight, parameter: Any, state: LiveState) -> Tensor:
    terms = state.terms(weight) if weight.name in state.bounds else []
    return state_weight(read_tensor(checkpoint, weight.name), terms, weight, parameter.dtype)


def _foreign(name: str) -> BaseChangedError:
    return BaseChangedError(
        f"the model is neither the repository's base nor one of its states: {name} has other values",
        hint="Load the base itself, for instance with memit_vc.from_pretrained, and apply the state to it.",
    )
