"""`commit`: facts in, one new patch, one new commit. Nothing is written until everything is computed and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memit_vc.errors import RefMovedError, UsageError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.objects import Commit, Fact, PatchId, short
from memit_vc.porcelain.record import Kind, Outcome, draft, record
from memit_vc.porcelain.sets.amend import amended_parent
from memit_vc.porcelain.sets.contradictions import settle
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository
from memit_vc.vcs.contradictions import OnConflict
from memit_vc.vcs.state import Change

if TYPE_CHECKING:
    from memit_vc.porcelain.editing.models import LoadedModel


PERPLEXITY_WARNING = 0.05
"""A relative rise of the health text's perplexity above this is worth a warning."""


@dataclass(frozen=True, kw_only=True)
class Committed(Outcome):
    """A commit's scores before and after, on the materialised weights, and the share of the delta that survived."""

    patch: PatchId
    facts: int
    before: Mapping[str, float | None] | None
    after: Mapping[str, float | None] | None
    perplexity_before: float | None
    perplexity_after: float | None
    survived: float
    """Share of the intended delta that the storage dtype kept."""
    load: float
    """Live facts per input of the edited layers, with this batch."""
    leverage: float
    """Mean share of what was asked that the solve let through."""
    failing: Sequence[Fact]
    """Facts whose target the edited model does not give."""
    steps: int
    """Evaluations of the search's loss, over all facts."""
    seconds: Mapping[str, float]


def commit_facts(
    repository: Repository,
    facts: Sequence[Fact],
    *,
    message: str | None = None,
    hparams: MEMITHyperParams | None = None,
    on_conflict: OnConflict = "stop",
    corpus: str | None = None,
    tokens: int | None = None,
    require: Sequence[str] = (),
    scores: bool = True,
    loaded: LoadedModel | None = None,
    kind: Kind = "commit",
    amend: bool = False,
    repeats: Commit | None = None,
    origins: Sequence[str] = (),
    progress: Progress = silent,
) -> Committed:
    """Compute the batch on HEAD's state and record it; with `amend`, replace HEAD's commit and use the state before it.

    `repeats` is a commit of another base that this one repeats, with its message and author.
    `origins` are the places of the facts in the user's file ("edits.json: record 3"). UsageError for a fact that no
    file may hold (`Fact.fault`); ConflictError if a fact contradicts a live one (unless `on_conflict` settles it) or
    another one of the batch; PolicyError if a score breaks a bound of `[policy]` or of `require` (`policy.py`);
    RefMovedError if the branch moved meanwhile: the patch is kept, and the hint says how to put it on the new tip.
    """
    from memit_vc.porcelain.editing.batch import compute_batch
    from memit_vc.porcelain.editing.models import model_of
    from memit_vc.porcelain.editing.policy import ask_in_chat, check_policy, policy_of

    repository.database.check_writable()
    bounds = policy_of(repository, require)
    if bounds and not scores:
        raise UsageError("--require and [policy] need the scores", hint="Leave out --no-scores.")
    for number, fact in enumerate(facts, 1):
        if fact.fault is not None:
            raise UsageError(f"fact {number}: {fact.fault}", hint="Facts of an edit file are checked: `read_edits`.")
    head = repository.head()
    parent = amended_parent(repository, head.commit) if amend else head.commit
    before = LiveState.at(repository, parent)
    settled = settle(before, facts, on_conflict, origins=origins, amend=amend)
    values = hparams or repository.hparams()
    state = LiveState(repository, before.columns - settled.replaced)
    loaded = model_of(repository, loaded, hparams=values, progress=progress)
    batch = compute_batch(
        loaded,
        settled.facts,
        state,
        hparams=values,
        corpus=corpus,
        tokens=tokens,
        scores=scores,
        chat=ask_in_chat(bounds),
        progress=progress,
    )
    warnings = list(batch.warnings)
    unchecked = list[str]()
    if batch.before is not None and batch.after is not None:
        unchecked = check_policy(bounds, batch.before, batch.after, computed=True)
    ppl_before = None if batch.before is None else batch.before.perplexity
    ppl_after = None if batch.after is None else batch.after.perplexity
    if ppl_before is not None and ppl_after is not None:
        rise = ppl_after / ppl_before - 1
        said = f"perplexity of the health text rises by {rise:.1%} ({ppl_before:.2f} → {ppl_after:.2f})"
        if not rise <= PERPLEXITY_WARNING:  # NaN is not a small rise
            warnings.append(f"{said}: the model may be damaged; take the commit back with `memitvc undo`")
    made = draft(
        repository,
        [parent],
        Change(frozenset(batch.patch.columns), settled.replaced),
        kind=kind,
        message=message or (repository.commit(head.commit).message if amend else _message(settled.facts)),
        patches=[batch.patch.id],
        provenance=batch.patch.header.provenance,
        details={"facts": len(settled.facts), "survived": batch.survived},
    )
    if repeats is not None:
        made = replace(
            made,
            message=repeats.message,
            author=repeats.author,
            details={**made.details, "rebases": repeats.id},
        )
    after = repository.state_id(state.columns.union(batch.patch.columns))
    try:
        done = record(
            repository,
            head,
            [made],
            verb="amend" if amend else kind,
            patches=[batch.patch],
            blobs=batch.blobs,
            facts=settled.facts,
            evaluations=batch.evaluations(after, made.id),
            notes=(*settled.notes, *unchecked),
            warnings=warnings,
        )
    except RefMovedError as error:
        repository.keep_patch(batch.patch, settled.facts, parent=parent, message=made.message, details=made.details)
        raise RefMovedError(
            f"{head.branch or 'HEAD'} moved while the batch was computed; the patch is kept as {short(batch.patch.id)}",
            hint=f"Put it on the new tip: memitvc commit --patch {short(batch.patch.id)}",
        ) from error
    return Committed(
        **vars(done),
        patch=batch.patch.id,
        facts=len(settled.facts),
        before=None if batch.before is None else batch.before.total,
        after=None if batch.after is None else batch.after.total,
        perplexity_before=ppl_before,
        perplexity_after=ppl_after,
        survived=batch.survived,
        load=batch.load,
        leverage=batch.leverage,
        failing=batch.failing,
        steps=sum(batch.steps),
        seconds=batch.seconds,
    )


def _message(facts: Sequence[Fact]) -> str:
    first = facts[0]
    if len(facts) == 1:
        return f"{first.subject}: {first.target}"
    return f"{len(facts)} facts: {first.subject} → {first.target}, …"
