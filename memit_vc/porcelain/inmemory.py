"""`memit_vc.from_pretrained` and `memit_vc.apply_state`: states on a transformers model in memory, without a checkout.

Parameters are pointed at other tensors and never written into, so the tensors that a model was loaded with stay
untouched: `restore` points back to them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memit_vc.errors import UsageError
from memit_vc.foreign.text import one_line, quoted
from memit_vc.numerics.exact.materialise import state_weight
from memit_vc.numerics.model.checkpoint_tensors import read_tensor
from memit_vc.numerics.model.memory import is_out_of_memory
from memit_vc.objects import CommitId, StateId
from memit_vc.porcelain.base import checked_base
from memit_vc.porcelain.editing.identity import check_model, parameter_of, same_bits
from memit_vc.porcelain.editing.models import loading
from memit_vc.porcelain.sharing.hub_clone import cached_clone, resolve_there
from memit_vc.porcelain.state import LiveState
from memit_vc.remote.opening import checked_url, is_hub
from memit_vc.repository import Repository
from memit_vc.store.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor


_PLACE = "Give the directory that holds .memitvc, or a repository on the Hub: owner/name."


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
        """Apply another state instead of the present one; only the matrices in which they differ are touched.

        Errors as for `apply_state`; the model then stays as it was.
        """
        with self._repository.open() as repository:
            commit = self._repository.resolve(repository, _checked(revision))
            state, wanted = _differing(repository, commit, self._model)
        for name, (parameter, tensor) in wanted.items():
            self._found.setdefault(name, (parameter, parameter.data))
            parameter.data = tensor
        self.commit, self.state = commit, state

    def restore(self) -> None:
        """Give every parameter the tensor that it had when the state was applied. Harmless when called again.

        A model that was moved or cast meanwhile stays where it is, and in its dtype.
        """
        for parameter, tensor in self._found.values():
            parameter.data = tensor.to(device=parameter.device, dtype=parameter.dtype)
        self._found.clear()

    def __enter__(self) -> AppliedState:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


def apply_state(model: Any, repository: str | Path | Repository, revision: str = "HEAD") -> AppliedState:
    """Put the state of `revision` on a loaded model of the repository's base (or of any state of it), in place.

    In the checkpoint's dtype the weights are those of `checkout`, bit for bit; in another one they are rounded once to
    it. Only the matrices that differ are replaced, on the device where they are. UnsupportedModelError for a model of
    another architecture or with quantised or offloaded weights, BaseChangedError for a model of another base, or one
    whose matrices are neither the base's nor those of a state: a merged adapter, a fine-tuned copy.

    `repository` as for `from_pretrained`; from the Hub it is fetched once, here. UsageError for arguments of a wrong
    type.
    """
    if not hasattr(model, "named_parameters"):
        raise UsageError(
            f"the model is a {type(model).__name__}, not a transformers model",
            hint="Load it with AutoModelForCausalLM, or use memit_vc.from_pretrained.",
        )
    _checked(revision)
    applied = AppliedState(model, repository)
    with applied._repository.open() as opened:
        check_model(opened, checked_base(opened), model)
    applied.switch(revision)
    return applied


def from_pretrained(
    repository: str | Path | Repository, revision: str | None = None, *, device_map: Any = None, **kwargs: Any
) -> Any:
    """The edited model of `revision` (default HEAD) as transformers' `AutoModelForCausalLM`, in eval mode.

    `repository` is a directory with a `.memitvc` in it, an open one, or a repository on the Hub: owner/name or
    hf://owner/name, with @branch for a branch other than main. A Hub repository is cloned to the user's cache with its
    base and fetched again on later calls; otherwise nothing is downloaded. `device_map` and the other arguments go to
    transformers; the dtype is the checkpoint's unless `dtype` says otherwise. No remote code is run.

    UsageError for a directory without a repository, and for arguments that are of a wrong type or that transformers
    does not know. UnsupportedModelError if transformers cannot load the base, or if weights are quantised or offloaded
    while loading (load a directory that `checkout` wrote instead). From the Hub also the errors of `memitvc clone`.
    """
    if "model" in kwargs:
        raise UsageError(
            "from_pretrained loads the model itself",
            hint="Use memit_vc.apply_state(model, repository), which checks the model that it is given.",
        )
    refused = {"trust_remote_code", "quantization_config", "state_dict", "output_loading_info"} & kwargs.keys()
    if refused:
        raise UsageError(
            f"from_pretrained does not take {min(refused)}", hint="Load a directory that `memitvc checkout` wrote."
        )
    given = dict(kwargs) if device_map is None else {"device_map": device_map, **kwargs}
    kwargs.setdefault("dtype", kwargs.pop("torch_dtype", "auto"))
    named = "HEAD" if revision is None else _checked(revision) or "HEAD"
    source = _Source.of(repository)
    with source.open() as opened:
        commit = source.resolve(opened, named)
        checkpoint = checked_base(opened, whole=True)
        with loading(checkpoint) as load, _arguments(given):
            model = load(device_map=device_map, **kwargs)
        _, wanted = _differing(opened, commit, model, checkpoint)
    for parameter, tensor in wanted.values():
        parameter.data = tensor
    return model.eval()


def _checked(revision: object) -> str:
    """UsageError for a revision that is no text."""
    if not isinstance(revision, str):
        raise UsageError(
            f"revision is {quoted(revision)}, not a text", hint="Give a branch, a tag, a commit's id, or HEAD~1."
        )
    return revision


@contextmanager
def _arguments(given: Mapping[str, object]) -> Iterator[None]:
    """UsageError for an error of transformers that arguments of the caller's can cause: of a wrong one, it raises
    whatever comes up.
    """
    try:
        yield
    except (OSError, ValueError, ImportError):
        raise  # `loading` says these
    except Exception as error:
        if not given or is_out_of_memory(error):
            raise
        first = str(error).strip().split("\n", 1)[0]
        listed = ", ".join(f"{name}={quoted(value)}" for name, value in given.items())
        raise UsageError(
            f"transformers cannot load the base with {listed}: {type(error).__name__}: {first}",
            hint="Give arguments of AutoModelForCausalLM.from_pretrained: dtype is the kind of numbers, device_map the "
            "device.",
        ) from error


@dataclass(frozen=True)
class _Source:
    """Where states come from: an open repository, or a directory, which may be a clone of a repository on the Hub."""

    place: Repository | Path
    cloned: bool = False

    @classmethod
    def of(cls, given: str | Path | Repository) -> _Source:
        if isinstance(given, Repository):
            return cls(given)
        if not isinstance(given, str | os.PathLike):
            raise UsageError(f"repository is {quoted(given)}, not a path", hint=_PLACE)
        try:
            directory = Path(given).expanduser()
            if (directory / ".memitvc").is_dir():
                return cls(directory)
        except (OSError, RuntimeError, TypeError) as error:  # too long, closed to us, no such user, a path of bytes
            raise UsageError(f"{quoted(given)} cannot be looked at: {error}", hint=_PLACE) from error
        if isinstance(given, str) and is_hub(given, directory=Path()):
            return cls(cached_clone(checked_url(given, directory=Path())), cloned=True)
        raise UsageError(
            f"{one_line(str(given)) or repr('')}: there is no memit-vc repository",
            hint=f"{_PLACE} A directory that `checkout` wrote loads with transformers.",
        )

    @contextmanager
    def open(self) -> Iterator[Repository]:
        if isinstance(self.place, Repository):
            yield self.place
            return
        with Repository.open(self.place) as opened:
            yield opened

    def resolve(self, repository: Repository, revision: str) -> CommitId:
        return resolve_there(repository, revision) if self.cloned else repository.resolve(revision)


def _differing(
    repository: Repository, commit: CommitId, model: Any, checkpoint: Checkpoint | None = None
) -> tuple[StateId, dict[str, tuple[Any, Tensor]]]:
    """The state's id, and the parameters that do not hold its weights yet with the tensors that do."""
    checkpoint = checkpoint or checked_base(repository)
    state = LiveState.at(repository, commit)
    found = dict(model.named_parameters())
    wanted: dict[str, tuple[Any, Tensor]] = {}
    for weight in repository.weights():
        parameter = parameter_of(found, weight)
        terms = state.terms(weight) if weight.name in state.bounds else []
        tensor = state_weight(read_tensor(checkpoint, weight.name), terms, weight, parameter.dtype)
        tensor = tensor.to(parameter.device)
        if not same_bits(parameter.data, tensor):
            wanted[weight.parameter] = (parameter, tensor)
    return state.id, wanted
