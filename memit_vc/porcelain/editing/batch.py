"""One batch on one state, computed in memory: targets, update, snapped patch, scores before and after."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from memit_vc.errors import DOCS, EngineError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import Context, Edit, check_search, compute_edit, forward_tokens, improve_edit
from memit_vc.numerics.edit.insert import LayerUpdate
from memit_vc.numerics.exact.constraints import encode_constraints
from memit_vc.numerics.exact.factored import Dense, LowRank, Term
from memit_vc.numerics.exact.grid import break_even, snap, snap_dense
from memit_vc.numerics.exact.materialise import survived
from memit_vc.numerics.exact.patchfile import PatchTensors
from memit_vc.numerics.forward.lengths import check_lengths, check_probes
from memit_vc.numerics.forward.sinks import PLAIN
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.masters import swapped
from memit_vc.numerics.scores.explain import explained, outputs, unanswered
from memit_vc.numerics.scores.scores import Answers
from memit_vc.objects import (
    CommitId,
    EditableWeight,
    Fact,
    FactId,
    JsonValue,
    Patch,
    PatchColumn,
    StateId,
    canonical_json,
)
from memit_vc.porcelain.editing.measure import Measured, Probe, base_answers, measure
from memit_vc.porcelain.editing.models import LoadedModel
from memit_vc.porcelain.editing.pack import pack
from memit_vc.porcelain.editing.provenance import describe
from memit_vc.porcelain.editing.remembered import context_templates, known_targets
from memit_vc.porcelain.editing.statistics import Prepared, prepare_statistics
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.store.publish import Evaluation

if TYPE_CHECKING:
    from torch import Tensor

FULL = 0.3
"""Load from which a commit warns: facts per input. At 0.33 SmolLM2-135M answered 0.85 to 0.88 of the prompts, and the
perplexity was × 1.11 to 1.18 (docs/quality.md).
"""
SCARCE = 2
"""Fewer tokens than this many per input estimate the second moment too badly (docs/statistics.md)."""


@dataclass(frozen=True)
class Batch:
    """A computed batch. Nothing of it is stored yet."""

    loaded: LoadedModel
    patch: Patch
    blobs: tuple[bytes, ...]
    survived: float
    before: Measured | None
    after: Measured | None
    seconds: Mapping[str, float]
    steps: tuple[int, ...]
    why: Mapping[FactId, JsonValue]
    """Of each fact, how the edit took: what `show --why` prints."""
    load: float
    """Live facts per input of the edited layers, n / d_in, with the batch: how full they are."""
    leverage: float
    """Mean of kᵀA⁻¹k over facts and layers: the share of what was asked that the solve let through."""
    failing: tuple[Fact, ...]
    """Facts whose target the edited model does not give."""
    warnings: tuple[str, ...]

    def store(self) -> None:
        """Write the blobs: patch, constraints, provenance. Bytes before rows."""
        for blob in self.blobs:
            self.loaded.repository.blobs.put(blob)

    def evaluations(self, state: StateId, commit: CommitId) -> list[Evaluation]:
        """The rows that `show` reads."""
        if self.before is None or self.after is None:
            return []
        why: JsonValue = {str(fact): figures for fact, figures in self.why.items()}
        record: JsonValue = {"before": vars(self.before), "after": vars(self.after), "why": why}
        return [(state, commit, "commit", commit, record), *self.after.rows(state)]


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the wall seconds of the block to its stage's."""
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def compute_batch(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    state: LiveState,
    *,
    hparams: MEMITHyperParams,
    corpus: str | None = None,
    tokens: int | None = None,
    statistics: Prepared | None = None,
    scores: bool = True,
    chat: bool = False,
    search_again: bool = False,
    max_tokens: int | None = None,
    progress: Progress = silent,
) -> Batch:
    """The patch of `facts` on `state`. The model is left as it was.

    `statistics` None: `corpus` and `tokens` say which. With `chat`, the scores have `chat_acc`. With `search_again`,
    earlier z are not used and the new ones are not kept. `max_tokens` of a forward of the search: None takes what free
    memory allows. EngineError if the patch cannot be exact, HparamsError if `hparams` do not fit the model or name
    another projection than the repository edits.
    """
    loaded = loaded.named_by(hparams)
    repository, adapter = loaded.repository, loaded.adapter
    check_search(adapter, hparams)
    check_lengths(adapter, facts, [Template.parse("{}")])
    check_probes(adapter, facts if scores else [replace(fact, neighbourhood=(), ground_truth=None) for fact in facts])
    seconds: dict[str, float] = {}
    with _timed(seconds, "statistics"):
        if statistics is None:
            statistics = prepare_statistics(loaded, hparams, corpus=corpus, tokens=tokens, progress=progress)
    probe = Probe.of(repository)
    with _timed(seconds, "templates"):
        texts = context_templates(loaded, hparams)
    base = None
    if scores:
        with _timed(seconds, "scores"):
            base = base_answers(repository, adapter, facts)
    largest = forward_tokens(adapter, hparams) if max_tokens is None else max_tokens
    prepared = _OnBase(hparams, statistics, texts, probe, base, chat, largest, seconds)
    with loaded.beneath(state):
        return _on_state(loaded, facts, state, prepared, search_again=search_again, progress=progress)


