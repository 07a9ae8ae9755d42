"""One edit batch: a search for all facts, and the update of each layer. The model is given back bit-identical.

As published, z is searched for (`targets.py`) and then inserted (`keys.py`, `solve.py`, `insert.py`). With
`search_for: residuals`, the insertion gives the right factors only, and R is searched for through them
(`residuals.py`). This module puts the steps in order, with the weights of the present state in the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from memit_vc.errors import EngineError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.insert import LayerUpdate, insert, reached, with_residual
from memit_vc.numerics.forward.chat import turns
from memit_vc.numerics.forward.lengths import check_lengths
from memit_vc.numerics.forward.phrasebook import PhraseBook
from memit_vc.numerics.forward.sinks import anchors as anchors_of
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.masters import swapped
from memit_vc.numerics.model.memory import search_tokens
from memit_vc.numerics.model.modes import outside_inference_mode, refuse_inference_tensors
from memit_vc.numerics.search.residuals import columns_of
from memit_vc.numerics.search.targets import Targets
from memit_vc.numerics.search.targets_team import find, search_order, searched
from memit_vc.numerics.statistics.factors import BlockFactor, Factor
from memit_vc.objects import Fact
from memit_vc.progress import Progress, silent

CHUNK = 32
"""Facts searched for together: enough to fill a forward, few enough that a killed commit loses little."""


def chunks(count: int, size: int | None = None) -> list[range]:
    """Positions of a batch's facts, from the first on, in as few chunks of at most `size` (None: `CHUNK`) as it takes.

    No chunk has two facts more than another: of 100 facts, processes get 25 each and not 32, 32, 32 and 4. Which facts
    share a forward moves z in its last bits, so the cut depends on the batch alone, never on what a cache holds of it.
    """
    parts = -(-count // (size or CHUNK))
    return [range(count * part // parts, count * (part + 1) // parts) for part in range(parts)]


@dataclass(frozen=True)
class Context:
    """The state that a batch is computed on, for a model that holds the base's weights; empty: the base, no history.

    `weights[layer]` is the materialised weight (storage dtype, the module's own orientation). `delta[layer]` D [d_out,
    d_in] and `keys[layer]` the live facts' keys [d_in, m] are float64 in y = W x orientation. `facts` are the live
    ones, which a search for residuals rehearses.
    """

    weights: Mapping[int, Tensor] = field(default_factory=dict)
    delta: Mapping[int, Tensor] | None = None
    keys: Mapping[int, Tensor] | None = None
    facts: Sequence[Fact] = ()


@dataclass(frozen=True)
class FoundTarget:
    """z of one fact [d_model] float32, or its residuals (`residuals.py`); the evaluations of the loss, and the last."""

    z: Tensor
    steps: int
    loss: float


@dataclass(frozen=True)
class Edit:
    """What a batch comes to: one update per edited layer, and how z was found. `anchors` None: all plain prompts.
    `through`: residuals were searched for, and z is what came of them.
    """

    updates: Mapping[int, LayerUpdate]
    targets: Targets
    anchors: Sequence[Template] | None = None
    through: bool = False

    @property
    def leverage(self) -> float:
        """Mean of kᵀA⁻¹k over facts and layers: the share of what was asked that the solve let through."""
        return float(torch.stack([update.leverage.mean() for update in self.updates.values()]).mean())


def search_targets(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    *,
    hparams: MEMITHyperParams,
    templates: Sequence[Sequence[Template]],
    known: MutableMapping[int, FoundTarget] | None = None,
    weights: Mapping[int, Tensor] | None = None,
    anchors: Sequence[Template] | None = None,
    adjusted: Mapping[int, Tensor] | None = None,
    earlier: Sequence[Fact] = (),
    max_tokens: int | None = None,
    chunk: int | None = None,
    plain: bool = False,
    on_found: Callable[[Mapping[int, FoundTarget]], None] | None = None,
    progress: Progress = silent,
) -> Targets:
    """z of every fact, in `chunks`; with `adjusted`, A⁻¹K [d_in, n] of each layer, the residuals instead, while the
    `earlier` facts are rehearsed.

    Facts in `known` (by position) are not searched again, and `on_found` may keep the others, a chunk at a time. The
    chunks are split over the processes of `adapter.team`; `weights` are those that the model holds instead of the
    base's, for the others to hold too. `anchors` are those of the facts (`sinks.py`); None: with `avoid_sinks`, those
    that the model now has. `max_tokens` None chooses by free memory.
    """
    if hparams.phrase_book:
        facts = PhraseBook.shipped().added(facts, hparams.phrase_book)
    found: dict[int, FoundTarget] = dict(known or {})
    unknown = ([i for i in whole if i not in found] for whole in chunks(len(facts), chunk))
    parts = [part for part in unknown if part]
    known_before = len(found)
    flat = [template for group in templates for template in group]
    check_lengths(adapter, facts, flat)
    steps, stage = hparams.v_num_grad_steps, "search z" if adjusted is None else "search residuals"
    layer = hparams.layers[-1 if adjusted is None else 0]  # the first whose output has a gradient
    within = anchors_for(adapter, facts, flat, hparams) if anchors is None else anchors
    largest = search_tokens(adapter, layer=layer) if max_tokens is None else max_tokens
    progress(stage, known_before * steps, len(facts) * steps)

    options: dict[str, Any] = {"hparams": hparams, "templates": flat, "max_tokens": largest, "plain": plain}
    asked = [[facts[i] for i in part] for part in parts]
    own = [{layer: columns[:, part] for layer, columns in adjusted.items()} for part in parts] if adjusted else None
    where = [None if within is None else [within[i] for i in part] for part in parts]

    def search(index: int) -> Targets:
        part = asked[index]
        offset = (known_before + sum(map(len, asked[:index]))) * steps

        def on_step(step: int, searching: int) -> None:
            progress(stage, offset + step * searching + (len(part) - searching) * steps, len(facts) * steps)

        given = None if own is None else own[index]
        return find(adapter, part, adjusted=given, earlier=earlier, anchors=where[index], on_step=on_step, **options)

    order = partial(search_order, asked, anchors=where, weights=weights or {}, adjusted=own, earlier=earlier, **options)
    for number, result in searched(adapter.team, len(parts), order, search):
        each = map(FoundTarget, result.z.cpu(), result.steps, result.loss)
        new = dict(zip(parts[number], each, strict=True))
        found.update(new)
        if on_found is not None:
            on_found(new)
    progress(stage, len(facts) * steps, len(facts) * steps)
    ordered = [found[i] for i in range(len(facts))]
    return Targets(torch.stack([f.z for f in ordered]), tuple(f.steps for f in ordered), tuple(f.loss for f in ordered))


def forward_tokens(adapter: ModelAdapter, hparams: MEMITHyperParams) -> int:
    """How many tokens a forward of the search gets with the memory that is free now. They move the last bits of z."""
    return search_tokens(adapter, layer=hparams.layers[-1 if hparams.search_for == "z" else 0])


@outside_inference_mode
def compute_edit(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    *,
    hparams: MEMITHyperParams,
    templates: Sequence[Sequence[Template]],
    factor: Callable[[int], Factor | BlockFactor],
    context: Context | None = None,
    known: MutableMapping[int, FoundTarget] | None = None,
    max_tokens: int | None = None,
    on_found: Callable[[Mapping[int, FoundTarget]], None] | None = None,
    progress: Progress = silent,
) -> Edit:
    """The batch's update of each layer of `hparams.layers`.

    `factor(layer)` gives the factored λC of a layer. With `hparams.history` false the live keys of `context` stay out
    of the solve, which is MEMIT as published. On a CPU, deterministic for given inputs, threads and `max_tokens` (None:
    by free memory). EngineError if residuals are to be searched for and a layer has experts.
    """
    refuse_inference_tensors(adapter.model)
    check_search(adapter, hparams)
    context = context or Context()
    # on the base, so that every commit and every retry reads a subject in the same context
    anchors = anchors_for(adapter, facts, [template for group in templates for template in group], hparams)
    templates = _with_turns(adapter, templates, hparams)
    check_lengths(adapter, facts, [template for group in templates for template in group])
    with swapped(adapter, _beside(context, hparams.layers)):
        inserted = partial(
            insert,
            adapter,
            facts,
            layers=hparams.layers,
            templates=templates,
            factor=factor,
            before=context.delta,
            history=context.keys if hparams.history else None,
            anchors=anchors,
        )
        through = hparams.search_for == "residuals"
        updates = inserted(None) if through else {}
        with swapped(adapter, context.weights):
            targets = search_targets(
                adapter,
                facts,
                hparams=hparams,
                templates=templates,
                known=known,
                weights=context.weights,
                anchors=anchors,
                adjusted={layer: update.adjusted for layer, update in updates.items()} if through else None,
                earlier=context.facts,
                max_tokens=max_tokens,
                on_found=on_found,
                progress=progress,
            )
        if through:
            return _with_residuals(adapter, facts, updates, targets, range(len(facts)), hparams, context, anchors)

        def on_layer(done: int) -> None:
            progress("insert", done, hparams.passes * len(hparams.layers))

        return Edit(inserted(targets.z, passes=hparams.passes, on_layer=on_layer), targets, anchors)


def _beside(context: Context, layers: Sequence[int]) -> dict[int, Tensor]:
    """The state's weights in layers that this batch does not edit: what is read above them depends on them, too."""
    return {layer: weight for layer, weight in context.weights.items() if layer not in layers}


