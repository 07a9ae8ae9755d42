"""`facts --measure`: the scores of the live facts now, beside those of the commit that brought them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memit_vc.porcelain.editing.evaluate import evaluate
from memit_vc.porcelain.history.scores_at_commit import Scores, scores_at_commit
from memit_vc.progress import Progress, silent

if TYPE_CHECKING:
    from memit_vc.porcelain.editing.models import LoadedModel
    from memit_vc.repository import LiveFact, Repository

__all__ = ["MeasuredFact", "Scores", "measured_facts"]


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
    then = scores_at_commit(repository, {entry.commit for entry in entries})
    return [MeasuredFact(entry, then[entry.commit].get(entry.fact.id), now[entry.fact.id]) for entry in entries]
