"""One batch on one state, computed in memory: targets, update, snapped patch, scores before and after."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memit_vc.errors import EngineError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import compute_edit
from memit_vc.numerics.edit.insert import LayerUpdate
from memit_vc.numerics.exact.constraints import encode_constraints
from memit_vc.numerics.exact.factored import Dense, LowRank
from memit_vc.numerics.exact.grid import break_even, snap, snap_dense
from memit_vc.numerics.exact.materialise import survived
from memit_vc.numerics.exact.patchfile import PatchTensors
from memit_vc.numerics.forward.lengths import check_lengths
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.masters import swapped
from memit_vc.objects import CommitId, Fact, JsonValue, Patch, PatchColumn, StateId, canonical_json
from memit_vc.porcelain.editing.measure import Measured, Probe, measure
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
    warnings: tuple[str, ...]

    def store(self) -> None:
        """Write the blobs: patch, constraints, provenance. Bytes before rows."""
        for blob in self.blobs:
            self.loaded.repository.blobs.put(blob)

    def evaluations(self, state: StateId, commit: CommitId) -> list[Evaluation]:
        """The rows that `show` reads."""
        if self.before is None or self.after is None:
            return []
        record: JsonValue = {"before": vars(self.before), "after": vars(self.after)}
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
    search_again: bool = False,
    progress: Progress = silent,
) -> Batch:
    """The patch of `facts` on `state`. The model is left as it was.

    `statistics` None: `corpus` and `tokens` say which. With `search_again`, earlier z are not used and the new ones are
    not kept. EngineError if the patch cannot be exact, HparamsError if `hparams` do not fit the model or name another
    projection than the repository edits.
    """
    loaded = loaded.named_by(hparams)
    repository, adapter = loaded.repository, loaded.adapter
    check_lengths(adapter, facts, [Template.parse("{}")])
    seconds: dict[str, float] = {}
    with _timed(seconds, "statistics"):
        if statistics is None:
            statistics = prepare_statistics(loaded, hparams, corpus=corpus, tokens=tokens, progress=progress)
    probe = Probe.of(repository)
    with _timed(seconds, "templates"):
        texts = context_templates(loaded, hparams)
    with _timed(seconds, "state"):
        context = loaded.context(state, hparams)
    before = after = None
    if scores:
        with _timed(seconds, "scores"), swapped(adapter, context.weights):
            before = measure(repository, adapter, facts, state.id, probe, progress=progress, stage="scores before")
    cache = None if search_again else known_targets(loaded, facts, state.id, hparams, texts)
    with _timed(seconds, "edit"):
        edit = compute_edit(
            adapter,
            facts,
            hparams=hparams,
            templates=parse_templates(texts),
            factor=statistics.factor,
            context=context,
            known=None if cache is None else cache.known,
            on_found=None if cache is None else cache.keep,
            progress=progress,
        )
    with _timed(seconds, "patch"):
        provenance = canonical_json(
            describe(
                loaded,
                state=state.id,
                hparams=hparams,
                templates=texts,
                statistics=statistics,
                steps=edit.targets.steps,
            )
        )
        patch, blobs, tensors = _patch(loaded, facts, edit.updates, edit.targets.z, provenance)
        state.check_exact(patch)
        weights: dict[int, Tensor] = dict(context.weights)
        shares = []
        for layer in hparams.layers:
            weight = loaded.weights[layer]
            present, new = state.terms(weight), [tensors[weight.name]]
            weights[layer] = loaded.with_terms(layer, [*present, *new])
            shares.append(survived(loaded.base_weight(layer), new, weight, before=present))
    if scores:
        with _timed(seconds, "scores"), swapped(adapter, weights):
            after_state = LiveState(repository, state.columns.union(patch.columns))
            after = measure(repository, adapter, facts, after_state.id, probe, progress=progress, stage="scores after")
    share = min(shares)
    warnings = []
    widest = max(loaded.weights[layer].d_in for layer in hparams.layers)
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
            f"only {share:.0%} of the intended update survives the cast to {next(iter(loaded.weights.values())).dtype}"
        )
    return Batch(loaded, patch, blobs, share, before, after, seconds, edit.targets.steps, tuple(warnings))


def _patch(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    updates: Mapping[int, LayerUpdate],
    z: Tensor,
    provenance: bytes,
) -> tuple[Patch, tuple[bytes, ...], PatchTensors]:
    """Snap the updates onto the grid and pack them; above the break-even rank, dense."""
    tensors: dict[str, LowRank | Dense] = {}
    for layer, update in updates.items():
        weight = loaded.weights[layer]
        if not bool(update.residual.isfinite().all()) or not bool(update.adjusted.isfinite().all()):
            raise EngineError(
                f"the update of {weight.name} is not finite",
                hint="Lower v_lr, raise mom2_update_weight (λ), or compute statistics with more text.",
            )
        if len(facts) > break_even(weight.d_out, weight.d_in):
            tensors[weight.name] = Dense(snap_dense(update.delta.numpy(), weight.quantum))
        else:
            tensors[weight.name] = LowRank(*snap(update.residual.numpy(), update.adjusted.T.numpy(), weight.quantum))
    names = {layer: loaded.weights[layer].name for layer in updates}
    constraints = encode_constraints(
        {names[layer]: update.keys.numpy() for layer, update in updates.items()},
        {names[layer]: update.targets.numpy() for layer, update in updates.items()},
        z.numpy(),
    )
    columns = [PatchColumn(fact=fact.id) for fact in facts]
    packed = pack(loaded.repository, columns, tensors, constraints=constraints, provenance=provenance)
    return *packed, tensors
