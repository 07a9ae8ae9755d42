"""`memit_vc.from_pretrained` and `memit_vc.apply_state`: states on a transformers model in memory, without a checkout.

Parameters are pointed at other tensors and never written into, so what a model was loaded with is there, untouched, to
be pointed back to: `restore` gives the very same storage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from memit_vc.errors import BaseChangedError, UnsupportedModelError, UsageError
from memit_vc.objects import CommitId, EditableWeight, StateId
from memit_vc.porcelain.base import checked_base
from memit_vc.porcelain.state import LiveState
from memit_vc.remote.opening import checked_url, is_hub
from memit_vc.repository import Repository
from memit_vc.store.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor


class AppliedState:
    """A state on a model. A context manager that restores at its end; `switch` moves to another state.

    `commit` and `state` name what the model holds, `parameters` those that were pointed at another tensor.
    """

    commit: CommitId
    state: StateId

    def __init__(self, model: Any, repository: str | Path | Repository) -> None:
        """Use `apply_state`."""
        self._model, self._repository = model, _Source.of(repository)
        self._found: dict[str, tuple[Any, Tensor]] = {}

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(sorted(self._found))

    def switch(self, revision: str) -> None:
        """Put another state in place of the present one; only the matrices in which they differ are touched.

        Errors as for `apply_state`; the model is as before then.
        """
        with self._repository.open() as repository:
            commit = self._repository.resolve(repository, revision)
            state, wanted = _differing(repository, commit, self._model)
        for name, (parameter, tensor) in wanted.items():
            self._found.setdefault(name, (parameter, parameter.data))
            parameter.data = tensor
        self.commit, self.state = commit, state

    def restore(self) -> None:
        """Give every parameter the tensor that it had when the state was applied. Harmless when called again."""
        for parameter, tensor in self._found.values():
            parameter.data = tensor
        self._found.clear()

    def __enter__(self) -> AppliedState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


def apply_state(model: Any, repository: str | Path | Repository, revision: str = "HEAD") -> AppliedState:
    """Put the state of `revision` on a loaded model of the repository's base (or of any state of it), in place.

    In the checkpoint's dtype the weights are those of `checkout`, bit for bit; in another one they are rounded once to
    it. Only the matrices that differ are replaced, on the device where they are. UnsupportedModelError for a model of
    another architecture or with quantised or offloaded weights, BaseChangedError for a model of another base.

    `repository` as for `from_pretrained`; from the Hub it is fetched once, here.
    """
    applied = AppliedState(model, repository)
    with applied._repository.open() as opened:
        _check_base(opened, model)
    applied.switch(revision)
    return applied


def from_pretrained(
    repository: str | Path | Repository, revision: str | None = None, *, device_map: Any = None, **kwargs: Any
) -> Any:
    """The edited model of `revision` (default HEAD) as transformers' `AutoModelForCausalLM`, in eval mode.

    `repository` is a directory with a `.memitvc` in it, an open one, or a repository on the Hub: owner/name or
    hf://owner/name, with @branch for another of its branches than main. That is cloned to the user's cache with its
    base, and fetched again on later calls; otherwise nothing is downloaded. `device_map` and the other arguments go to
    transformers; the dtype is the checkpoint's unless `dtype` says otherwise. No remote code is run.

    UsageError for a directory without a repository, UnsupportedModelError where transformers cannot load the base, or
    weights are quantised or offloaded while loading: `checkout` writes a directory that loads in any way; from the Hub
    errors as for `memitvc clone`.
    """
    from transformers import AutoModelForCausalLM

    refused = {"trust_remote_code", "quantization_config", "state_dict"} & kwargs.keys()
    if refused:
        raise UsageError(
            f"from_pretrained does not take {sorted(refused)[0]}",
            hint="Load a directory that `memitvc checkout` wrote.",
        )
    kwargs.setdefault("dtype", kwargs.pop("torch_dtype", "auto"))
    source = _Source.of(repository)
    with source.open() as opened:
        commit = source.resolve(opened, revision or "HEAD")
        checkpoint = checked_base(opened)
        try:
            model = AutoModelForCausalLM.from_pretrained(
                checkpoint.directory, device_map=device_map, local_files_only=True, trust_remote_code=False, **kwargs
            )
        except (ValueError, OSError, ImportError) as error:
            first = str(error).strip().split("\n", 1)[0]
            raise UnsupportedModelError(
                f"{checkpoint.directory}: transformers cannot load this model: {first}",
                hint="memit-vc loads causal language models of the installed transformers, without remote code.",
            ) from error
        _, wanted = _differing(opened, commit, model, checkpoint)
    for parameter, tensor in wanted.values():
        parameter.data = tensor
    return model.eval()


@dataclass(frozen=True)
class _Source:
    """Where states come from: an open repository, or a directory, which may be a clone of a repository on the Hub."""

    place: Repository | Path
    cloned: bool = False

    @classmethod
    def of(cls, given: str | Path | Repository) -> _Source:
        if isinstance(given, Repository):
            return cls(given)
        directory = Path(given).expanduser()
        if (directory / ".memitvc").is_dir():
            return cls(directory)
        if isinstance(given, str) and is_hub(given, directory=Path()):
            from memit_vc.porcelain.sharing.hub_clone import cached_clone

            return cls(cached_clone(checked_url(given, directory=Path())), cloned=True)
        raise UsageError(
            f"{given}: there is no memit-vc repository",
            hint="Give the directory that holds .memitvc, or a repository on the Hub: owner/name. A directory that "
            "`checkout` wrote loads with transformers.",
        )

    @contextmanager
    def open(self) -> Iterator[Repository]:
        if isinstance(self.place, Repository):
            yield self.place
            return
        with Repository.open(self.place) as opened:
            yield opened

    def resolve(self, repository: Repository, revision: str) -> CommitId:
        if not self.cloned:
            return repository.resolve(revision)
        from memit_vc.porcelain.sharing.hub_clone import resolve_there

        return resolve_there(repository, revision)


def _differing(
    repository: Repository, commit: CommitId, model: Any, checkpoint: Checkpoint | None = None
) -> tuple[StateId, dict[str, tuple[Any, Tensor]]]:
    """The state's id, and the parameters that do not hold its weights yet with the tensors that do."""
    import torch

    from memit_vc.numerics.exact.materialise import state_weight
    from memit_vc.numerics.model.checkpoint_tensors import read_tensor

    checkpoint = checkpoint or checked_base(repository)
    state = LiveState.at(repository, commit)
    found = dict(model.named_parameters())
    wanted: dict[str, tuple[Any, Tensor]] = {}
    for weight in repository.weights():
        parameter = _parameter(found, weight)
        terms = state.terms(weight) if weight.name in state.bounds else []
        tensor = state_weight(read_tensor(checkpoint, weight.name), terms, weight, parameter.dtype)
        tensor = tensor.to(parameter.device)
        if not _same_bits(parameter.data, tensor, torch):
            wanted[weight.parameter] = (parameter, tensor)
    return state.id, wanted