def check_search(adapter: ModelAdapter, hparams: MEMITHyperParams) -> None:
    """EngineError if `hparams` ask for a search for residuals, which the edited layers do not allow."""
    if hparams.search_for == "residuals" and any(adapter.experts(layer) is not None for layer in hparams.layers):
        raise EngineError(
            f"{hparams.source}: search_for is residuals, but the edited layers are mixtures of experts, "
            "for which only z can be searched for",
            hint="Set search_for: z.",
        )


def _with_residuals(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    updates: Mapping[int, LayerUpdate],
    found: Targets,
    numbers: Sequence[int],
    hparams: MEMITHyperParams,
    context: Context,
    anchors: Sequence[Template] | None,
) -> Edit:
    """The edit in which what was found is added to the residuals of the facts number `numbers`.

    Its z are the states that the weights now give at the anchors.
    """
    columns = columns_of(found.z, hparams.layers)
    changed = {
        layer: with_residual(update, update.residual.index_add(1, torch.tensor(list(numbers)), columns[layer]))
        for layer, update in updates.items()
    }
    z = reached(adapter, facts, changed, before=context.delta, anchors=anchors)
    return Edit(changed, Targets(z, found.steps, found.loss), anchors, through=True)


def anchors_for(
    adapter: ModelAdapter, facts: Sequence[Fact], templates: Sequence[Template], hparams: MEMITHyperParams
) -> list[Template] | None:
    """The facts' anchors in the model as it is, or None without `avoid_sinks`."""
    return anchors_of(adapter, facts, templates, hparams.layers[-1]) if hparams.avoid_sinks else None


