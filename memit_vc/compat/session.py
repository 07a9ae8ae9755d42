"""What an editor edits: a model in memory, changed within a block that either succeeds or leaves no trace."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from memit_vc.compat.factors import FactorSource
from memit_vc.compat.memit import add_deltas, deltas_of, templates_for
from memit_vc.compat.models import adapter_for, second_model
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import Context, compute_edit
from memit_vc.numerics.edit.insert import LayerUpdate
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.checkpoint_tensors import tensor_digest
from memit_vc.numerics.model.masters import set_aside
from memit_vc.objects import Fact
from memit_vc.progress import Progress, silent

_LOG = logging.getLogger(__name__)


class Change(Protocol):
    """A with-block in which batches are applied to `adapter`'s model. An exception takes them back."""

    original: dict[str, Tensor]
    """The edited weights by name as they were when the block began; filled when it begins."""

    @property
    def adapter(self) -> ModelAdapter: ...

    def apply(self, facts: Sequence[Fact]) -> None:
        """One batch, on top of those before it."""

    def __enter__(self) -> Change: ...

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None: ...


class Session(Protocol):
    """Where the edits of one editor go."""

    commits: bool
    """Edits are recorded elsewhere, one commit per batch, and the editor's model follows."""

    @property
    def adapter(self) -> ModelAdapter:
        """The editor's own model."""

    def begin(self, hparams: MEMITHyperParams, *, in_place: bool, message: str | None = None) -> Change:
        """A change of the editor's model, or of a second one that shares all but the edited weights with it."""

    def adopt(self, model: Any, tok: Any, hparams: MEMITHyperParams) -> None:
        """Make another model, or another tokenizer, the editor's own."""


class MemorySession:
    """A model in memory; nothing of an edit is kept anywhere else.

    Statistics and templates are found once, from the model as it first came, as MEMIT means them.
    """

    commits = False

    def __init__(
        self,
        model: Any,
        tok: Any,
        hparams: MEMITHyperParams,
        *,
        statistics: Mapping[int, Tensor] | None = None,
        templates: Sequence[Sequence[str]] | None = None,
        progress: Progress = silent,
    ) -> None:
        self.adapter = adapter_for(model, tok, hparams)
        self._statistics, self._given_templates, self.progress = statistics, templates, progress
        self._factors: FactorSource | None = None
        self._templates: dict[tuple[Any, ...], list[list[str]]] = {}
        self.keys: dict[int, Tensor] = {}
        """Keys [d_in, m] of the edits that are in the model, by layer; `history` of the hyperparameters uses them."""
        self._left: dict[str, str] = {}
        """SHA-256 of each edited weight as the last edit left it."""
        self._base: dict[str, Tensor] = {}
        """On the CPU, each weight that an edit may have changed, as the model first came."""
        self.made: tuple[ReferenceType[Any], ReferenceType[Any], dict[int, Tensor], dict[str, str]] | None = None
        """The second model that was returned last, the one it was made from, its keys, and SHA-256 of its edited
        weights at that time.
        """

    def begin(self, hparams: MEMITHyperParams, *, in_place: bool, message: str | None = None) -> MemoryChange:
        del message  # nothing is recorded
        adapter = adapter_for(self.adapter.model, self.adapter.tokenizer, hparams)  # hparams may have changed
        if self.keys and _digests(self.adapter.model, self._left) != self._left:
            _LOG.warning("the edited weights were changed from outside: earlier edits no longer count as history")
            self.keys = {}
        change = MemoryChange(self, adapter, hparams, in_place=in_place)
        if in_place:
            self._keep_base(change.original)
        return change

    def adopt(self, model: Any, tok: Any, hparams: MEMITHyperParams) -> None:
        """The second model that an edit returned keeps what was found for this one. Of any other model, nothing is
        known: statistics, templates and history begin again.
        """
        before = self.adapter.model
        adapter = adapter_for(model, tok, hparams)
        if model is not before:
            if self.made is not None and self.made[0]() is model and self.made[1]() is before:
                *_, self.keys, self._left = self.made
                self._keep_base({name: self.adapter.model.get_parameter(name) for name in self._left})
            else:
                self.keys, self._left, self._base, self._factors, self._templates = {}, {}, {}, None, {}
        self.adapter = adapter

    def remember(self, keys: dict[int, Tensor], left: dict[str, str]) -> None:
        """The edits that are now in the model, and what they left, so that a rollback by hand is noticed."""
        self.keys, self._left = keys, left

    def left(self, model: Any, names: Collection[str]) -> dict[str, str]:
        """SHA-256 of the weights `names` of a model, and of those that earlier edits changed."""
        return _digests(model, {*names, *self._left})

    def _keep_base(self, weights: Mapping[str, Tensor]) -> None:
        """Copies, because the caller gets `weights` and may write into them."""
        for name, weight in weights.items():
            if name not in self._base:
                self._base[name] = weight.detach().to("cpu", copy=True)

    def factors(self, adapter: ModelAdapter, hparams: MEMITHyperParams) -> FactorSource:
        if self._factors is None:
            self._factors = FactorSource(adapter, hparams, self._statistics, progress=self.progress)
        source = self._factors.for_hparams(adapter, hparams)
        source.find(self._base)  # the model may hold edits of other layers
        return source

    def templates(self, hparams: MEMITHyperParams) -> list[list[str]]:
        if self._given_templates is not None or hparams.context_templates is not None:
            return templates_for(self.adapter, hparams, self._given_templates)
        key = (hparams.seed, hparams.template_length, hparams.n_templates)
        if key not in self._templates:
            with set_aside(self.adapter.model, self._base):
                self._templates[key] = templates_for(self.adapter, hparams)
        return self._templates[key]