def _parameter(found: dict[str, Any], weight: EditableWeight) -> Any:
    parameter = found.get(weight.parameter)
    shape = (weight.d_out, weight.d_in) if weight.orientation == "out_in" else (weight.d_in, weight.d_out)
    if parameter is None or tuple(parameter.shape) != shape or not parameter.is_floating_point():
        raise UnsupportedModelError(
            f"the model has no float parameter {weight.parameter} of shape {list(shape)}",
            hint="It must be the repository's base as transformers loads it, not quantised and not wrapped.",
        )
    if parameter.device.type == "meta":
        raise UnsupportedModelError(
            f"{weight.parameter} is offloaded, so its weights cannot be replaced in memory",
            hint="`memitvc checkout -o DIR` writes the state; load that directory with the same device_map.",
        )
    return parameter


def _same_bits(one: Tensor, other: Tensor, torch: Any) -> bool:
    """Equal bytes; NaN payloads and the sign of zero count."""
    if one.dtype != other.dtype:
        return False
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(one.element_size(), torch.uint8)
    return bool(torch.equal(one.contiguous().view(bits), other.contiguous().view(bits)))


def _check_base(repository: Repository, model: Any) -> None:
    """That the model is this base or a state of it: its vectors (norms, biases), which no edit touches, are the base's.

    A few kilobytes of each layer tell a model apart that was trained further or is another one of the same shape.
    """
    import torch

    from memit_vc.numerics.model.checkpoint_tensors import read_tensor

    checkpoint = checked_base(repository)
    found: Sequence[tuple[str, Any]] = [(n, p) for n, p in model.named_parameters() if p.dim() == 1]
    # checkpoints are written with or without the base model's prefix
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for name, parameter in found:
        stored = next((n for n in (name, name.removeprefix(prefix)) if n in checkpoint.tensors), None)
        if stored is not None and parameter.device.type != "meta":
            expected = read_tensor(checkpoint, stored).to(parameter.dtype)
            if not _same_bits(parameter.data.cpu(), expected, torch):
                raise BaseChangedError(
                    f"the model is not the repository's base: {name} has other values",
                    hint="Load the base itself, for instance with memit_vc.from_pretrained, and apply the state to it.",
                )
