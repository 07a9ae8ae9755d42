"""`eval`: scores of the live facts (or of any edit file) on a revision, on its materialised weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memit_vc.errors import MemitVCError
from memit_vc.objects import CommitId, Fact, StateId, short
from memit_vc.porcelain.editing.measure import Measured, Probe, measure
from memit_vc.progress import Progress, silent

if TYPE_CHECKING:
    from memit_vc.porcelain.editing.models import LoadedModel
    from memit_vc.repository import Repository

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Scores of `facts` at one revision."""

    commit: CommitId
    state: StateId
    facts: tuple[Fact, ...]
    measured: Measured


def evaluate(
    repository: Repository,
    revision: str = "HEAD",
    *,
    facts: Sequence[Fact] | None = None,
    perplexity: bool = True,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Measure, or read what was measured on the same state before. Default: the facts that are live at `revision`."""
    from memit_vc.porcelain.editing.models import load_model

    commit = repository.resolve(revision)
    columns = repository.state(commit)
    state = repository.state_id(columns)
    chosen = tuple(facts) if facts is not None else tuple(entry.fact for entry in repository.live_facts(commit))
    if not chosen and not perplexity:
        raise MemitVCError(
            f"no facts are live at {short(commit)}", hint="Give an edit file: `memitvc eval --edits edits.json`."
        )
    if loaded is None:
        device = repository.hparams().resolved_device()
        loaded = load_model(repository, device=device, progress=progress)
    probe = Probe.of(repository) if perplexity else None
    with loaded.state(columns) as adapter:
        measured = measure(repository, adapter, chosen, state, probe, progress=progress)
    for row in measured.rows(state):
        repository.put_evaluation(*row)
    return Evaluation(commit, state, chosen, measured)
