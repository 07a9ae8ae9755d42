"""`facts --measure`: the scores of the live facts now, beside those of the commit that brought them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from memit_vc.objects import CommitId, FactId
from memit_vc.porcelain.evaluate import evaluate
from memit_vc.progress import Progress, silent

if TYPE_CHECKING:
    from memit_vc.porcelain.models import LoadedModel
    from memit_vc.repository import LiveFact, Repository

__all__ = ["MeasuredFact", "Scores", "measured_facts"]

Scores: TypeAlias = Mapping[str, float | None]
"""ES, PS, NS, rewrite_acc, …, nll of one fact (`numerics.scores`)."""


@dataclass(frozen=True)
class MeasuredFact:
    """`then` is None where the commit was made with --no-scores."""

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
    """Measure live facts at `revision`; what was measured on that state before is read."""
    if not entries:
        return []
    facts = list({entry.fact.id: entry.fact for entry in entries}.values())
    now = evaluate(repository, revision, facts=facts, perplexity=False, loaded=loaded, progress=progress).measured.facts
    then = {commit: _recorded(repository, commit) for commit in {entry.commit for entry in entries}}
    return [MeasuredFact(entry, then[entry.commit].get(entry.fact.id), now[entry.fact.id]) for entry in entries]


def _recorded(repository: Repository, commit: CommitId) -> Mapping[FactId, Scores]:
    state = repository.state_id(repository.state(commit))
    stored = repository.evaluations(state, "commit").get(("commit", commit))
    if not isinstance(stored, Mapping):
        return {}
    after = stored["after"]
    return after["facts"] if isinstance(after, Mapping) else {}  # type: ignore[return-value]  # as `Measured` wrote it
