"""What edits come to on the model: five commits, one taken out of the middle, all taken out; bfloat16; many at once."""

from __future__ import annotations

import resource
import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.places import Options
from benchmarks.real import chunks, enough, lab, settings
from benchmarks.report import Report, Row
from memit_vc.hparams.searches import FOR_Z
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.verify import verify
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sets.switch import switch_to_new

__all__ = ["run", "run_bfloat16", "run_many", "run_rules"]

_SHOWN = ("ES", "PS", "NS", "S", "rewrite_acc")
_ACCURACIES = ("rewrite_acc", "paraphrase_acc", "neighbourhood_acc")


def run(options: Options) -> Report:
    """50 facts as five commits; `revert` of the second, of that revert, and of all five."""
    facts = enough(options, 50)
    batches = chunks(facts, max(1, len(facts) // 5))
    with lab(options) as here:
        base = here.scores(facts)
        made = [here.commit(batch, f"batch {number}").id for number, batch in enumerate(batches, 1)]
        after = here.scores(facts)
        rows = [
            Row("ES after the last commit", after["ES"], unit="", goal=("≥", 0.98), more={"base": base["ES"]}),
            Row("argmax accuracy of the prompts", after["rewrite_acc"], unit="", goal=("≥", 0.95)),
            Row("PS", after["PS"], unit="", goal=("≥", 0.85), more={"base": base["PS"]}),
            Row(
                "NS, against the base's", after["NS"], base["NS"], unit="", inverse=True, more={"goal": "≥ base − 0.03"}
            ),
            Row("perplexity", after["perplexity"], base["perplexity"], unit="", inverse=True, goal=("≤", 1.02)),
        ]
        second, others = batches[1], [fact for batch in (batches[0], *batches[2:]) for fact in batch]
        before = here.scores(others)
        original = here.scores(second, "HEAD~5")
        hashes = checkout(here.repository, "HEAD", here.directory / "before").tensors
        taken = revert(here.repository, [made[1]]).id
        its, rest = here.scores(second), here.scores(others)
        rows += [
            Row("revert of commit 2: ES of its facts", its["ES"], unit="", more={"base": original["ES"]}),
            Row("revert of commit 2: ES of the others", rest["ES"], before["ES"], unit="", inverse=True),
        ]
        revert(here.repository, [taken])
        again = checkout(here.repository, "HEAD", here.directory / "again").tensors
        rows.append(Row("revert of the revert: equal hashes", float(again == hashes), unit="", goal=("≥", 1.0)))
        revert(here.repository, made)
        checkout(here.repository, "HEAD", here.directory / "none")
        proved = verify(here.repository, here.directory / "none")
        rows.append(Row("all reverted: verified as the base", float(proved.is_base), unit="", goal=("≥", 1.0)))
        patch = here.repository.commit(made[0]).patches[0]
        shapes = [weight for weight in here.repository.weights() if weight.layer in here.hparams.layers]
        allowed = 1.05 * len(batches[0]) * sum(weight.d_in + weight.d_out for weight in shapes) * 4
        size = here.repository.patch_path(patch).stat().st_size
        rows.append(Row("bytes of a patch, against the limit", size, allowed, "B", inverse=True, goal=("≤", 1.0)))
        return Report("edits", "edits in five commits", "the base or a limit", settings(options, here, facts), rows)


def run_bfloat16(options: Options) -> Report:
    """20 facts in a bfloat16 checkpoint, scores on its own bfloat16 weights."""
    facts = enough(options, 20)
    with lab(options) as place:
        directory = place.directory / "bfloat16"
        model = AutoModelForCausalLM.from_pretrained(options.directory(), dtype=torch.bfloat16)
        model.save_pretrained(directory)
        AutoTokenizer.from_pretrained(options.directory()).save_pretrained(directory)
        with lab(options, model=directory) as here:
            base = here.scores(facts)
            made = here.commit(facts, "twenty facts")
            after = here.scores(facts)
            more = {name: f"{after[name]:.2f} ({base[name]:.2f})" for name in _SHOWN if name in after}
            rows = [
                Row("ES on the bfloat16 weights", after["ES"], unit="", goal=("≥", 0.95), more=more),
                Row("share of the update that is kept", made.survived, unit=""),
                Row("perplexity", after["perplexity"], base["perplexity"], unit="", inverse=True),
            ]
            return Report(
                "bfloat16", "edits of a bfloat16 checkpoint", "the base", settings(options, here, facts), rows
            )


def run_rules(options: Options) -> Report:
    """The two rules that end the search for z, 100 facts in one commit by each, on the same base and statistics."""
    facts = enough(options, 100)
    with lab(options) as here:
        start, base = here.head(), here.scores(facts)
        found: dict[str, Row] = {}
        for rule in ("loss", "argmax"):
            switch_to_new(here.repository, rule, start)
            values = here.hparams.replace(**FOR_Z, early_stop=rule)
            made = commit_facts(here.repository, facts, message=rule, hparams=values, loaded=here.loaded, scores=False)
            after = here.scores(facts)
            measured = (*_SHOWN[:4], *_ACCURACIES, "perplexity")
            more = {name: f"{after[name]:.3g} ({base[name]:.3g})" for name in measured if name in after}
            seconds, reference = made.seconds["edit"], found["loss"].ours if found else None
            steps = {"steps of a fact": made.steps / len(facts)}
            found[rule] = Row(f"early_stop: {rule}, search and solve", seconds, reference, more={**steps, **more})
        described = settings(options, here, facts)
        del described["early_stop"]
        return Report("rules", "rules that end the search", "the reference's rule", described, [*found.values()])


def run_many(options: Options) -> Report:
    """500 facts in one commit, scores included."""
    facts = enough(options, 500)
    with lab(options) as here:
        base = here.scores(facts)
        began = time.perf_counter()
        made = here.commit(facts, "many facts", scores=True)
        minutes = (time.perf_counter() - began) / 60
        after = here.scores(facts)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**20 if sys.platform == "darwin" else 1024
        )  # bytes there, kB else
        more = {name: f"{after[name]:.2f} ({base[name]:.2f})" for name in _SHOWN if name in after}
        stages = {f"{stage}, s": round(seconds) for stage, seconds in made.seconds.items() if seconds >= 1}
        rows = [
            Row("minutes from start to end", minutes, 60.0, "min", inverse=True, goal=("≤", 1.0), more=stages),
            Row("ES", after["ES"], unit="", goal=("≥", 0.95), more=more),
            Row("perplexity", after["perplexity"], base["perplexity"], unit="", inverse=True),
            Row("peak memory of the process", peak, unit="MB"),
        ]
        return Report("many", f"{len(facts)} facts in one commit", "the base", settings(options, here, facts), rows)
