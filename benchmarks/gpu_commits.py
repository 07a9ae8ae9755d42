"""Official CounterFact facts in commits of 100 on the real small model, until the time is up."""

from __future__ import annotations

from benchmarks.gpu_run import Figure, Run
from benchmarks.places import Options
from benchmarks.real import chunks, lab
from memit_vc.edits import read_edits
from tests.support.models import FACTS, hparams_for, load, tiny

__all__ = ["run"]

MOST, BATCH = 10_000, 100
REPORTS = (10, 30, 60, 100)
"""Batches after which the first, the middle and the last are scored; and at the end."""


def run(run: Run) -> None:
    """Accuracy of the first, the middle and the last batch along the way, and the perplexity."""
    if run.small:
        model = tiny("llama", run.work / "real")
        facts, size, hparams = list(FACTS[:4]), 2, vars(hparams_for(load(model), v_num_grad_steps=2))
        changes = {name: hparams[name] for name in ("layers", "v_num_grad_steps", "mom2_update_weight", "v_loss_layer")}
        options = Options(model=model, tokens=400, device="cpu")
    elif run.model is None or run.edits is None:
        print("commits: left out; give --model and --edits")
        return
    else:
        facts, size, changes = list(read_edits(str(run.edits)).facts)[:MOST], BATCH, {}
        options = Options(model=run.model, edits=run.edits, corpus=run.corpus, device=str(run.device))
    with lab(options, hparams=changes) as here:
        batches, reserve = chunks(facts, size), 0.0
        for number, batch in enumerate(batches, 1):
            _, seconds = run.timed(lambda batch=batch, number=number: here.commit(batch, f"batch {number}"))
            last = number == len(batches) or run.left < 3 * seconds + reserve + 15
            if not (last or number in REPORTS or number == 1):
                continue
            shown = {"first": batches[0], "middle": batches[(number - 1) // 2], "last": batch}
            scored, reserve = run.timed(lambda shown=shown: {name: here.scores(part) for name, part in shown.items()})
            done = f"after {number * size} facts"
            for name, scores in scored.items():
                for measure in ("ES", "PS", "NS", "rewrite_acc", "paraphrase_acc"):
                    if measure in scores:
                        run.add(Figure(f"{done}, {name} batch: {measure}", scores[measure]))
            run.add(Figure(f"{done}: perplexity", scored["last"]["perplexity"]))
            run.speed(f"{done}: seconds of the last commit", seconds, "s")
            if last:
                break
    if not run.small:
        run.speed("commits: time left", run.left, "s")
