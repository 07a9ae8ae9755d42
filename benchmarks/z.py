"""The search for z: many facts at once and only the part of the forward that matters, against fact by fact."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from benchmarks import reference
from benchmarks.facts import some_facts
from benchmarks.places import Options, Place, place
from benchmarks.report import Report, Row
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import compute_edit, search_targets
from memit_vc.numerics.edit.insert import LayerUpdate, insert
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.masters import swapped
from memit_vc.numerics.scores.scores import score, total
from memit_vc.objects import Fact
from memit_vc.porcelain.editing.remembered import context_templates
from memit_vc.porcelain.editing.statistics import prepare_statistics
from memit_vc.progress import count

__all__ = ["run"]

_STEPS = 50
"""More than the published 25, so that the rule ends the search and not their number."""


def run(options: Options) -> Report:
    """z of the same facts on both sides: the same number of steps, then each with the stopping rules."""
    facts = some_facts(options.count(10), options.edits)
    with place(options) as here:
        texts = context_templates(here.loaded, here.hparams)
        fixed = _published(here.hparams).replace(early_stop_loss=0.0)
        _ours(here, facts[:1], fixed.replace(v_num_grad_steps=1), texts)  # what only a first call does
        _theirs(here, facts[:1], fixed.replace(v_num_grad_steps=1), texts)
        rows = [_same_steps(here, facts, fixed, texts)]
        if not options.quick:
            rows += [_scaling(here, number, options, texts) for number in (1, 100)]
        rows += _stopping(here, facts, texts)
        settings = {
            "model": options.directory().name,
            "facts": len(facts),
            "templates": sum(map(len, texts)),
            "steps at most": f"{fixed.v_num_grad_steps}; with the defaults {here.hparams.v_num_grad_steps}",
            "layer": here.hparams.layers[-1],
            "dtype": str(here.loaded.adapter.dtype).removeprefix("torch."),
        }
    against = "the reference: fact by fact, with the whole model and the whole vocabulary at every position"
    return Report("z", "search for z", against, settings, rows)


def _published(hparams: MEMITHyperParams) -> MEMITHyperParams:
    """The search of MEMIT as published."""
    steps = min(_STEPS, hparams.v_num_grad_steps)
    return hparams.replace(
        search_for="z",
        v_num_grad_steps=steps,
        early_stop="loss",
        rotate=1,
        keep_factor=0.0,
        name_factor=0.0,
        chat=False,
        phrase_book=0,
        rehearse=0.0,
    )


def _ours(
    here: Place, facts: Sequence[Fact], hparams: MEMITHyperParams, texts: Sequence[Sequence[str]]
) -> tuple[Tensor, int, float]:
    """z [n, d_model], steps in all, seconds."""
    began = time.perf_counter()
    found = search_targets(here.loaded.adapter, facts, hparams=hparams, templates=parse_templates(texts))
    return found.z.cpu(), sum(found.steps), time.perf_counter() - began


def _by_default(
    here: Place, facts: Sequence[Fact], texts: Sequence[Sequence[str]]
) -> tuple[Mapping[int, LayerUpdate], int, float]:
    """The updates that a commit would make, steps in all, seconds; keys and solve included, statistics not."""
    factor = prepare_statistics(here.loaded, here.hparams).factor
    for layer in here.hparams.layers:
        factor(layer)
    began = time.perf_counter()
    edit = compute_edit(
        here.loaded.adapter, facts, hparams=here.hparams, templates=parse_templates(texts), factor=factor
    )
    return edit.updates, sum(edit.targets.steps), time.perf_counter() - began


def _theirs(
    here: Place, facts: Sequence[Fact], hparams: MEMITHyperParams, texts: Sequence[Sequence[str]]
) -> tuple[Tensor, int, float]:
    """The same of the reference; its only stopping rule is the loss."""
    setting = reference.setting_of(hparams, texts, stop_below=hparams.early_stop_loss)
    model = here.loaded.adapter.model
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for parameter in flags:
        parameter.requires_grad_(False)
    began = time.perf_counter()
    found = [reference.z_of(here.loaded.adapter, fact, setting) for fact in facts]
    z = torch.stack([z for z, _ in found]).cpu()  # waits for the device
    seconds = time.perf_counter() - began
    for parameter, flag in flags.items():
        parameter.requires_grad_(flag)
    return z, sum(steps for _, steps in found), seconds


def _same_steps(here: Place, facts: Sequence[Fact], hparams: MEMITHyperParams, texts: Sequence[Sequence[str]]) -> Row:
    z, steps, seconds = _ours(here, facts, hparams, texts)
    expected, _, theirs = _theirs(here, facts, hparams, texts)
    difference = float(((z - expected).norm(dim=1) / expected.norm(dim=1)).max())
    return Row(
        f"{count(len(facts), 'fact')}, the same {count(hparams.v_num_grad_steps, 'step')}",
        seconds,
        theirs,
        difference=difference,
        goal=("≥", 7.0),
        more={"steps": steps},
    )


def _scaling(here: Place, number: int, options: Options, texts: Sequence[Sequence[str]]) -> Row:
    """Our side alone, with the defaults: the reference's time is proportional to the number of facts."""
    _, steps, seconds = _by_default(here, some_facts(number, options.edits), texts)
    more = {"steps": steps, "s/fact": seconds / number}
    return Row(f"{count(number, 'fact')}, the defaults, ours alone", seconds, more=more)


