"""What the model says at several revisions: one load, the states swapped in memory."""

from __future__ import annotations

from collections.abc import Sequence

from memit_vc.numerics.scores.likelihood import greedy
from memit_vc.porcelain.editing.models import model_of
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository


def answers(
    repository: Repository,
    prompts: Sequence[str],
    revisions: Sequence[str],
    *,
    new_tokens: int = 6,
    progress: Progress = silent,
) -> list[list[str]]:
    """For each prompt, the greedy continuation at each revision."""
    states = [LiveState.at(repository, repository.resolve(revision)) for revision in revisions]
    loaded = model_of(repository, None, progress=progress)
    columns = []
    for done, state in enumerate(states):
        progress("ask the model", done, len(states))
        with loaded.holding(state) as adapter:
            columns.append([each.text for each in greedy(adapter, prompts, new_tokens=new_tokens)])
    progress("ask the model", len(states), len(states))
    return [list(row) for row in zip(*columns, strict=True)]
