"""`rebase`: compute a branch's batches again on another tip, one after the other.

The branch moves once, at the end, together with the new commits. Until then each new patch is a kept one, so that
neither `gc`, nor a crash, nor a branch that moved meanwhile loses a computed patch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memit_vc.errors import ConflictError, MemitVCError, RefMovedError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.objects import ColumnId, Commit, CommitId, Fact, FactId, JsonValue, PatchId, StatisticsId, short, utc_now
from memit_vc.porcelain.editing.models import LoadedModel, model_of
from memit_vc.porcelain.editing.policy import Guard
from memit_vc.porcelain.editing.provenance import Recorded
from memit_vc.porcelain.history.settings import settings_of
from memit_vc.porcelain.record import Outcome, move_head
from memit_vc.porcelain.sets.contradictions import cancelled_columns
from memit_vc.porcelain.sets.join import Side, join
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, count, silent
from memit_vc.repository import Repository
from memit_vc.store.publish import Evaluation
from memit_vc.vcs.contradictions import contradicting
from memit_vc.vcs.graph import is_ancestor
from memit_vc.vcs.settling import columns_of_facts
from memit_vc.vcs.state import Change, State

if TYPE_CHECKING:
    from memit_vc.porcelain.editing.statistics import Prepared

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Rebased(Outcome):
    """`commits` pairs old and new ids; `skipped` are commits with nothing left to do on the new tip."""

    onto: CommitId
    commits: tuple[tuple[CommitId, CommitId], ...] = ()
    skipped: tuple[CommitId, ...] = ()
    fast_forward: bool = False


def rebase(
    repository: Repository,
    onto: str,
    *,
    scores: bool = True,
    guard: Guard | None = None,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Rebased:
    """Put the commits that HEAD has and `onto` has not on top of `onto`.

    Batches are computed again there, each with its own hyperparameters, and keep message and author; reverts are
    replayed as changes of the set. ConflictError, before anything is computed, if a fact contradicts one that is live
    at `onto`; MemitVCError for a merge or a `--resolve` in the range; RefMovedError if the branch moved meanwhile: the
    patches are kept, and the hint says how to commit them. `guard` sees HEAD's state and the new one before the branch
    moves; it raises, or gives notes. After any error the branch is as it was.
    """
    target, head = repository.resolve(onto), repository.head()
    if is_ancestor(target, head.commit, repository.parents):
        raise MemitVCError(
            f"already up to date: {short(target)} is in HEAD's history",
            hint="Name a branch with commits that HEAD lacks.",
        )
    moving = list(repository.commits(repository.resolve_range(f"{target}..{head.commit}")).values())
    _refuse(repository, moving, target)
    if not moving:
        state = LiveState.at(repository, target)
        told = tuple(guard(LiveState.at(repository, head.commit), state, loaded)) if guard is not None else ()
        move_head(repository, head, target, verb="rebase", description=f"fast-forward to {short(target)}")
        return Rebased(id=target, branch=head.branch, state=state.id, notes=told, onto=target, fast_forward=True)
    repository.database.check_writable()
    replay = _Replay(repository, target, scores=scores, loaded=loaded, progress=progress)
    if any(_facts(repository, commit) for commit in moving):
        replay.loaded = model_of(repository, loaded, progress=progress)
    made: list[tuple[CommitId, CommitId]] = []
    skipped: list[CommitId] = []
    try:
        for done, commit in enumerate(moving):
            progress("rebase", done, len(moving))
            new = replay.again(commit)
            if new is None:
                skipped.append(commit.id)
            else:
                made.append((commit.id, new))
        progress("rebase", len(moving), len(moving))
        before = LiveState.at(repository, head.commit)
        told = tuple(guard(before, replay.state, replay.loaded)) if guard is not None else ()
        move_head(
            repository,
            head,
            replay.tip,
            verb="rebase",
            description=f"{count(len(made), 'commit')} onto {short(target)}",
            commits=replay.commits,
            evaluations=replay.evaluations,
        )
    except RefMovedError as error:
        raise replay.moved(head.branch or "HEAD") from error
    except BaseException:
        replay.give_up()
        raise
    replay.give_up()
    return Rebased(
        id=replay.tip,
        branch=head.branch,
        state=replay.state.id,
        notes=(*replay.notes, *told),
        warnings=tuple(replay.warnings),
        onto=target,
        commits=tuple(made),
        skipped=tuple(skipped),
    )


class _Replay:
    """The new tip, its state, and the new columns for the old ones."""

    def __init__(
        self, repository: Repository, tip: CommitId, *, scores: bool, loaded: LoadedModel | None, progress: Progress
    ) -> None:
        self.tip, self.loaded = tip, loaded
        self.commits: list[Commit] = []
        self.evaluations: list[Evaluation] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self._onto, self._kept = tip, list[PatchId]()
        self._alone = True
        """Each kept patch is all that its commit brings."""
        self._waiting = frozenset(repository.kept_patches(everything=True))
        self._repository, self._scores, self._progress = repository, scores, progress
        self.state = LiveState.at(repository, tip)
        self._became: dict[ColumnId, State] = {}

    def again(self, commit: Commit) -> CommitId | None:
        """The commit on the new tip; None if nothing of it is left to do."""
        facts = _facts(self._repository, commit)
        return self._batch(commit, facts) if facts else self._set(commit, self._now(commit.adds))

    def _set(self, commit: Commit, wanted: State) -> CommitId | None:
        """A change of the set, with new columns instead of the old ones that were computed again."""
        repository, removes = self._repository, self._now(commit.removes)
        before = LiveState.at(repository, commit.parents[0]).columns
        there = LiveState(repository, self._now(before | set(commit.adds)))
        joined = join(
            self._present(self.state.columns),
            (self.state.columns - removes) | wanted,
            [Side(there, commit=commit.id)],
            "stop",
            what=f"replaying {short(commit.id)}",
        )
        self.warnings += joined.warnings
        if not joined.change:
            return None
        patches = LiveState(repository, joined.change.adds).selection
        return self._advance(self._on_tip(commit, joined.change, patches, commit.details))

    def _batch(self, commit: Commit, facts: Sequence[Fact]) -> CommitId | None:
        from memit_vc.porcelain.editing.batch import compute_batch

        repository, loaded = self._repository, self.loaded
        if loaded is None:
            raise AssertionError("`rebase` loads the model if a commit has facts")
        # as for a commit, columns that cancel a fact leave with the fact's own columns
        removes = self._now(commit.removes) & self.state.columns
        removes |= cancelled_columns(self.state, {fact.id for fact in facts})
        kept = self._now(_as_they_are(LiveState(repository, commit.adds)))  # of a squash: adapters, cancel columns
        there = Side(LiveState(repository, self._now(repository.state(commit.id))), change=kept, commit=commit.id)
        present, what = self._present(self.state.columns), f"replaying {short(commit.id)}"
        joined = join(present, (present.columns - removes) | kept, [there] if kept else [], "keep-both", what=what)
        self.warnings += joined.warnings
        state = LiveState(repository, joined.state)
        kept, removes = state.columns - present.columns, present.columns - state.columns
        live = {state.facts[fact].claim: min(columns) for fact, columns in state.edits.items()}
        here = {fact.id: live[fact.claim] for fact in facts if fact.claim in live}
        self._remember(commit, here)
        wanted = [fact for fact in facts if fact.id not in here]
        if not wanted:
            return self._set(commit, kept)
        hparams, statistics = self._settings(commit, loaded)
        batch = compute_batch(
            loaded,
            wanted,
            state,
            hparams=hparams,
            statistics=statistics,
            scores=self._scores,
            progress=self._progress,
        )
        self.warnings += [f"{short(commit.id)}: {warning}" for warning in batch.warnings]
        columns = batch.patch.columns
        single = columns if batch.patch.header.divisible else columns * len(wanted)
        self._remember(commit, {fact.id: column for fact, column in zip(wanted, single, strict=True)})
        beside = LiveState(repository, kept).selection
        self._alone &= not beside
        details: dict[str, JsonValue] = {"facts": len(wanted), "survived": batch.survived, "rebases": commit.id}
        made = replace(
            self._on_tip(commit, Change(kept.union(columns), removes), {batch.patch.id, *beside}, details),
            kind="rebase",
            provenance=batch.patch.header.provenance,
        )
        batch.store()
        repository.keep_patch(batch.patch, wanted, parent=self._onto, message=commit.message, details=details)
        self._kept.append(batch.patch.id)
        self.evaluations += batch.evaluations(repository.state_id(state.columns.union(columns)), made.id)
        return self._advance(made)

    def _settings(self, commit: Commit, loaded: LoadedModel) -> tuple[MEMITHyperParams, Prepared | None]:
        """What a batch was computed with. A note says what its record does not say, or what is not here."""
        from memit_vc.porcelain.editing.statistics import prepare_statistics, recorded_statistics

        repository, name = self._repository, short(commit.id)
        edits = LiveState(repository, frozenset(commit.adds) - _as_they_are(LiveState(repository, commit.adds)))
        found = {commit.provenance} if commit.provenance else {p.header.provenance for p in edits.patches.values()}
        blobs = [blob for blob in found if blob is not None and repository.blobs.has(blob)]
        recorded = Recorded.read(repository, blobs[0]) if len(blobs) == 1 else None
        if recorded is not None:
            prepared = recorded.prepared(loaded, exactly=False, progress=self._progress)
            if prepared.id != recorded.statistics:
                self.notes.append(_other_statistics(name, recorded.statistics, prepared.id))
            return recorded.hparams, prepared
        hparams = repository.hparams()
        several = settings_of(edits)
        if len(several) != 1:
            self.notes.append(f"{name}: its record names no single settings; those of hparams.yaml were used")
            return hparams, None
        ((layers, weight, identifier),) = several
        hparams = hparams.replace(layers=list(layers), mom2_update_weight=weight)
        self.notes.append(f"{name}: it was squashed; its layers and λ were used, and all else of hparams.yaml")
        statistics = recorded_statistics(repository, StatisticsId(identifier), hparams, progress=self._progress)
        if statistics is None:
            statistics = prepare_statistics(loaded, hparams, progress=self._progress)
            self.notes.append(_other_statistics(name, StatisticsId(identifier), statistics.id))
        return hparams, statistics

    def _present(self, columns: State) -> LiveState:
        """Our side of a join: contradictions name the commit that is rebased onto as its origin."""
        return LiveState(self._repository, columns, origins=dict.fromkeys(columns, self._onto))

    def _remember(self, commit: Commit, became: Mapping[FactId, ColumnId]) -> None:
        """Later commits that name the old columns of these facts mean the new ones."""
        for column, pairs in LiveState(self._repository, commit.adds).roles.items():
            new = {became[fact] for fact, _ in pairs if fact in became}
            if new:
                self._became[column] = self._became.get(column, frozenset()) | new

    def _now(self, columns: Collection[ColumnId]) -> State:
        return frozenset[ColumnId]().union(*(self._became.get(column, frozenset({column})) for column in columns))

    def _on_tip(
        self, commit: Commit, change: Change, patches: Collection[PatchId], details: Mapping[str, JsonValue]
    ) -> Commit:
        return replace(
            commit,
            parents=(self.tip,),
            adds=tuple(sorted(change.adds)),
            removes=tuple(sorted(change.removes - change.adds)),
            patches=tuple(sorted(patches)),
            time=utc_now(),
            details=details,
        )

    def _advance(self, made: Commit) -> CommitId:
        """Go on from a new commit, which is stored with the others when the branch moves."""
        self.commits.append(made)
        self.tip = made.id
        self.state = LiveState(self._repository, (self.state.columns - set(made.removes)) | set(made.adds))
        return made.id

    def moved(self, where: str) -> RefMovedError:
        """The error for a branch that moved meanwhile: the new patches are kept."""
        if not self._kept:
            return RefMovedError(f"{where} moved meanwhile; nothing was changed", hint="Run `memitvc rebase` again.")
        ids = [short(patch) for patch in self._kept]
        return RefMovedError(
            f"{where} moved while its commits were computed; their patches are kept as {', '.join(ids)}",
            hint=f"Run `memitvc rebase` again, or put them on the new tip: memitvc commit --patch {ids[0]}"
            if self._alone
            else "Run `memitvc rebase` again: the patches are not all that their commits bring.",
        )

    def give_up(self) -> None:
        """The patches are in the history now, or given up: only patches that were kept before stay kept."""
        for patch in self._kept:
            if patch not in self._waiting:
                self._repository.drop_kept(patch)


def _facts(repository: Repository, commit: Commit) -> list[Fact]:
    """The facts that a commit computed, in the order of its patches; none for a revert, which puts columns back."""
    if commit.kind == "revert":
        return []
    found = [source.fact for source in LiveState(repository, commit.adds).sources]
    known = repository.facts(found) if found else {}
    return [known[fact] for fact in dict.fromkeys(found)]


def _as_they_are(added: LiveState) -> State:
    """The columns that no batch computed: adapters, and those that cancel a fact."""
    return frozenset(c for c, pairs in added.roles.items() if all(role == "cancel" for _, role in pairs))


def _other_statistics(name: str, recorded: StatisticsId, used: StatisticsId) -> str:
    return (
        f"{name}: its statistics {short(recorded)} are not here; {short(used)} were used, which a commit would take now"
    )


def _solved_against(repository: Repository, commit: Commit) -> State:
    """The edit columns that the commit's cancel columns take out."""
    cancelled = LiveState(repository, commit.adds).cancelled
    if not cancelled:
        return frozenset()
    state = LiveState.at(repository, commit.id)
    there = columns_of_facts(state.columns, state.roles)
    return frozenset[ColumnId]().union(*(there[fact].edits for fact in cancelled if fact in there))


