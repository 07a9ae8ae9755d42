"""Thirty facts of a small mixture of experts, edited in three commits, against editing its shared expert or one expert.

    python -m benchmarks.mixture [--model DIR] [--minutes 10]

trains the model of `benchmarks.mixture_world` into DIR unless it is there (without DIR: into a directory that goes
again), then edits 30 of the facts that it knows through the public API. Everything that is said of the edited model is
measured on a checkout, as plain transformers load it; the rivals are measured in memory. `--choose` shows figures by λ
on 30 other facts. docs/mixtures.md says what has been measured.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from benchmarks.mixture_full import against_full
from benchmarks.mixture_naive import edit_naively
from benchmarks.mixture_world import MINUTES, RELATIONS, Known, answered, sentences, train, world
from benchmarks.report import RESULTS, Report, Row, show
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import FoundTarget, compute_edit
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.masters import swapped
from memit_vc.objects import Fact
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import LoadedModel, load_model
from memit_vc.porcelain.editing.remembered import context_templates
from memit_vc.porcelain.editing.statistics import prepare_statistics
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.verify import verify
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.setup import init
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository
from memit_vc.store.checkpoint import Checkpoint

__all__ = ["asked_of", "run"]

FACTS, COMMITS, TOKENS, FEW = 30, 3, 20000, 500
"""Edited facts, the commits that they come in, tokens of the statistics; sentences of those that are taken here."""
SETTINGS: dict[str, Any] = {
    "layers": [0, 1, 2, 3],
    "v_num_grad_steps": 400,
    "v_lr": 0.5,
    "v_loss_layer": 7,
    "clamp_norm_factor": 4.0,
    "kl_factor": 0.0625,
    "mom2_update_weight": 2048.0,
    "early_stop": "nll",
    "early_stop_loss": 0.05,
    "keep_factor": 0.225,  # 0.075 for each of the three questions that are not the fact's own
    "keep_questions": [first for first, _, _ in RELATIONS.values()],
    "passes": 2,
    "rotate": 5,
    "retries": 2,
    "n_templates": 5,
    "template_length": 10,
    "layer_module_tmp": "model.layers.{}",
    "mlp_module_tmp": "model.layers.{}.mlp",
    "attn_module_tmp": "model.layers.{}.self_attn",
    "ln_f_module": "model.norm",
    "lm_head_module": "lm_head",
    "device": "cpu",
}
EXPERTS, SHARED = "model.layers.{}.mlp.experts", "model.layers.{}.mlp.shared_expert.down_proj"
WIDTHS = {EXPERTS: 2048.0, SHARED: 256.0}
"""Inputs of what is edited: λ goes with them."""
SHARES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""λ as multiples of the width, to choose from."""
CHOSEN = {EXPERTS: 0.3, SHARED: 1.0}
"""The best of `--choose`, on other facts than those that are reported."""


@dataclass(frozen=True)
class Asked:
    """What the base knows, in part edited. `others` are the right answers to everything else, in both wordings, less
    the prompts about edited subjects: the search asks those (`keep_questions`).
    """

    facts: tuple[Fact, ...]
    others: tuple[tuple[str, str], ...]
    health: tuple[str, ...]


def asked_of(model: Any, tokenizer: Any, *, first: int = 0) -> Asked:
    """30 facts that the base answers, from a fixed order, one of each subject, each with another answer."""
    draw, known = random.Random(1), world()  # noqa: S311
    right = _right(model, tokenizer, known)
    subjects: dict[str, Known] = {}
    for each in draw.sample(right, len(right)):
        subjects.setdefault(each.subject, each)
    chosen = list(subjects.values())[first : first + FACTS]
    facts = []
    for each in chosen:
        new = draw.choice([answer for answer in RELATIONS[each.relation][2] if answer != each.answer])
        prompt, other = each.prompts
        facts.append(
            Fact(
                prompt=prompt,
                subject=each.subject,
                target=new,
                ground_truth=each.answer,
                clean_paraphrases=(other,),
            )
        )
    rest = [each for each in right if each not in chosen]
    health = (sentence.text for sentence in islice(sentences(rest, random.Random(2)), 300))  # noqa: S311
    edited = {each.subject for each in chosen}
    others = tuple((p, each.answer) for each in rest for p in each.prompts[int(each.subject in edited) :])
    return Asked(tuple(facts), others, tuple(health))


