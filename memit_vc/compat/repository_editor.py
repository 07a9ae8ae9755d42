"""An editor on a repository: each batch is a commit, and the model shows the state of HEAD."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from memit_vc.compat.models import adapter_for, second_model
from memit_vc.errors import UsageError
from memit_vc.foreign.text import quoted
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.objects import Fact
from memit_vc.porcelain.base import checked_base
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.identity import check_model
from memit_vc.porcelain.editing.models import LoadedModel, load_model
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository


class RepositorySession:
    """The repository at `directory` (or above it), its base loaded once, and a model with the weights of HEAD.

    That model shares every tensor that is not editable with the base. NoRepositoryError if there is none.
    """

    commits = True

    def __init__(
        self, directory: Path, hparams: MEMITHyperParams, *, given: Any = None, progress: Progress = silent
    ) -> None:
        """`given` is a model that the caller takes for this repository's: BaseChangedError if it is not."""
        self.repository = Repository.open(directory)
        if given is not None:
            check_model(self.repository, checked_base(self.repository), given)
        self.progress = progress
        self.loaded: LoadedModel = load_model(self.repository, device=hparams.resolved_device(), progress=progress)
        base = self.loaded.adapter
        adapter_for(base.model, base.tokenizer, hparams)  # refuse hyperparameters of another model at once
        owned = {*hparams.layers, *self.loaded.touched(self.head())}
        self.names = {layer: self.loaded.weights[layer].parameter for layer in sorted(owned)}
        self.adapter = self.copy_of(base)
        self.made = ref(self.adapter.model)
        """The model that the last edit returned."""
        self.show(self.adapter, self.head())

    def begin(self, hparams: MEMITHyperParams, *, in_place: bool, message: str | None = None) -> RepositoryChange:
        if message is not None and not isinstance(message, str):
            raise UsageError(f"message is {quoted(message)}, not a text", hint="Give the commit's message.")
        target = self.adapter if in_place else self.copy_of(self.adapter)
        self.made = ref(target.model)
        self.show(target, self.head())  # HEAD may have moved since: another process, a switch of branches
        return RepositoryChange(self, target, hparams, message)

    def adopt(self, model: Any, tok: Any, hparams: MEMITHyperParams) -> None:  # noqa: ARG002
        """Take the model of the last edit as the editor's own, as scripts do to keep an edit. UsageError for others."""
        if tok is not self.adapter.tokenizer or not (model is self.adapter.model or self.made() is model):
            raise UsageError(
                "the model of an editor on a repository is that of HEAD",
                hint="Move HEAD (memitvc switch), or open an editor without repo= for a model of your own.",
            )
        self.adapter = ModelAdapter.of(model, tok, architecture=self.adapter.architecture)

    def copy_of(self, adapter: ModelAdapter) -> ModelAdapter:
        model = second_model(adapter.model, self.names.values())
        return ModelAdapter.of(model, adapter.tokenizer, architecture=adapter.architecture)

    def head(self) -> LiveState:
        return LiveState.of_head(self.repository)

    def show(self, adapter: ModelAdapter, state: LiveState) -> None:
        """Give the model the materialised weights of a state."""
        if state.adapters.columns:
            raise UsageError(
                "HEAD holds an imported adapter, which this interface does not show",
                hint="Switch to a branch without it, or edit with `memitvc commit`.",
            )
        touched = self.loaded.materialised(state)
        if beyond := sorted(set(touched) - set(self.names)):
            raise UsageError(
                f"HEAD edits layers {beyond}, which this editor did not when it was opened",
                hint="Open it again with BaseEditor.from_hparams(hparams, repo=…).",
            )
        parameters = dict(adapter.model.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for layer, name in self.names.items():
                weight = touched.get(layer)
                parameters[name].copy_(self.loaded.base_weight(layer) if weight is None else weight)


class RepositoryChange:
    """Commits on HEAD, shown in one model. Commits that were made stay, also where a later one fails."""

    def __init__(
        self, session: RepositorySession, adapter: ModelAdapter, hparams: MEMITHyperParams, message: str | None
    ) -> None:
        self.adapter = adapter
        self._session, self._hparams, self._message = session, hparams, message
        parameters = dict(adapter.model.named_parameters(remove_duplicate=False))
        if beyond := sorted(set(hparams.layers) - set(session.names)):
            raise UsageError(
                f"hparams.layers has {beyond}, which this editor did not edit when it was opened",
                hint="Open it again with BaseEditor.from_hparams(hparams, repo=…).",
            )
        names = [session.names[layer] for layer in hparams.layers]
        self.original: dict[str, Tensor] = {name: parameters[name].detach().clone() for name in names}

    def apply(self, facts: Sequence[Fact]) -> None:
        session = self._session
        commit_facts(
            session.repository,
            facts,
            message=self._message,
            hparams=self._hparams,
            loaded=session.loaded,
            progress=session.progress,
        )
        session.show(self.adapter, session.head())

    def __enter__(self) -> RepositoryChange:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is not None:
            self._session.show(self.adapter, self._session.head())