def _digests(model: Any, names: Collection[str]) -> dict[str, str]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {name: tensor_digest(parameters[name].detach().cpu()) for name in names}


class MemoryChange:
    """Batches on the session's model, or on a second one that shares all but the edited weights with it."""

    def __init__(
        self, session: MemorySession, adapter: ModelAdapter, hparams: MEMITHyperParams, *, in_place: bool
    ) -> None:
        names = [adapter.parameter_name(layer) for layer in hparams.layers]
        parameters = dict(adapter.model.named_parameters(remove_duplicate=False))
        self.original = {name: parameters[name].detach().clone() for name in names}
        self._session, self._hparams, self._in_place = session, hparams, in_place
        self._keys = dict(session.keys)
        self.adapter = adapter
        if not in_place:
            second = second_model(adapter.model, names)
            self.adapter = ModelAdapter.of(second, adapter.tokenizer, architecture=adapter.architecture)
        self._sources = adapter

    def __enter__(self) -> MemoryChange:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            model = self.adapter.model
            left = self._session.left(model, self.original)
            if self._in_place:
                self._session.remember(self._keys, left)
            else:
                self._session.made = (ref(model), ref(self._session.adapter.model), self._keys, left)
            return
        if not self._in_place:
            return
        parameters = dict(self.adapter.model.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, value in self.original.items():
                parameters[name].copy_(value)

    def apply(self, facts: Sequence[Fact]) -> None:
        hparams = self._hparams
        edit = compute_edit(
            self.adapter,
            facts,
            hparams=hparams,
            templates=parse_templates(self._session.templates(hparams)),
            factor=self._session.factors(self._sources, hparams),
            context=Context(keys=self._history()),
            progress=self._session.progress,
        )
        add_deltas(self.adapter.model, deltas_of(self.adapter, edit))
        self._remember(edit.updates)

    def _history(self) -> dict[int, Tensor] | None:
        if not self._keys:
            return None
        return {
            layer: self._keys.get(layer, torch.empty(self.adapter.dimensions(layer)[1], 0, dtype=torch.float64))
            for layer in self._hparams.layers
        }

    def _remember(self, updates: Mapping[int, LayerUpdate]) -> None:
        for layer, update in updates.items():
            keys = update.keys.cpu().double()
            self._keys[layer] = torch.cat([self._keys[layer], keys], dim=1) if layer in self._keys else keys
