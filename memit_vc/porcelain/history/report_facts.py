"""The facts of a history: every one that came in, whether it is live, and what took it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memit_vc.objects import Commit, CommitId, Fact, FactId
from memit_vc.page.data import FactRow
from memit_vc.porcelain.history.report_scores import Measured, broke, points

if TYPE_CHECKING:
    from memit_vc.repository import Repository
    from memit_vc.vcs.facts import LiveFact


def fact_rows(
    repository: Repository,
    commits: Sequence[Commit],
    live: Sequence[LiveFact],
    line: Sequence[CommitId],
    measured: Measured,
) -> tuple[FactRow, ...]:
    """Live facts and those that are gone, in the order of the commits that brought them; `commits` are newest first."""
    numbers = {commit.id: number for number, commit in enumerate(commits)}
    came: dict[FactId, CommitId] = {}
    gone: dict[FactId, CommitId] = {}
    held = repository.column_facts({column for commit in commits for column in (*commit.adds, *commit.removes)})
    for commit in reversed(commits):
        out = [fact for column in commit.removes for fact, role in held[column] if role == "edit"]
        out += [fact for column in commit.adds for fact, role in held[column] if role == "cancel"]
        gone |= dict.fromkeys(out, commit.id)
        for column in commit.adds:
            for fact, role in held[column]:
                if role == "edit":
                    came.setdefault(fact, commit.id)
                    gone.pop(fact, None)
    alive = {entry.fact.id: place for place, entry in enumerate(live)}
    came |= {entry.fact.id: entry.commit for entry in live}
    answered = {entry.fact.question for entry in live}
    order = {commit: place for place, commit in enumerate(line)}
    on_line = [numbers[commit] for commit in line]

    def row(fact: Fact) -> FactRow:
        own = came[fact.id]
        found = points(fact.id, own, order, measured, numbers)
        status = "live" if fact.id in alive else "replaced" if fact.question in answered else "reverted"
        return FactRow(
            id=fact.id,
            subject=fact.subject,
            prompt=fact.prompt,
            target=fact.target,
            old=fact.ground_truth,
            paraphrases=(*fact.paraphrases, *fact.clean_paraphrases),
            neighbours=tuple((probe.prompt, probe.answer or fact.ground_truth) for probe in fact.neighbours),
            generation=fact.generation_prompts,
            commit=numbers[own],
            gone=numbers[gone[fact.id]] if status != "live" and fact.id in gone else None,
            status=status,
            points=found,
            broke=broke(found, numbers[own], on_line),
            why=measured.why.get(fact.id),
        )

    def place(fact: Fact) -> tuple[int, int, str]:
        return -numbers[came[fact.id]], alive.get(fact.id, len(alive)), fact.prompt

    return tuple(row(fact) for fact in sorted(repository.facts(came).values(), key=place))