def _stopping(here: Place, facts: Sequence[Fact], texts: Sequence[Sequence[str]]) -> list[Row]:
    """Each stopping rule, with the scores of the whole edit that comes of its z."""
    loss = _published(here.hparams).replace(early_stop_loss=0.05)
    expected, steps, theirs = _theirs(here, facts, loss, texts)
    base = _scores(here, facts, _inserted(here, facts, expected, texts))
    rows = []
    for rule, goal in (("loss", None), ("argmax", ("≥", 12.0)), ("of the defaults", ("≥", 12.0))):
        difference = None
        if rule == "of the defaults":
            updates, ours, seconds = _by_default(here, facts, texts)
        else:
            z, ours, seconds = _ours(here, facts, loss.replace(early_stop=rule), texts)
            updates = _inserted(here, facts, z, texts)
            if rule == "loss":
                difference = float(((z - expected).norm(dim=1) / expected.norm(dim=1)).max())
        found = _scores(here, facts, updates)
        more: dict[str, object] = {"steps": f"{ours} ({steps})"}
        more |= {name: f"{found[name]:.2f} ({base[name]:.2f})" for name in base}
        rows.append(
            Row(
                f"{count(len(facts), 'fact')}, stopping rule {rule}, against the reference with loss",
                seconds,
                theirs,
                difference=difference,
                goal=goal,
                more=more,
            )
        )
    return rows


def _inserted(
    here: Place, facts: Sequence[Fact], z: Tensor, texts: Sequence[Sequence[str]]
) -> Mapping[int, LayerUpdate]:
    return insert(
        here.loaded.adapter,
        facts,
        z,
        layers=here.hparams.layers,
        templates=parse_templates(texts),
        factor=prepare_statistics(here.loaded, here.hparams).factor,
    )


def _scores(here: Place, facts: Sequence[Fact], updates: Mapping[int, LayerUpdate]) -> dict[str, float]:
    """ES and argmax accuracy (rewrite, paraphrase, neighbourhood) of the edit; those that the facts have."""
    adapter = here.loaded.adapter
    weights = {}
    for layer, update in updates.items():
        edited = adapter.weight(layer).double().cpu() + update.delta
        weights[layer] = edited.T.contiguous() if adapter.orientation(layer) == "in_out" else edited
    with swapped(adapter, weights):
        found = total(score(adapter, facts))
    return {name: value for name, value in found.items() if value is not None and name != "nll"}