def _right(model: Any, tokenizer: Any, known: Sequence[Known]) -> list[Known]:
    """What the model answers in both wordings."""
    first, second = (answered(model, tokenizer, [(each.prompts[w], each.answer) for each in known]) for w in (0, 1))
    return [each for each, one, other in zip(known, first, second, strict=True) if one and other]


def plain(directory: Path) -> Any:
    """The model as anybody without memit-vc loads it."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype="auto", local_files_only=True).eval()


def measured(model: Any, tokenizer: Any, asked: Asked) -> dict[str, float]:
    """Shares of answers, and the perplexity of text about what was not edited."""
    prompts = [(fact.prompt, fact.target) for fact in asked.facts]
    wordings = [(fact.clean_paraphrases[0], fact.target) for fact in asked.facts]
    shares = {
        name: sum(right) / len(right)
        for name, right in (
            ("prompts", answered(model, tokenizer, prompts)),
            ("other wording", answered(model, tokenizer, wordings)),
            ("kept", answered(model, tokenizer, asked.others)),
        )
    }
    return {**shares, "perplexity": _perplexity(model, tokenizer, asked.health)}


def _perplexity(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    ids = [token for text in texts for token in tokenizer(text)["input_ids"]]
    rows = torch.tensor(ids[: len(ids) // 64 * 64]).view(-1, 64)
    with torch.no_grad():
        logs = model(input_ids=rows, use_cache=False, output_router_logits=False).logits[:, :-1].log_softmax(-1)
    return math.exp(-float(logs.gather(2, rows[:, 1:, None]).mean()))


def settings(module: str, weight: float | None = None, **changes: Any) -> MEMITHyperParams:
    """Of one run; λ is the chosen one unless `weight` says another."""
    weight = CHOSEN[module] * WIDTHS[module] if weight is None else weight
    values = {**SETTINGS, "rewrite_module_tmp": module, "mom2_update_weight": weight, **changes}
    return MEMITHyperParams.from_json(values)


def texts(count: int = 2200, *, seed: int = 3) -> list[str]:
    """Of the kind that the model was trained on."""
    return [each.text for each in islice(sentences(world(), random.Random(seed)), count)]  # noqa: S311


def repository_on(base: Path, work: Path, values: MEMITHyperParams) -> None:
    """`init` with these hyperparameters, on text that the model knows."""
    work.mkdir(parents=True)
    corpus, health, hparams = work / "corpus.txt", work / "health.txt", work / "hparams.yaml"
    corpus.write_text("\n".join(texts()) + "\n")
    health.write_text("\n".join(texts(200, seed=4)) + "\n")
    hparams.write_text(values.to_yaml())
    init(str(base), directory=work, hparams=hparams, corpus=str(corpus), health=str(health))


def edited(work: Path, facts: Sequence[Fact]) -> list[str]:
    """The commits that the facts came in."""
    size, made = math.ceil(len(facts) / COMMITS), []
    with Repository.open(work) as repository:
        loaded = load_model(repository)
        for start in range(0, len(facts), size):
            done = commit_facts(
                repository, facts[start : start + size], tokens=TOKENS, loaded=loaded, scores=False, message="facts"
            )
            print(f"  commit {done.id[:10]}: {done.seconds}, leverage {done.leverage:.3f}", flush=True)
            made.append(done.id)
    return made


def run(base: Path, place: Path, results: Path) -> Report:
    """Everything of the second and third acceptance of mixtures, kept as it comes."""
    tokenizer, model = AutoTokenizer.from_pretrained(base), plain(base)
    asked = asked_of(model, tokenizer)
    before = measured(model, tokenizer, asked)
    trained = {name: _share(model, tokenizer, wording) for wording, name in enumerate(("prompts", "other wording"))}
    described = {
        "facts": f"{FACTS} of {len(world())} in {COMMITS} commits",
        "layers": settings(EXPERTS).layers,
        "λ": settings(EXPERTS).mom2_update_weight,
        "λ of the shared expert": settings(SHARED).mom2_update_weight,
    }
    report = Report("mixture", "edits of a small mixture of experts", "the base", described, [])

    def kept(*rows: Row) -> None:
        nonlocal report
        report = replace(report, rows=[*report.rows, *rows])
        report.write(results)

    kept(
        Row("before editing: prompts that the model answers", trained["prompts"], unit="", goal=("≥", 0.95)),
        Row(
            "before editing: other wordings that the model answers", trained["other wording"], unit="", goal=("≥", 0.95)
        ),
    )
    repository_on(base, place / "experts", settings(EXPERTS))
    made = edited(place / "experts", asked.facts)
    out = place / "experts-out"
    with Repository.open(place / "experts") as repository:
        kept(*_written(repository, base, out))
        kept(*_rows("all experts, three commits", measured(plain(out), tokenizer, asked), before, goals=True))
        kept(*_taken_back(repository, made, place))
    for share, after in shared_only(base, place / "shared", tokenizer, asked, [CHOSEN[SHARED]]):
        kept(*_rows(f"shared expert only, one batch, λ {share:g} × the width", after, before))
    with Repository.open(place / "experts") as repository:
        loaded = load_model(repository)
        for gated in (False, True):
            name = f"top expert alone, gate {'in the key' if gated else 'not in the key'}"
            naive = edit_naively(loaded, asked.facts, settings(EXPERTS), texts(FEW), commits=COMMITS, gated=gated)
            kept(*_rows(name, measured(naive, tokenizer, asked), before))
        kept(*_full(loaded, asked, tokenizer, before))
    return report


def _share(model: Any, tokenizer: Any, wording: int) -> float:
    right = answered(model, tokenizer, [(each.prompts[wording], each.answer) for each in world()])
    return sum(right) / len(right)


def _rows(name: str, after: Mapping[str, float], before: Mapping[str, float], *, goals: bool = False) -> list[Row]:
    least = {"prompts": 0.95, "other wording": 0.70, "kept": 0.95} if goals else {}
    print(name, {what: round(value, 4) for what, value in after.items()}, flush=True)
    goal = ("≤", 1.03) if goals else None
    return [
        *(
            Row(f"{name}: {what}", after[what], unit="", goal=("≥", least[what]) if what in least else None)
            for what in ("prompts", "other wording", "kept")
        ),
        Row(f"{name}: perplexity", after["perplexity"], before["perplexity"], unit="", inverse=True, goal=goal),
    ]


def _written(repository: Repository, base: Path, out: Path) -> list[Row]:
    """A checkout: which tensors differ from the base's, by hash, and how many bytes are new."""
    made = checkout(repository, "HEAD", out)
    proved = verify(repository, out)
    old, new = ({t.name: t.sha256 for t in Checkpoint.find(d).manifest().tensors} for d in (base, out))
    touched = LiveState.of_head(repository).touched
    changed = {name for name in old if old[name] != new[name]}
    size = sum(weight.d_out * weight.d_in * 4 for weight in touched)
    layers = repository.hparams().layers
    every = [weight for weight in repository.weights() if weight.layer in layers]
    return [
        Row(
            "only tensors of the touched experts differ from the base",
            float(changed == {weight.name for weight in touched} and proved.on_branch),
            unit="",
            goal=("≥", 1.0),
            more={
                "touched experts": len(touched),
                "experts of the edited layers": len(every),
                "tensors of the model": len(old),
            },
        ),
        Row(
            "bytes written, against the bytes of the touched experts",
            made.hot_bytes,
            size,
            "B",
            inverse=True,
            goal=("≤", 1.05),
        ),
    ]


