"""`tune`: layers, λ and passes for a model that nobody has settings for, found by measurement.

First windows of layers over the lower half of the model: z is searched for once for each last layer. Then λ and passes
at the best window, from the same z: no new search. Everything that was measured is kept, so that a killed run goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, product
from typing import TYPE_CHECKING, Any

from memit_vc.errors import EngineError, UsageError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.hparams.searches import FOR_Z
from memit_vc.numerics.edit.engine import anchors_for, forward_tokens, search_targets
from memit_vc.numerics.edit.insert import insert
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.devices import float64_device
from memit_vc.numerics.model.masters import swapped
from memit_vc.numerics.scores.scores import score, subject_answers, total
from memit_vc.objects import Fact, canonical_json, digest
from memit_vc.porcelain.editing.calibration import calibration_facts
from memit_vc.porcelain.editing.measure import Probe, perplexity_of
from memit_vc.porcelain.editing.models import LoadedModel, load_model
from memit_vc.porcelain.editing.provenance import computed_by, shipped_texts
from memit_vc.porcelain.editing.remembered import context_templates, known_targets
from memit_vc.porcelain.editing.statistics import prepare_statistics
from memit_vc.progress import Progress, silent
from memit_vc.store.jsoncache import recall, remember

if TYPE_CHECKING:
    from torch import Tensor

    from memit_vc.repository import Repository

_DEPTHS = (0.1, 0.2, 0.3, 0.45)
"""Where a window ends, as a share of the depth."""
_WIDTH = 5
_WEIGHTS = (0.25, 1.0, 4.0)
"""λ as multiples of d_in, around the one that was chosen for SmolLM2-135M (1.3)."""
_PASSES = (1, 2)
_HARM = 5.0
"""What a perplexity that rises by a share above `_FREE` costs, in the units of an accuracy."""
_FREE = 0.01
_TIE = 0.03
"""Worths of λ and passes that differ by less are taken for equal: over sixty facts, about half a standard error."""


@dataclass(frozen=True)
class Tried:
    """One setting and what it came to on the calibration facts, each figure a mean over them."""

    layers: tuple[int, ...]
    weight: float
    passes: int
    facts: int
    prompts: float
    paraphrases: float
    same_subject: float
    perplexity: float
    """Of the health text, against the base's."""

    @property
    def worth(self) -> float:
        """What the choice goes by: prompts, paraphrases and other questions alike, less the harm to other text."""
        if not math.isfinite(self.perplexity):
            return -math.inf
        return self.prompts + self.paraphrases + self.same_subject - _HARM * max(0.0, self.perplexity - 1 - _FREE)

    @property
    def span(self) -> str:
        first, last = self.layers[0], self.layers[-1]
        return ", ".join(map(str, self.layers)) if last - first >= len(self.layers) else f"{first}-{last}"

    def line(self) -> str:
        return (
            f"layers {self.span}, λ {self.weight:g}, passes {self.passes}, {self.facts} facts: "
            f"prompts {self.prompts:.2f}, paraphrases {self.paraphrases:.2f}, same subject {self.same_subject:.2f}, "
            f"perplexity × {self.perplexity:.3f}"
        )


@dataclass(frozen=True)
class Tuned:
    """The setting, everything that was tried, the seconds it took, and what was left out for lack of time."""

    hparams: MEMITHyperParams
    best: Tried
    tried: tuple[Tried, ...]
    seconds: float
    left_out: int


def tune(
    repository: Repository,
    *,
    facts: Sequence[Fact] | None = None,
    minutes: float | None = None,
    progress: Progress = silent,
) -> Tuned:
    """The best of the settings that were tried on `facts` (default: the calibration facts that ship with memit-vc).

    With `minutes`, no further setting is measured once they are over; what is known of one counts all the same.
    UsageError for fewer than four facts.
    """
    chosen = list(facts or calibration_facts())
    if len(chosen) < 4:
        raise UsageError(f"{len(chosen)} facts are too few to choose by", hint="Give twenty or more.")
    began = time.monotonic()
    own = repository.hparams()
    loaded = load_model(repository, device=own.resolved_device(), progress=progress).named_by(own)
    # residuals would have to be searched for again for each λ, so z stands for them here; passes belong to z alone
    changes: dict[str, Any] = {"chat": False}
    if own.search_for == "residuals":  # its steps and weights may be too many and too large for z
        lowered = ("v_num_grad_steps", "keep_factor", "name_factor")
        changes |= {"search_for": "z", **{name: min(FOR_Z[name], getattr(own, name)) for name in lowered}}
    editable = {layer for layer in loaded.layers if own.names(layer, loaded.adapter.modules)}
    windows = _windows(loaded.adapter.n_layers, editable)
    bench = _Bench(loaded, own.replace(**changes), chosen, sorted({*chain(*windows)}), progress)
    left_out = 0

    def over() -> bool:
        return minutes is not None and time.monotonic() - began > 60 * minutes

    width = loaded.adapter.dimensions(max(editable))[1]
    tried: list[Tried] = []
    for number, layers in enumerate(windows):
        progress("layers", number, len(windows))
        made = bench.try_out(chosen, layers, weight=float(width), passes=1, begin=not (tried and over()))
        if made is None:
            left_out += 1
        else:
            tried.append(made)
    best = max(tried, key=lambda each: each.worth)
    grid = list(product(_WEIGHTS, _PASSES if own.search_for == "z" else _PASSES[:1]))
    fine = []
    for number, (weight, passes) in enumerate(grid):
        progress("λ and passes", number, len(grid))
        made = bench.try_out(chosen, best.layers, weight=weight * width, passes=passes, begin=not over())
        if made is None:
            left_out += 1
        else:
            fine.append(made)
    best = _gentlest([best, *fine])
    hparams = own.replace(layers=list(best.layers), mom2_update_weight=best.weight, passes=best.passes)
    return Tuned(hparams, best, tuple(tried + fine), time.monotonic() - began, left_out)