@dataclass(frozen=True)
class _OnBase:
    """What is found out on the base. `base` None: nothing is to be scored."""

    hparams: MEMITHyperParams
    statistics: Prepared
    texts: Sequence[Sequence[str]]
    probe: Probe | None
    base: Answers | None
    chat: bool
    max_tokens: int
    seconds: dict[str, float]


def _on_state(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    state: LiveState,
    prepared: _OnBase,
    *,
    search_again: bool,
    progress: Progress,
) -> Batch:
    """The batch, on a model that holds the state's adapters and otherwise the base."""
    repository, adapter = loaded.repository, loaded.adapter
    hparams, statistics, texts = prepared.hparams, prepared.statistics, prepared.texts
    seconds, scores = prepared.seconds, prepared.base is not None
    measured = partial(
        measure,
        repository,
        adapter,
        facts,
        probe=prepared.probe,
        base=prepared.base,
        chat=prepared.chat,
        progress=progress,
    )
    with _timed(seconds, "state"):
        context = loaded.context(state, hparams)
    before = after = None
    if scores:
        with _timed(seconds, "scores"), swapped(adapter, context.weights):
            before = measured(state.id, stage="scores before")
    templates = parse_templates(texts)
    cache = (
        None
        if search_again
        else known_targets(loaded, facts, state.id, hparams, texts, statistics.id, prepared.max_tokens)
    )
    with _timed(seconds, "edit"):
        edit = compute_edit(
            adapter,
            facts,
            hparams=hparams,
            templates=templates,
            factor=statistics.factor,
            context=context,
            known=None if cache is None else cache.known,
            max_tokens=prepared.max_tokens,
            on_found=None if cache is None else cache.keep,
            progress=progress,
        )
    within = edit.anchors or [PLAIN] * len(facts)
    with _timed(seconds, "edit"), swapped(adapter, context.weights):
        start = outputs(adapter, facts, hparams.layers[-1], within)
    with _timed(seconds, "patch"):
        tried = _tried(loaded, facts, state, context, edit)
    given_up = None
    for attempt in range(hparams.retries):
        # the plain prompt of a sink is out of reach: to ask for more of it would only add to what other prompts get
        wanted = [number for number in tried.failing if within[number] == PLAIN]
        if not wanted:
            break
        progress("try again", attempt, hparams.retries)
        again = None
        try:  # a search may diverge, and what it asks for may be too large to be stored
            with _timed(seconds, "edit"):
                edit = improve_edit(
                    adapter,
                    facts,
                    edit,
                    wanted,
                    hparams=hparams,
                    templates=templates,
                    factor=statistics.factor,
                    context=context,
                    weights=tried.weights,
                    search_again=bool(attempt),
                    max_tokens=prepared.max_tokens,
                    progress=progress,
                )
            with _timed(seconds, "patch"):
                again = _tried(loaded, facts, state, context, edit)
            tried = again if len(again.failing) < len(tried.failing) else tried
        except EngineError as error:
            given_up = f"another try was given up, and the result before it is used: {error.message}"
        if hparams.search_for == "residuals" and tried is not again:
            break  # it would be the same search once more
        edit = tried.edit
    edit, tensors, weights, failing = tried.edit, tried.tensors, tried.weights, tried.failing
    with _timed(seconds, "patch"):
        provenance = canonical_json(
            describe(
                loaded,
                state=state.id,
                hparams=hparams,
                templates=texts,
                statistics=statistics,
                steps=edit.targets.steps,
                max_tokens=prepared.max_tokens,
            )
        )
        patch, blobs = _packed(loaded, facts, edit, tensors, provenance)
        state.check_exact(patch)
        shares = [
            survived(loaded.base_of(weight), [tensors[weight.name]], weight, before=state.terms(weight))
            for layer in hparams.layers
            for weight in loaded.parts(layer)
            if weight.name in tensors
        ]
        with swapped(adapter, weights):
            why = explained(adapter, facts, edit, layers=hparams.layers, start=start, within=within)
    if scores:
        with _timed(seconds, "scores"), swapped(adapter, weights):
            after_state = LiveState(repository, state.columns.union(patch.columns))
            after = measured(after_state.id, stage="scores after")
    share = min(shares, default=1.0)
    warnings = [given_up] if given_up else []
    widest = max(adapter.dimensions(layer)[1] for layer in hparams.layers)
    if statistics.tokens < SCARCE * widest:
        warnings.append(
            f"statistics of {statistics.tokens:,} tokens for keys of width {widest:,} are too few to protect other "
            f"knowledge: use at least {SCARCE * widest:,} "
            + ("(`memitvc stats --tokens`)" if statistics.tokens >= statistics.asked else "of a longer text (--corpus)")
        )
    elif statistics.computed and statistics.tokens < statistics.asked:
        warnings.append(f"statistics of {statistics.tokens:,} tokens: the text has no more of {statistics.asked:,}")
    if share < 0.9:
        warnings.append(
            f"only {share:.0%} of the intended update survives the cast to {loaded.parts(hparams.layers[0])[0].dtype}"
        )
    if hparams.search_for == "residuals" and hparams.passes > 1:
        warnings.append(f"passes is {hparams.passes}, which a search for residuals does not use (search_for: z does)")
    if hparams.search_for == "z" and hparams.rehearse:
        warnings.append(f"rehearse is {hparams.rehearse}: only a search for residuals uses it (search_for: residuals)")
    sunk = [number for number in failing if within[number] != PLAIN]
    if rest := [number for number in failing if number not in sunk]:
        warnings.append(f"{_named(facts, rest)}: the edited model does not give the target (`memitvc show --why`)")
    if sunk:
        warnings.append(
            f"{_named(facts, sunk)}: the model does not give the target; the subject is an attention sink at the "
            "beginning of a text, so this fact was edited behind other text only (`memitvc show --why`)"
        )
    load = (len(state.edits) + len(facts)) / widest
    if load > FULL:
        warnings.append(
            f"the edited layers hold {load:.0%} of as many facts as they have inputs: earlier facts are "
            f"answered less well, and other text suffers ({DOCS}quality.md)"
        )
    return Batch(
        loaded,
        patch,
        blobs,
        share,
        before,
        after,
        seconds,
        edit.targets.steps,
        why,
        load,
        edit.leverage,
        tuple(facts[i] for i in failing),
        tuple(warnings),
    )