def _taken_back(repository: Repository, made: Sequence[str], place: Path) -> list[Row]:
    """`revert` in mid-history, of that revert, and of everything, by bits."""
    hashes = dict(checkout(repository, "HEAD", place / "before").tensors)
    taken = revert(repository, [made[1]]).id
    others = {fact.fact.id for fact in LiveState.of_head(repository).live}
    revert(repository, [taken])
    again = dict(checkout(repository, "HEAD", place / "again").tensors)
    revert(repository, list(made))
    checkout(repository, "HEAD", place / "none")
    is_base = verify(repository, place / "none").is_base
    return [
        Row(
            "commit 2 reverted, and that revert reverted: equal hashes",
            float(hashes == again),
            unit="",
            goal=("≥", 1.0),
        ),
        Row("facts that stay live after the first of these reverts", len(others), unit=""),
        Row("all reverted: verified as the base", float(is_base), unit="", goal=("≥", 1.0)),
    ]


def _full(loaded: LoadedModel, asked: Asked, tokenizer: Any, before: Mapping[str, float]) -> list[Row]:
    """The blocks of C against the whole of it: all facts in one batch, from the same z."""
    rows = []
    for name, model, figures in against_full(loaded, asked.facts, settings(EXPERTS), texts(FEW)):
        found = _rows(f"all experts, one batch, {name}", measured(model, tokenizer, asked), before)
        rows += [*found[:-1], Row(**{**vars(found[-1]), "more": figures})]
    return rows


