"""How well edits hold and what they cost: settings side by side, on two disjoint sets of facts, ten commits each.

Facts are records of an official CounterFact file (`--edits`; with `relation_id`, paraphrases with and without a
sentence in front, neighbours), text is `--corpus`, of which the statistics see nine tenths and the perplexity one. Each
setting is reported as it comes, with the standard error of each mean over facts. More than 200 facts (`--facts 1000`)
ask what the load does: one setting, commits of 50, measured halfway and at the end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.history import switch_to_new
from benchmarks.places import Options
from benchmarks.real import Lab, chunks, lab, settings
from benchmarks.report import RESULTS, Report, Row
from memit_vc.edits import read_edits
from memit_vc.numerics.forward.questions import SEARCHED
from memit_vc.numerics.scores.likelihood import perplexity
from memit_vc.objects import CommitId, Fact
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.evaluate import evaluate
from memit_vc.porcelain.editing.measure import Probe
from memit_vc.porcelain.editing.statistics import prepare_statistics
from memit_vc.porcelain.state import LiveState

COMMITS = 10
MANY = 200
"""More facts than these are about the load."""
PERPLEXITY_TOKENS = 8192
"""A commit's own health check reads 512: too few to tell a rise of two per cent."""
SHOWN = (
    "free_acc",
    "chat_acc",
    "paraphrase_acc",
    "clean_acc",
    "PS",
    "ES",
    "NS",
    "same_subject",
    "hijacked",
    "name_acc",
)
BEFORE: Mapping[str, object] = {
    "layers": [2, 3, 4, 5, 6],
    "keep_factor": 0.5,
    "keep_questions": list(SEARCHED[:8]),
    "name_factor": 0.0,
    "rehearse": 0.0,
}
"""What earlier defaults had in common."""
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "default": {},
    "chat: true": {"chat": True},
    "residuals of five layers, eight questions, no rehearsal (an earlier default)": {
        **BEFORE,
        "weight_decay": 0.1,
    },
    "argmax, layers 4–8, λ 500 (before default 1)": {
        "early_stop": "argmax",
        "search_for": "z",
        "layers": [4, 5, 6, 7, 8],
        "mom2_update_weight": 500,
        "v_num_grad_steps": 40,
        "rotate": 1,
        "keep_factor": 0.0,
        "name_factor": 0.0,
        "phrase_book": 0,
        "retries": 0,
        "chat": False,
        "rehearse": 0.0,
    },
    "no other questions in the search": {"keep_factor": 0.0},
    "z without the phrase book (an earlier default)": {
        **BEFORE,
        "search_for": "z",
        "v_num_grad_steps": 50,
        "phrase_book": 0,
        "keep_factor": 0.3,
    },
    "z in place of residuals (an earlier default)": {**BEFORE, "search_for": "z", "v_num_grad_steps": 50},
}
"""Changes of the repository's own hyperparameters."""
PHRASED: Mapping[str, Mapping[str, object]] = {
    "phrasings": {},
    "three phrasings in place of the book": {"phrase_book": 0, "keep_factor": 0.3, "name_factor": 0.0},
}
"""The same for facts that bring up to three phrasings."""


def run(options: Options) -> Report:
    """Each of `SETTINGS` and `PHRASED` on both sets; the phrasings are of the relation, none of the tested ones."""
    if options.edits is None:
        raise ValueError("quality needs --edits: a file of official CounterFact records")
    count = options.facts or (20 if options.quick else 100)
    facts = list(read_edits(str(options.edits)).facts)
    chosen = {name: (facts, changes) for name, changes in SETTINGS.items()} | {
        name: (_phrased(options), changes) for name, changes in PHRASED.items()
    }
    if options.only is not None:
        chosen = {name: case for name, case in chosen.items() if name.startswith(options.only)}
    if count > MANY:
        chosen = {"default": chosen["default"]}
    rows: list[Row] = []
    with lab(options) as here:
        prepare_statistics(here.loaded, here.hparams, tokens=options.tokens)
        start = here.head()
        for name, (given, changes) in chosen.items():
            for number in range(2 if count <= MANY else 1):
                part = given[number * count : (number + 1) * count]
                switch_to_new(here.repository, f"{len(rows)}", start)
                case = f"{name}, facts {number * count + 1}–{(number + 1) * count}"
                for row in _measured(here, start, case, part, changes):
                    rows.append(row)
                    about = "accuracy of prompts beside what it costs, the base's in brackets"
                    report = Report(
                        "quality" if count <= MANY else "quality_load",
                        about,
                        "the base",
                        settings(options, here, part),
                        rows,
                    )
                    if not options.quick:
                        report.write(options.results or RESULTS)  # as it comes: a run that ends early loses nothing
    return report