def _named(facts: Sequence[Fact], numbers: Sequence[int]) -> str:
    """A few of the facts by name, and how many there are."""
    shown = "; ".join(f"{facts[i].prompt} → {facts[i].target}" for i in numbers[:3])
    more = len(numbers) - 3
    return shown + (f"; and {more} more" if more > 0 else "")


def _materialised(
    loaded: LoadedModel, state: LiveState, tensors: PatchTensors, layers: Sequence[int]
) -> dict[int, Tensor]:
    """The weights of the state with the new update, as a checkout would have them."""

    def terms(weight: EditableWeight) -> list[Term]:
        return [*state.terms(weight), *([tensors[weight.name]] if weight.name in tensors else [])]

    return {layer: loaded.with_terms(layer, terms) for layer in layers}


@dataclass(frozen=True)
class _Tried:
    """An edit on the grid, the weights that it comes to, and the facts (by number) that they do not answer."""

    edit: Edit
    tensors: PatchTensors
    weights: Mapping[int, Tensor]
    failing: Sequence[int]


def _tried(loaded: LoadedModel, facts: Sequence[Fact], state: LiveState, context: Context, edit: Edit) -> _Tried:
    """EngineError if the update cannot be stored."""
    tensors = _snapped(loaded, facts, edit.updates)
    weights = {**context.weights, **_materialised(loaded, state, tensors, list(edit.updates))}
    with swapped(loaded.adapter, weights):
        return _Tried(edit, tensors, weights, unanswered(loaded.adapter, facts))


def _snapped(loaded: LoadedModel, facts: Sequence[Fact], updates: Mapping[int, LayerUpdate]) -> PatchTensors:
    """The updates on the grid, by the name of their weight; dense above the break-even rank."""
    tensors: dict[str, LowRank | Dense] = {}
    for layer, update in updates.items():
        if not bool(update.residual.isfinite().all()) or not bool(update.adjusted.isfinite().all()):
            raise EngineError(
                f"the update of {loaded.keyed_name(layer)} is not finite",
                hint="Lower v_lr, raise mom2_update_weight (λ), or compute statistics with more text.",
            )
        for weight, part in loaded.split(layer, update.adjusted):
            if len(facts) > break_even(weight.d_out, weight.d_in):
                whole = replace(update, adjusted=part).delta
                tensors[weight.name] = Dense(snap_dense(whole.numpy(), weight.quantum))
            else:
                term = LowRank(*snap(update.residual.numpy(), part.T.numpy(), weight.quantum))
                if weight.expert is None or term.right.any():  # what is below the grid need not be written
                    tensors[weight.name] = term
    return tensors


def _packed(
    loaded: LoadedModel, facts: Sequence[Fact], edit: Edit, tensors: PatchTensors, provenance: bytes
) -> tuple[Patch, tuple[bytes, ...]]:
    """The patch with its constraints, and the blobs."""
    keys = {layer: loaded.split(layer, update.keys) for layer, update in edit.updates.items()}
    constraints = encode_constraints(
        {weight.name: part.numpy() for parts in keys.values() for weight, part in parts},
        {parts[0][0].name: edit.updates[layer].targets.numpy() for layer, parts in keys.items() if parts},
        edit.targets.z.numpy(),
    )
    columns = [PatchColumn(fact=fact.id) for fact in facts]
    return pack(loaded.repository, columns, tensors, constraints=constraints, provenance=provenance)
