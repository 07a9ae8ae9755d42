"""Where the statistics' text comes from: the same z inserted with each, and what holds and what it costs.

Facts are official CounterFact records (`--edits`), in one batch (`--facts`, else 100). `--corpus` is a JSON Lines file:
one text in ten is kept from the statistics and asked for the perplexity. Of many facts 125 are scored. The text that
ships stands against the one sampled from the model fact by fact: the mean difference and its standard error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.places import Options
from benchmarks.real import Lab, lab, settings
from benchmarks.report import RESULTS, Report, Row
from memit_vc.edits import read_edits
from memit_vc.hparams.searches import FOR_Z
from memit_vc.numerics.edit.engine import FoundTarget, compute_edit
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.masters import swapped
from memit_vc.numerics.scores.likelihood import perplexity
from memit_vc.numerics.scores.scores import score, standard_errors, subject_answers, total
from memit_vc.objects import Fact, FactId
from memit_vc.porcelain.editing.remembered import context_templates
from memit_vc.porcelain.editing.statistics import prepare_statistics

__all__ = ["run"]

SCORED = 125
PERPLEXITY_TOKENS = 8192
SHOWN = ("rewrite_acc", "clean_acc", "paraphrase_acc", "PS", "NS", "same_subject", "hijacked")
SHIPPED, SELF = "shipped", "self"

Scores = Sequence[Mapping[str, float | None]]


def run(options: Options) -> Report:
    """The base, then each text."""
    if options.edits is None or not options.corpus.endswith(".jsonl"):
        raise ValueError("corpora needs --edits, a file of official CounterFact records, and --corpus FILE.jsonl")
    count = options.facts or (8 if options.quick else 100)
    facts = list(read_edits(str(options.edits)).facts)[:count]
    asked = facts[:: max(1, math.ceil(count / SCORED))]
    known: dict[int, FoundTarget] = {}
    found: dict[str, Scores] = {}
    with lab(options) as here:
        texts = _health(here)
        adapter = here.loaded.adapter
        base = subject_answers(adapter, asked)
        before = perplexity(adapter, texts, tokens=PERPLEXITY_TOKENS)
        rows = [_row("the base", score(adapter, asked, base=base), 1.0, None)]
        wiki = here.repository.config.corpus
        for name, corpus in ((SHIPPED, SHIPPED), (SELF, SELF), ("pydoc", "pydoc"), (Path(options.corpus).name, wiki)):
            after, grown, tokens = _edited(here, facts, asked, corpus, options.tokens, known, base, texts)
            found[name] = after
            rows.append(_row(name, after, grown / before, tokens))
            if name == SELF:
                rows.append(_apart(found[SHIPPED], found[SELF]))
            described = settings(options, here, facts) | {"scored": len(asked), "statistics": "by row"}
            what = "argmax accuracy of the prompts, with the same z and the statistics of each text"
            report = Report(f"corpora_{count}", what, "the base", described, rows)
            if not options.quick:
                report.write(options.results or RESULTS)  # as it comes: a run that ends early loses nothing
    return report


def _edited(
    here: Lab,
    facts: Sequence[Fact],
    asked: Sequence[Fact],
    corpus: str | None,
    tokens: int | None,
    known: dict[int, FoundTarget],
    base: Mapping[FactId, tuple[int, ...]],
    texts: Sequence[str],
) -> tuple[Scores, float, int]:
    """Scores and perplexity with statistics of `corpus`, and the tokens that it had; z is searched for once."""
    adapter = here.loaded.adapter
    hparams = here.hparams.replace(**FOR_Z)
    statistics = prepare_statistics(here.loaded, hparams, corpus=corpus, tokens=tokens)
    edit = compute_edit(
        adapter,
        facts,
        hparams=hparams,
        templates=parse_templates(context_templates(here.loaded, hparams)),
        factor=statistics.factor,
        known=known,
        on_found=known.update,
    )
    weights = {}
    for layer, update in edit.updates.items():
        changed = (adapter.weight(layer).double() + update.delta).to(adapter.weight(layer).dtype)
        weights[layer] = (changed if adapter.orientation(layer) == "out_in" else changed.T).contiguous()
    with swapped(adapter, weights):
        return score(adapter, asked, base=base), perplexity(adapter, texts, tokens=PERPLEXITY_TOKENS), statistics.tokens


def _row(name: str, found: Scores, grown: float, tokens: int | None) -> Row:
    mean, error = total(found), standard_errors(found)
    shown = {each: f"{mean[each]:.3f} ± {error[each] or 0:.3f}" for each in SHOWN if mean[each] is not None}
    shown |= {"perplexity ×": f"{grown:.3f}"} | ({} if tokens is None else {"tokens": f"{tokens:,}"})
    print(json.dumps({"text": name, **shown}, ensure_ascii=False), flush=True)
    return Row(name, mean["rewrite_acc"] or 0.0, unit="", more=shown)


def _apart(shipped: Scores, sampled: Scores) -> Row:
    """The text that ships less the one sampled from the model, fact by fact."""
    apart: list[dict[str, float | None]] = []
    for one, other in zip(shipped, sampled, strict=True):
        pairs = {name: (one[name], other[name]) for name in SHOWN}
        apart.append({name: a - b if a is not None and b is not None else None for name, (a, b) in pairs.items()})
    mean, error = total(apart), standard_errors(apart)
    shown = {each: f"{mean[each]:+.3f} ± {error[each] or 0:.3f}" for each in SHOWN if mean[each] is not None}
    print(json.dumps({"shipped minus self": shown}, ensure_ascii=False), flush=True)
    return Row("shipped minus self", mean["rewrite_acc"] or 0.0, unit="", more=shown)


def _health(here: Lab) -> list[str]:
    lines = Path(here.repository.config.health or "").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]
