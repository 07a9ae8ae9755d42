"""The algebra on the model: 100 facts in ten commits, with history and without: solved, reverted, merged, blamed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.places import Options
from benchmarks.real import Lab, chunks, enough, lab, settings
from benchmarks.report import Report, Row
from memit_vc.numerics.edit.engine import Context, compute_edit
from memit_vc.numerics.edit.insert import LayerUpdate
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.masters import swapped
from memit_vc.objects import Fact
from memit_vc.porcelain.asking.blame import blame
from memit_vc.porcelain.editing.remembered import context_templates
from memit_vc.porcelain.editing.statistics import prepare_statistics
from memit_vc.porcelain.recomputing.resolve import resolve_revert, resolve_squash
from memit_vc.porcelain.recomputing.resolve_join import resolve_merge
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sets.switch import switch, switch_to_new

__all__ = ["run"]


def run(options: Options) -> Report:
    """Acceptance of the algebra, on the model's own answers."""
    facts = enough(options, 100)
    batches = chunks(facts, max(1, len(facts) // 10))
    half = [fact for batch in batches[:5] for fact in batch]
    rows: list[Row] = []
    with lab(options) as here:
        made = [here.commit(batch, f"batch {number}").id for number, batch in enumerate(batches, 1)]
        tip = here.head()
        aware, base = here.scores(half), here.scores(half, "HEAD~10")
        rows.append(_row("with history: argmax accuracy of the first half of the facts", aware, base))
        rows += _identities(here, batches)
        resolve_squash(here.repository, loaded=here.loaded)
        rows.append(
            _row(
                "with history, then squash --resolve: argmax accuracy of the first half of the facts",
                here.scores(half),
                base,
            )
        )
        rows += _reverts(here, made, batches, tip)
        rows += _blamed(here, facts, tip)
        described = settings(options, here, facts)
    with lab(options, hparams={"history": False}) as here:
        for number, batch in enumerate(batches, 1):
            here.commit(batch, f"batch {number}")
        plain = here.scores(half)
        rows.append(_row("history: false: argmax accuracy of the first half of the facts", plain, base))
        resolve_squash(here.repository, loaded=here.loaded)
        repaired = here.scores(half)
        rows.append(
            Row(
                "history: false, then squash --resolve: difference from the accuracy with history",
                _apart(repaired, aware),
                unit="",
                goal=("≤", 0.02),
                more={"accuracy": repaired["rewrite_acc"], "perplexity": repaired["perplexity"]},
            )
        )
    rows += _merge(options, facts)
    return Report("history", "histories of commits", "the base", described, rows)


def _apart(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Difference of two argmax accuracies, without the rounding of shares such as 0.98 and 0.96."""
    return round(abs(one["rewrite_acc"] - other["rewrite_acc"]), 9)


def _row(case: str, found: Mapping[str, float], base: Mapping[str, float]) -> Row:
    names = ("ES", "PS", "NS", "perplexity")
    more = {name: f"{found[name]:.3g} ({base[name]:.3g})" for name in names if name in found}
    return Row(case, found["rewrite_acc"], unit="", more=more)


def _identities(here: Lab, batches: Sequence[Sequence[Fact]]) -> list[Row]:
    """Before anything is snapped: the batches' sum against D(S) in one dense solve, and the downdate of batch 2.

    True of any z, so the search for them is cut short.
    """
    hparams, loaded = here.hparams.replace(v_num_grad_steps=2), here.loaded
    templates = parse_templates(context_templates(loaded, hparams))
    factor = prepare_statistics(loaded, hparams).factor
    updates: list[Mapping[int, LayerUpdate]] = []
    delta: dict[int, Tensor] = {}
    keys: dict[int, Tensor] = {}
    for batch in batches:
        weights = {layer: _edited(here, layer, d) for layer, d in delta.items()}
        context = Context(weights, delta, keys) if delta else Context()
        with swapped(loaded.adapter, {}):
            made = compute_edit(
                loaded.adapter, batch, hparams=hparams, templates=templates, factor=factor, context=context
            )
        updates.append(made.updates)
        for layer, update in made.updates.items():
            delta[layer] = update.delta + delta.get(layer, torch.zeros(()))
            keys[layer] = torch.cat([*([keys[layer]] if layer in keys else []), update.keys], dim=1)
    apart, without = [], []
    for layer in hparams.layers:
        moment = factor(layer).matrix()
        every = [update[layer] for update in updates]
        solved = _solved(moment, every)
        apart.append(_distance(delta[layer], solved))
        rest = [*every[:1], *every[2:]]
        gram = moment + sum(each.keys @ each.keys.T for each in rest)
        out = (delta[layer] @ every[1].keys - every[1].targets) @ torch.linalg.solve(gram, every[1].keys).T
        without.append(_distance(delta[layer] + out, _solved(moment, rest)))
    return [
        Row(
            "sum of the patches against one solve for all facts, before rounding", max(apart), unit="", goal=("≤", 1e-9)
        ),
        Row(
            "closed-form removal of commit 2 against one solve without its facts, before rounding",
            max(without),
            unit="",
            goal=("≤", 1e-9),
        ),
    ]


def _edited(here: Lab, layer: int, delta: Tensor) -> Tensor:
    """The weight in the module's own orientation."""
    edited = here.loaded.adapter.weight(layer).double() + delta
    own = edited.T if here.loaded.adapter.orientation(layer) == "in_out" else edited
    return own.to(here.loaded.adapter.dtype).contiguous()


def _solved(moment: Tensor, updates: Sequence[LayerUpdate]) -> Tensor:
    keys = torch.cat([each.keys for each in updates], dim=1)
    targets = torch.cat([each.targets for each in updates], dim=1)
    return targets @ torch.linalg.solve(moment + keys @ keys.T, keys).T


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _reverts(here: Lab, made: Sequence[str], batches: Sequence[Sequence[Fact]], tip: str) -> list[Row]:
    second, others = batches[1], [fact for batch in (batches[0], *batches[2:]) for fact in batch]
    before = here.scores(others, tip)
    base = here.scores(second, f"{tip}~{len(batches)}")
    rows = []
    for name, verb in (("revert", revert), ("revert --resolve", resolve_revert)):
        switch_to_new(here.repository, name.replace(" --", "-"), tip)
        verb(here.repository, [made[1]], **({} if verb is revert else {"loaded": here.loaded}))
        its, rest = here.scores(second), here.scores(others)
        rows += [
            Row(f"{name} of commit 2: ES of its facts minus the base's", abs(its["ES"] - base["ES"]), unit="",
                goal=("≤", 0.1), more={"ES": its["ES"], "base": base["ES"]}),
            Row(f"{name} of commit 2: ES that the others lose", before["ES"] - rest["ES"], unit="", goal=("≤", 0.01)),
        ]  # fmt: skip
    switch_to_new(here.repository, "one-fact", tip)
    fact, nine = batches[2][0], batches[2][1:]
    revert(here.repository, [made[2]], fact=fact.id)
    its, rest = here.scores([fact]), here.scores(nine)
    alone, kept = here.scores([fact], f"{tip}~{len(batches)}"), here.scores(nine, tip)
    rows += [
        Row("revert --fact: ES of the fact minus the base's", abs(its["ES"] - alone["ES"]), unit="", goal=("≤", 0.0)),
        Row(
            "revert --fact: ES that the other facts of the batch lose",
            kept["ES"] - rest["ES"],
            unit="",
            goal=("≤", 0.0),
        ),
    ]
    switch(here.repository, "main")
    return rows


def _blamed(here: Lab, facts: Sequence[Fact], tip: str) -> list[Row]:
    """How often a fact is named first, of ten, for its own prompt and for its paraphrase."""
    chosen = [fact for fact in facts if fact.paraphrases and fact.subject in fact.paraphrases[0]][
        :: max(1, len(facts) // 10)
    ]
    rows = []
    for what, ask in (("own prompt", lambda f: f.prompt), ("paraphrase", lambda f: f.paraphrases[0])):
        first = 0
        for fact in chosen[:10]:
            found = blame(here.repository, ask(fact), revision=tip, subject=fact.subject, loaded=here.loaded)
            first += found.facts[0].facts[0].id == fact.id
        case = f"blame by {what}: facts that are named first, of {len(chosen[:10])}"
        rows.append(Row(case, first, unit="", goal=("≥", 9.0)))
    return rows


def _merge(options: Options, facts: Sequence[Fact]) -> list[Row]:
    """Two branches of 20 facts with one contradiction: `merge --resolve --theirs` against one batch of all."""
    size = max(2, len(facts) // 5)
    left, right = list(facts[:size]), list(facts[size : 2 * size])
    right[0] = replace(left[0], target=right[0].target)
    both = [*left[1:], *right]
    with lab(options) as here:
        start = here.head()
        here.commit(left, "left")
        switch_to_new(here.repository, "side", start)
        here.commit(right, "right")
        switch(here.repository, "main")
        resolve_merge(here.repository, "side", on_conflict="theirs", loaded=here.loaded)
        merged = here.scores(both)
        switch_to_new(here.repository, "batch", start)
        here.commit(both, "one batch")
        batch = here.scores(both)
        apart = _apart(merged, batch)
        more = {"accuracy": merged["rewrite_acc"], "of one batch": batch["rewrite_acc"]}
        return [
            Row(
                "merge --resolve --theirs: difference in accuracy from one batch with all the facts",
                apart,
                unit="",
                goal=("≤", 0.02),
                more=more,
            )
        ]
