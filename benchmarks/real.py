"""What the edit benchmarks share: facts, text for statistics and health, a repository, and totals of scores."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.facts import some_facts
from benchmarks.places import Options
from memit_vc.hparams import MEMITHyperParams
from memit_vc.objects import CommitId, Fact
from memit_vc.porcelain.editing.commit import Committed, commit_facts
from memit_vc.porcelain.editing.evaluate import evaluate
from memit_vc.porcelain.editing.models import LoadedModel, load_model
from memit_vc.porcelain.setup import init
from memit_vc.repository import Repository

__all__ = ["Lab", "chunks", "lab", "settings"]

HELD_OUT = 10
"""Of a corpus file, one text in ten is kept from the statistics and taken for the perplexity."""


@dataclass(frozen=True)
class Lab:
    """A repository on the model, loaded once."""

    directory: Path
    repository: Repository
    loaded: LoadedModel

    @property
    def hparams(self) -> MEMITHyperParams:
        return self.repository.hparams()

    def commit(self, facts: Sequence[Fact], message: str, *, scores: bool = False) -> Committed:
        """A batch on HEAD, with the repository's settings."""
        return commit_facts(self.repository, facts, message=message, loaded=self.loaded, scores=scores)

    def scores(self, facts: Sequence[Fact], revision: str = "HEAD") -> Mapping[str, float]:
        """Totals on the materialised weights of a revision: ES, PS, NS, S, accuracies, perplexity."""
        measured = evaluate(self.repository, revision, facts=facts, chat=False, loaded=self.loaded).measured
        found = {name: value for name, value in measured.total.items() if value is not None}
        return {**found, "perplexity": measured.perplexity or float("nan")}

    def head(self) -> CommitId:
        return self.repository.head().commit


@contextmanager
def lab(options: Options, *, model: Path | None = None, hparams: Mapping[str, object] | None = None) -> Iterator[Lab]:
    """A fresh repository with the settings that `init` chooses for the model, gone afterwards.

    `hparams` are changes of its hyperparameters.
    """
    with tempfile.TemporaryDirectory(prefix="memitvc-benchmark-") as name:
        work = Path(name)
        corpus, health = _texts(options, work)
        base = model if model is not None else options.directory()
        init(str(base), directory=work, corpus=corpus, health=health)
        with Repository.open(work) as repository:
            changes = {"device": options.device, **(hparams or {})}
            if options.quick:
                changes["v_num_grad_steps"] = 4
            changed = repository.hparams().replace(**changes)  # type: ignore[arg-type]
            repository.hparams_path.write_text(changed.to_yaml(), encoding="utf-8")
            yield Lab(work, repository, load_model(repository, device=changed.resolved_device()))


def chunks(facts: Sequence[Fact], size: int) -> list[Sequence[Fact]]:
    return [facts[start : start + size] for start in range(0, len(facts), size)]


def settings(options: Options, lab: Lab, facts: Sequence[Fact]) -> dict[str, object]:
    values = lab.hparams
    return {
        "model": options.directory().name,
        "facts": f"{len(facts)} of {options.edits.name if options.edits else 'the demo and of its kind'}",
        "layers": "–".join(str(layer) for layer in (values.layers[0], values.layers[-1])),
        "λ": values.mom2_update_weight,
        "early_stop": values.early_stop,
        "statistics": Path(options.corpus).name,
        "dtype": str(lab.loaded.adapter.dtype).removeprefix("torch."),
    }


def enough(options: Options, count: int) -> list[Fact]:
    """`count` facts, or a fifth of them for a quick run."""
    return some_facts(max(4, count // 5) if options.quick else options.facts or count, options.edits)


def _texts(options: Options, work: Path) -> tuple[str, str | None]:
    """The corpus for statistics, and texts that it does not have for the perplexity, where it is a JSON Lines file."""
    if not options.corpus.endswith(".jsonl"):
        return options.corpus, None
    lines = Path(options.corpus).read_text(encoding="utf-8").splitlines()
    corpus, health = work / "corpus.jsonl", work / "health.jsonl"
    held = [json.loads(line)["text"] for line in lines[::HELD_OUT]]
    corpus.write_text("\n".join(line for i, line in enumerate(lines) if i % HELD_OUT) + "\n", encoding="utf-8")
    health.write_text("\n".join(json.dumps({"text": text}) for text in held) + "\n", encoding="utf-8")
    return str(corpus), str(health)
