"""`eval` and `facts --measure`: scores of the live facts (or of any edit file) on a revision's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memit_vc.errors import MemitVCError
from memit_vc.objects import CommitId, Fact, StateId, short
from memit_vc.porcelain.editing.measure import Measured, Probe, base_answers, measure
from memit_vc.porcelain.editing.models import LoadedModel, model_of
from memit_vc.porcelain.history.scores_at_commit import Scores, scores_at_commit
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository
from memit_vc.vcs.facts import LiveFact


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
    chat: bool = True,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Measure `facts` (default: those live at `revision`), or read what was measured on the same state before.

    With `chat`, a chat model also replies to each fact as a user's turn.
    """
    commit = repository.resolve(revision)
    state = LiveState.at(repository, commit)
    chosen = tuple(facts) if facts is not None else tuple(entry.fact for entry in state.live)
    if not chosen and not perplexity:
        raise MemitVCError(
            f"no facts are live at {short(commit)}", hint="Give an edit file: `memitvc eval --edits edits.json`."
        )
    loaded = model_of(repository, loaded, progress=progress)
    probe = Probe.of(repository) if perplexity else None
    base = base_answers(repository, loaded.adapter, chosen)
    with loaded.holding(state) as adapter:
        measured = measure(repository, adapter, chosen, state.id, probe, base=base, chat=chat, progress=progress)
    repository.put_evaluations(measured.rows(state.id))
    return Evaluation(commit, state.id, chosen, measured)


@dataclass(frozen=True)
class MeasuredFact:
    """`then` is None if the commit was made with --no-scores."""

    entry: LiveFact
    then: Scores | None
    now: Scores


def measured_facts(
    repository: Repository,
    entries: Sequence[LiveFact],
    *,
    revision: str = "HEAD",
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> list[MeasuredFact]:
    """Measure live facts at `revision`, or read what was measured on that state before."""
    if not entries:
        return []
    facts = list({entry.fact.id: entry.fact for entry in entries}.values())
    now = evaluate(repository, revision, facts=facts, perplexity=False, loaded=loaded, progress=progress).measured.facts
    then = scores_at_commit(repository, {entry.commit for entry in entries})
    return [MeasuredFact(entry, then[entry.commit].get(entry.fact.id), now[entry.fact.id]) for entry in entries]