def _is_both(repository: Repository, commit: Commit) -> bool:
    """A column puts facts in and takes others out: it cannot be computed again in part."""
    return any(len({role for _, role in pairs}) > 1 for pairs in LiveState(repository, commit.adds).roles.values())


def _refuse(repository: Repository, moving: Sequence[Commit], onto: CommitId) -> None:
    """MemitVCError and ConflictError for everything that can be known before anything is computed."""
    computed = {commit.id: _facts(repository, commit) for commit in moving}
    again = frozenset(column for commit in moving if computed[commit.id] for column in commit.adds)
    for commit in moving:
        reason = None
        if len(commit.parents) > 1:
            reason = "is a merge, which has no place on one line", f"Merge instead: memitvc merge {short(onto)}"
        elif commit.details.get("resolve"):
            reason = (
                f"was solved for its own history (`{commit.kind} --resolve`)",
                f"Rebase the commits before it and solve again, or merge: memitvc merge --resolve {short(onto)}",
            )
        elif again & _solved_against(repository, commit) or (computed[commit.id] and _is_both(repository, commit)):
            reason = (
                "takes facts out with columns that were solved against edits of this range",
                f"Rebase the commits before it and solve again, or merge: memitvc merge --resolve {short(onto)}",
            )
        elif commit.details.get("compress"):
            reason = "compressed columns that would be computed again", "Rebase the commits before it; compress again."
        if reason is not None:
            raise MemitVCError(f"{short(commit.id)} {reason[0]}", hint=reason[1])
    gone = {column for commit in moving for column in commit.removes}
    fits = frozenset[ColumnId]().union(*(_solved_against(repository, commit) for commit in moving))
    here = LiveState.at(repository, onto)
    live = (each for each in here.live if each.column not in gone)
    there = [each.fact for each in live if not here.edits[each.fact.id] <= fits]  # else the range takes it out
    clashes = contradicting((fact for commit in moving for fact in computed[commit.id]), there)
    if clashes:
        lines = [f"  {new.subject}: {new.prompt!r} → {old.target!r} there, {new.target!r} here" for old, new in clashes]
        raise ConflictError(
            f"{count(len(clashes), 'fact')} contradict{'s' if len(clashes) == 1 else ''} what is live at "
            f"{short(onto)}:\n" + "\n".join(lines[:_SHOWN]),
            hint="Revert one side first, or merge: `memitvc merge` has --ours and --theirs.",
        )