def _with_turns(
    adapter: ModelAdapter, templates: Sequence[Sequence[Template]], hparams: MEMITHyperParams
) -> Sequence[Sequence[Template]]:
    """With `chat`, also the turns of a chat: in the last group, or behind the only one, so that the plain prompt counts
    as much as all others."""
    asked = turns(adapter.tokenizer) if hparams.chat else []
    if not asked:
        return templates
    return [*templates, asked] if len(templates) == 1 else [*templates[:-1], [*templates[-1], *asked]]


@outside_inference_mode
def improve_edit(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    edit: Edit,
    failing: Sequence[int],
    *,
    hparams: MEMITHyperParams,
    templates: Sequence[Sequence[Template]],
    factor: Callable[[int], Factor | BlockFactor],
    context: Context,
    weights: Mapping[int, Tensor],
    search_again: bool = False,
    max_tokens: int | None = None,
    progress: Progress = silent,
) -> Edit:
    """The edit with another pass for the facts number `failing`; the residuals of the others stay.

    `weights` are those of the edited state. With `search_again`, z of these facts is first searched for again on that
    state. A search for residuals has no passes: it always goes on from that state, and it also
    rehearses the other facts of the batch.
    """
    templates = _with_turns(adapter, templates, hparams)
    with swapped(adapter, _beside(context, hparams.layers)):
        targets = edit.targets
        through = hparams.search_for == "residuals"
        if through or search_again:
            numbers = list(failing)
            with swapped(adapter, weights):
                found = search_targets(
                    adapter,
                    [facts[i] for i in failing],
                    hparams=hparams,
                    templates=templates,
                    weights=weights,
                    anchors=None if edit.anchors is None else [edit.anchors[i] for i in failing],
                    adjusted={layer: u.adjusted[:, numbers] for layer, u in edit.updates.items()} if through else None,
                    earlier=[*context.facts, *(fact for i, fact in enumerate(facts) if i not in numbers)],
                    max_tokens=max_tokens,
                    progress=lambda _, done, total: progress("search again", done, total),
                )
            steps, loss = list(targets.steps), list(targets.loss)
            for number, i in enumerate(failing):
                steps[i], loss[i] = steps[i] + found.steps[number], found.loss[number]
            if through:
                told = Targets(found.z, tuple(steps), tuple(loss))
                return _with_residuals(adapter, facts, edit.updates, told, failing, hparams, context, edit.anchors)
            z = targets.z.clone()
            z[numbers] = found.z
            targets = Targets(z, tuple(steps), tuple(loss))
        updates = insert(
            adapter,
            facts,
            targets.z,
            layers=hparams.layers,
            templates=templates,
            factor=factor,
            before=context.delta,
            history=context.keys if hparams.history else None,
            anchors=edit.anchors,
            begun=edit.updates,
            only=failing,
        )
        return Edit(updates, targets, edit.anchors)
