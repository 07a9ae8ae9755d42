"""`report`: everything that the page of a revision shows, gathered from rows and factors. No model, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memit_vc.errors import MemitVCError
from memit_vc.objects import CommitId, JsonValue
from memit_vc.page.data import CommitRow, FactRow, Interference, Report, Weights
from memit_vc.porcelain.history.log import LogEntry, log
from memit_vc.porcelain.history.report_facts import fact_rows
from memit_vc.porcelain.history.report_scores import Measured, comparisons, curves
from memit_vc.porcelain.history.report_weights import interference, weights
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.vcs.graphlines import GraphRow, graph_rows

if TYPE_CHECKING:
    from memit_vc.repository import Repository


LONGEST = 4000
"""Characters of a message; `show` prints all of it."""


def gather(repository: Repository, revision: str = "HEAD", *, progress: Progress = silent) -> Report:
    """The report of a revision."""
    tip = repository.resolve(revision)
    entries = log(repository, [revision])
    commits = [entry.commit for entry in entries]
    numbers = {entry.id: number for number, entry in enumerate(entries)}
    line = _line(repository, tip)
    state = LiveState.at(repository, tip)
    progress("report", 0, 3)
    measured = Measured(repository, [entry.id for entry in entries])
    facts = fact_rows(repository, commits, state.live, line, measured)
    perplexities = measured.perplexities(line)
    rows = _commit_rows(repository, entries, facts, measured, perplexities)
    progress("report", 1, 3)
    on_line = [commits[numbers[commit]] for commit in line]
    changed = weights(repository, on_line, numbers) if len(line) > 1 else Weights((), (), None)
    progress("report", 2, 3)
    by_id = {fact.id: number for number, fact in enumerate(facts)}
    worst = interference(state, by_id) if state.columns else Interference((), 0, None)  # type: ignore[arg-type]
    progress("report", 3, 3)
    config, head = repository.config, repository.head()
    parent = repository.parents(tip)[:1]
    return Report(
        # where a local base is, and its directory's name, are private: a report is mailed
        base=config.base if config.revision is not None else rows[-1].subject.removeprefix("base "),
        base_id=repository.base_id,
        revision=tip,
        branch=head.branch if head.commit == tip else None,
        state=state.id,
        commits=tuple(rows),
        line=tuple(numbers[commit] for commit in line),
        facts=facts,
        curves=curves(facts, {numbers[commit]: place for place, commit in enumerate(line)}),
        perplexity=tuple((numbers[commit], value) for commit, value in perplexities.items()),
        base_perplexity=perplexities.get(line[0]),
        comparisons=comparisons(facts, numbers[tip], numbers[parent[0]] if parent else None),
        weights=changed,
        interference=worst,
        provenance=_provenance(repository, entries),
        hashes_recorded=bool(repository.evaluations(state.id, "tensors")),
    )


def history(repository: Repository, revision: str = "HEAD") -> list[CommitRow]:
    """The commits alone, newest first: what the picture of a model card shows."""
    entries = log(repository, [revision])
    line = _line(repository, entries[0].id)
    measured = Measured(repository, [entry.id for entry in entries])
    live = repository.live_facts(entries[0].id)
    facts = fact_rows(repository, [entry.commit for entry in entries], live, line, measured)
    return _commit_rows(repository, entries, facts, measured, measured.perplexities(line))


def _line(repository: Repository, tip: CommitId) -> list[CommitId]:
    """The first-parent line, from the root to `tip`."""
    found = [tip]
    while parents := repository.parents(found[-1]):
        found.append(parents[0])
    return found[::-1]


def _commit_rows(
    repository: Repository,
    entries: list[LogEntry],
    facts: tuple[FactRow, ...],
    measured: Measured,
    perplexities: Mapping[CommitId, float],
) -> list[CommitRow]:
    states = repository.recorded_states()
    brought: dict[int, list[FactRow]] = {}
    gone: dict[int, int] = {}
    for fact in facts:
        brought.setdefault(fact.commit, []).append(fact)
        if fact.gone is not None:
            gone[fact.gone] = gone.get(fact.gone, 0) + 1
    drawn = graph_rows((entry.id, entry.parents) for entry in entries)
    rows = []
    for number, (entry, graph) in enumerate(zip(entries, drawn, strict=True)):
        own = brought.get(number, [])
        record: Any = measured.records.get(entry.id, {})
        sides = {side: record.get(side, {}) for side in ("before", "after")}
        rows.append(_row(entry, graph, states[entry.id], own, gone.get(number, 0), sides, perplexities.get(entry.id)))
    return rows


def _row(
    entry: LogEntry,
    graph: GraphRow,
    state: str,
    own: list[FactRow],
    gone: int,
    sides: Mapping[str, Any],
    perplexity: float | None,
) -> CommitRow:
    commit = entry.commit
    return CommitRow(
        id=entry.id,
        subject=_clipped(commit.subject, LONGEST // 10),
        message=_clipped(commit.message, LONGEST),
        author=_clipped(commit.author, LONGEST // 10),
        time=commit.time,
        kind=commit.kind,
        parents=entry.parents,
        refs=entry.refs,
        state=state,
        graph=graph,
        facts=len(own),
        gone=gone,
        lost=bool(own) and all(fact.status != "live" for fact in own),
        before=_totals(sides["before"].get("total")),
        after=_totals(sides["after"].get("total")),
        errors=_totals(sides["after"].get("error")),
        solved=bool(commit.details.keys() & {"resolve", "compress"}),
        perplexity=perplexity,
    )


def _totals(found: Any) -> dict[str, float | None]:
    return {name: None if value is None else round(float(value), 4) for name, value in (found or {}).items()}


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters; `memitvc show` prints them all)"


def _provenance(repository: Repository, entries: list[LogEntry]) -> Mapping[str, JsonValue]:
    """What the newest batch was computed from; {} if that is not recorded here."""
    for entry in entries:
        blob = entry.commit.provenance
        if blob is not None and repository.blobs.has(blob):
            try:
                found: Any = json.loads(repository.blobs.read(blob))
            except (ValueError, MemitVCError):  # damaged: fsck says so
                continue
            if "hparams" in found:
                return {"commit": entry.id, **found}
    return {}