def _measured(here: Lab, root: CommitId, case: str, facts: Sequence[Fact], changes: Mapping[str, Any]) -> Iterator[Row]:
    hparams = here.hparams.replace(**changes)
    size = 50 if len(facts) > MANY else max(1, len(facts) // COMMITS)
    seconds = steps = 0.0
    for number, part in enumerate(chunks(facts, size)):
        made = commit_facts(
            here.repository, part, message=f"part {number}", hparams=hparams, loaded=here.loaded, scores=False
        )
        seconds, steps = seconds + made.seconds["edit"], steps + made.steps
        done = facts[: (number + 1) * size]
        print(json.dumps({"case": case, "facts": len(done), "s a fact": round(seconds / len(done), 2)}), flush=True)
        if len(done) == len(facts) or (len(facts) > MANY and len(done) == len(facts) // 2):
            more = {"s a fact": f"{seconds / len(done):.2f}", "steps a fact": f"{steps / len(done):.1f}"}
            whole = len(done) == len(facts)
            yield _row(here, root, case if whole else f"{case}, the first {len(done)}", done, size, more)


def _row(here: Lab, root: CommitId, case: str, facts: Sequence[Fact], size: int, more: Mapping[str, str]) -> Row:
    """Figures of `facts` on HEAD and, in brackets, on the base."""
    base, after = (
        evaluate(
            here.repository, revision, facts=facts, perplexity=False, chat=len(facts) <= MANY, loaded=here.loaded
        ).measured
        for revision in (root, "HEAD")
    )

    def figure(name: str) -> str:
        now, error, was = after.total[name], after.error[name], base.total[name]
        return f"{now:.3f} ± {error or 0:.3f} ({was:.3f})"

    shown = {name: figure(name) for name in SHOWN if after.total[name] is not None}
    shown["perplexity ×"] = f"{_perplexity(here, 'HEAD') / _perplexity(here, root):.3f}"
    if len(facts) > MANY:
        parts = [[after.facts[fact.id]["rewrite_acc"] or 0.0 for fact in part] for part in chunks(facts, 2 * size)]
        shown["prompts, batch by batch"] = " ".join(f"{sum(part) / len(part):.2f}" for part in parts)
    shown |= more
    print(json.dumps({"case": case, "prompts": figure("rewrite_acc"), **shown}, ensure_ascii=False), flush=True)
    return Row(case, after.total["rewrite_acc"] or 0.0, base.total["rewrite_acc"], unit="", inverse=True, more=shown)


def _perplexity(here: Lab, revision: str) -> float:
    health = here.repository.config.health
    lines = Path(health).read_text(encoding="utf-8").splitlines() if health else []
    texts = [json.loads(line)["text"] for line in lines] or Probe.of(here.repository).texts
    with here.loaded.holding(LiveState.at(here.repository, here.repository.resolve(revision))) as adapter:
        return perplexity(adapter, texts, tokens=PERPLEXITY_TOKENS)


def _phrased(options: Options) -> list[Fact]:
    """The facts with three phrasings each: prompts and clean paraphrases of other records of the same relation."""
    lines = options.edits.read_text(encoding="utf-8").splitlines() if options.edits else []
    records = [json.loads(line) for line in lines if line.strip()]
    wordings: dict[str, Counter[str]] = {}
    for record in records:
        asked = record["requested_rewrite"]
        found = wordings.setdefault(asked["relation_id"], Counter())
        subject = asked["subject"]
        clean = [text.replace(subject, "{}") for text in record["clean_paraphrase_prompts"] if text.count(subject) == 1]
        found.update([asked["prompt"], *(text.strip() for text in clean)])
    made = []
    for record, fact in zip(records, read_edits(str(options.edits)).facts, strict=True):
        common = [
            text for text, times in wordings[record["requested_rewrite"]["relation_id"]].most_common() if times > 2
        ]
        others = [text.replace("{}", fact.subject) for text in common]
        tested = (fact.prompt, *fact.paraphrases, *fact.clean_paraphrases)
        free = [text for text in others if not any(text in each for each in tested)]
        made.append(replace(fact, phrasings=tuple(free[:3])))
    return made