def _gentlest(tried: Sequence[Tried]) -> Tried:
    """Of the settings that are about as good as the best, the one that harms other text least. EngineError if all break
    the model.
    """
    most = max(each.worth for each in tried)
    if most == -math.inf:
        raise EngineError(
            "after each edit that was tried, the perplexity of the health text is not a number",
            hint="Lower v_lr, or load the model in a wider dtype: the edits damage it.",
        )
    return min((each for each in tried if each.worth > most - _TIE), key=lambda each: each.perplexity)


def _windows(n_layers: int, editable: set[int]) -> list[tuple[int, ...]]:
    """Windows of consecutive layers, by depth; each may be edited, and a block is left above."""
    found: dict[tuple[int, ...], None] = {}
    for depth in _DEPTHS:
        last = min(max(1, round(depth * n_layers)), max(0, n_layers - 2))
        layers = tuple(layer for layer in range(max(0, last - _WIDTH + 1), last + 1) if layer in editable)
        if layers:
            found[layers] = None
    return list(found) or [tuple(sorted(editable)[:_WIDTH])]


class _Bench:
    """What all settings share: the model, its statistics, the base's scores, z by last layer."""

    def __init__(
        self,
        loaded: LoadedModel,
        hparams: MEMITHyperParams,
        facts: Sequence[Fact],
        layers: Sequence[int],
        progress: Progress,
    ) -> None:
        self.loaded, self.hparams, self.progress = loaded, hparams, progress
        self.repository = loaded.repository
        self.statistics = prepare_statistics(loaded, hparams.replace(layers=list(layers)), progress=progress)
        self.texts = context_templates(loaded, hparams)
        self.probe = Probe.of(self.repository)
        self.base = subject_answers(loaded.adapter, facts)
        self.perplexity = perplexity_of(loaded.adapter, self.probe)

    def try_out(
        self, facts: Sequence[Fact], layers: tuple[int, ...], *, weight: float, passes: int, begin: bool
    ) -> Tried | None:
        """One setting. What an earlier run measured of it is read; without that, and without `begin`, None."""
        hparams = self.hparams.replace(layers=list(layers), mom2_update_weight=weight, passes=passes)
        about = {**hparams.portable_json(), "statistics": self.statistics.id, "probe": self.probe.id}
        asked = [fact.id for fact in facts]
        key = digest("tune", canonical_json([about, self.texts, asked, shipped_texts(), computed_by(self.loaded)]))
        path = self.repository.root / "cache" / f"tune-{key[:16]}.json"
        known = recall(path)
        if known:
            return Tried(**{**known, "layers": tuple(known["layers"])})
        if not begin:
            return None
        z = self._search(facts, hparams)
        flat = [template for group in parse_templates(self.texts) for template in group]
        updates = insert(
            self.loaded.adapter,
            facts,
            z,
            layers=layers,
            templates=parse_templates(self.texts),
            factor=lambda layer: self.statistics.factor(layer).scaled(weight / self.hparams.mom2_update_weight),
            passes=passes,
            anchors=anchors_for(self.loaded.adapter, facts, flat, hparams),
        )
        weights = {layer: self._edited(layer, update.delta) for layer, update in updates.items()}
        with swapped(self.loaded.adapter, weights):
            found = total(score(self.loaded.adapter, facts, base=self.base))
            perplexity = perplexity_of(self.loaded.adapter, self.probe) / self.perplexity
        paraphrases = found["clean_acc"] if found["clean_acc"] is not None else found["paraphrase_acc"]
        made = Tried(
            layers,
            weight,
            passes,
            len(facts),
            found["rewrite_acc"] or 0.0,
            paraphrases or 0.0,
            found["same_subject"] or 0.0,
            perplexity,
        )
        if math.isfinite(perplexity):  # JSON has no other, and a next run may do better
            remember(path, asdict(made))
        return made

    def _edited(self, layer: int, delta: Tensor) -> Tensor:
        """The weight of a layer with Δ, as the model holds it."""
        import torch

        found = self.loaded.adapter.parameter(layer).data.clone(memory_format=torch.contiguous_format)
        parts = self.loaded.parts(layer)
        for weight, part in zip(parts, torch.split(delta, [weight.d_in for weight in parts], dim=1), strict=True):
            own = found if weight.expert is None else found[weight.expert]
            near = float64_device(own.device)
            own.copy_(own.to(near).double() + (part if weight.orientation == "out_in" else part.T).to(near))
        return found

    def _search(self, facts: Sequence[Fact], hparams: MEMITHyperParams) -> Tensor:
        """z on the base: kept by chunk, and the same for every λ and number of passes."""
        tokens = forward_tokens(self.loaded.adapter, hparams)
        cache = known_targets(self.loaded, facts, self.repository.state_id(()), hparams, self.texts, "", tokens)
        return search_targets(
            self.loaded.adapter,
            facts,
            hparams=hparams,
            max_tokens=tokens,
            templates=parse_templates(self.texts),
            known=cache.known,
            on_found=cache.keep,
            progress=self.progress,
        ).z