def shared_only(
    base: Path, work: Path, tokenizer: Any, asked: Asked, shares: Sequence[float]
) -> Iterator[tuple[float, dict[str, float]]]:
    """Figures with all facts in the shared expert, in one batch and in memory, by λ. As commits they are refused: the
    updates are too large to be stored exactly.
    """
    values = settings(SHARED)
    repository_on(base, work, values)
    with Repository.open(work) as repository:
        loaded = load_model(repository)
        statistics = prepare_statistics(loaded, values, tokens=TOKENS)
        known: dict[int, FoundTarget] = {}
        for share in shares:
            edit = compute_edit(
                loaded.adapter,
                asked.facts,
                hparams=values,
                templates=parse_templates(context_templates(loaded, values)),
                factor=lambda layer, share=share: statistics.factor(layer).scaled(share / CHOSEN[SHARED]),  # type: ignore[misc]
                known=known,
                on_found=known.update,
            )
            weights = {
                layer: (loaded.adapter.weight(layer).double() + update.delta).float()
                for layer, update in edit.updates.items()
            }
            with swapped(loaded.adapter, weights):
                yield share, measured(loaded.adapter.model, tokenizer, asked)


def choose(base: Path, place: Path) -> None:
    """The figures by λ on 30 facts that `run` does not edit."""
    tokenizer, model = AutoTokenizer.from_pretrained(base), plain(base)
    asked = asked_of(model, tokenizer, first=FACTS)
    before = measured(model, tokenizer, asked)

    def say(module: str, share: float, found: Mapping[str, float]) -> None:
        shown = {**found, "perplexity": found["perplexity"] / before["perplexity"]}
        print(module, share, json.dumps(shown), flush=True)

    for share, found in shared_only(base, place / "shared", tokenizer, asked, SHARES):
        say(SHARED, share, found)
    for share in SHARES:
        work = place / f"experts-{share}"
        repository_on(base, work, settings(EXPERTS, share * WIDTHS[EXPERTS]))
        edited(work, asked.facts)
        with Repository.open(work) as repository:
            checkout(repository, "HEAD", work / "out")
        say(EXPERTS, share, measured(plain(work / "out"), tokenizer, asked))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="where the trained model is, or shall be kept")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="processor time of the training")
    parser.add_argument("--choose", action="store_true", help="show the figures by λ on other facts, and end")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the directory for the results")
    options = parser.parse_args()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="memitvc-mixture-") as name:
        base = options.model or Path(name) / "model"
        if not (base / "config.json").is_file():
            train(base, minutes=options.minutes)
        if options.choose:
            choose(base.resolve(), Path(name))
            return
        show(run(base.resolve(), Path(name), options.results))


if __name__ == "__main__":
    main()
