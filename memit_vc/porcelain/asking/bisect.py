"""`bisect`: find the commit that changed something, by halving. HEAD does not move; the session is one small file.

Bad and good are git's words for "like the newer end" and "like the older end".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from memit_vc.errors import IntegrityError, MemitVCError, UsageError
from memit_vc.objects import CommitId, JsonValue, canonical_json, short
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository
from memit_vc.store.files import scratch, storage_errors, write_atomic
from memit_vc.store.locks import alone
from memit_vc.store.sealed import seal, unseal
from memit_vc.vcs.graph import merge_bases
from memit_vc.vcs.halving import next_to_try

Verdict: TypeAlias = Literal["good", "bad", "skip"]
_SKIP = 125
_FORMAT = 1


@dataclass(frozen=True)
class Session:
    """What is known so far. `log` has one line for each verdict."""

    bad: CommitId | None = None
    good: tuple[CommitId, ...] = ()
    skipped: tuple[CommitId, ...] = ()
    log: tuple[str, ...] = ()

    @property
    def commits(self) -> frozenset[CommitId]:
        ends = () if self.bad is None else (self.bad,)
        return frozenset((*ends, *self.good, *self.skipped))


@dataclass(frozen=True)
class Step:
    """Where a session is: an end is missing (all None), there is a `candidate` to test, the first bad commit is
    `found`, or only skipped commits are left and one of `undecided` is the first bad one.
    """

    session: Session
    candidate: CommitId | None
    found: CommitId | None
    undecided: tuple[CommitId, ...]
    left: int
    """Commits that can still be the first bad one."""

    @property
    def steps(self) -> int:
        """About how many more answers it takes."""
        return math.ceil(math.log2(self.left)) if self.left > 1 else 0

    def to_json(self) -> JsonValue:
        every = {**vars(self.session), **vars(self), "steps": self.steps}
        return {name: value for name, value in every.items() if name not in ("session", "log")}


def start(repository: Repository, bad: str | None = None, good: Sequence[str] = ()) -> Step:
    """Begin a session. UsageError if one is under way, MemitVCError if `bad` is in the history of a good commit."""
    with _alone(repository):
        if _path(repository).exists():
            raise UsageError("a bisection is already under way", hint="Give it up with `memitvc bisect reset`.")
        session = Session(log=("start",))
        if bad is not None:
            session = _said(session, "bad", repository.resolve(bad))
        for revision in good:
            session = _said(session, "good", repository.resolve(revision))
        return _keep(repository, session)


def mark(repository: Repository, verdict: Verdict, revisions: Sequence[str] = ()) -> Step:
    """Give a verdict on revisions, by default on the present candidate. An error leaves the session as it is."""
    with _alone(repository):
        step = current(repository)
        if revisions:
            commits = [repository.resolve(revision) for revision in revisions]
        elif step.candidate is not None:
            commits = [step.candidate]
        else:
            raise UsageError("no commit is being tested", hint=f"Name one: `memitvc bisect {verdict} REV`.")
        session = step.session
        for commit in commits:
            session = _said(session, verdict, commit)
        return _keep(repository, session)


def current(repository: Repository) -> Step:
    """The session. UsageError if none is under way, IntegrityError if its file is damaged or names lost commits."""
    path = _path(repository)
    try:
        with storage_errors(path):
            record = unseal("bisect", json.loads(path.read_bytes())) if path.exists() else None
        if record is None:
            raise UsageError("no bisection is under way", hint="Begin one: `memitvc bisect start BAD GOOD`.")
        if record["format"] != _FORMAT:
            raise ValueError(f"format {record['format']!r}")
        session = Session(record["bad"], tuple(record["good"]), tuple(record["skipped"]), tuple(record["log"]))
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{path} is not a bisection that this version reads: {error}", hint="Remove it: `memitvc bisect reset`."
        ) from error
    lost = session.commits - repository.known_commits(session.commits)
    if lost:
        raise IntegrityError(
            f"commit {short(min(lost))} of the bisection is no longer here: its history was rewritten and pruned",
            hint="Give it up with `memitvc bisect reset`, and start again on the present history.",
        )
    return _step(repository, session)


def reset(repository: Repository) -> bool:
    """Forget the session. False if there was none."""
    path = _path(repository)
    with _alone(repository), storage_errors(path):
        present = path.exists()
        path.unlink(missing_ok=True)
    return present


def run(
    repository: Repository,
    execute: Callable[[Path, CommitId], int],
    *,
    on_step: Callable[[CommitId, Verdict], None] = lambda _, __: None,
    progress: Progress = silent,
) -> Step:
    """Test candidate after candidate: check it out to a temporary directory and call `execute(directory, commit)`.

    Its exit code is the verdict: 0 good, 125 skip, others from 1 to 127 bad. Any other code stops the run with a
    MemitVCError; the session then stays as it is. Each verdict is kept at once, so a run that was killed can go on.
    """
    step = current(repository)
    if step.session.bad is None or not step.session.good:
        raise UsageError("a bad or a good commit is missing", hint="Name both: `memitvc bisect start BAD GOOD`.")
    # where `gc` finds it: a killed run leaves a whole model behind
    with scratch(repository.root / "cache" / "bisect") as temporary:
        directory = temporary / "model"
        while step.candidate is not None:
            candidate = step.candidate
            checkout(repository, candidate, directory, replace=directory.exists(), progress=progress)
            code = execute(directory, candidate)
            if not 0 <= code <= 127:
                raise MemitVCError(
                    f"the command ended with exit code {code} on {short(candidate)}, which is not a verdict",
                    hint="Let it exit with 0 for good, 125 for skip, or another code up to 127 for bad; run it again.",
                )
            verdict: Verdict = "good" if code == 0 else "skip" if code == _SKIP else "bad"
            step = mark(repository, verdict, [candidate])  # another terminal may have changed the session
            on_step(candidate, verdict)
    return step


def suspects(repository: Repository, bad: CommitId, good: Sequence[CommitId]) -> list[CommitId]:
    """The commits that can be the first bad one, oldest first: those in the history of `bad` and of no good commit.

    Empty if `bad` is in the history of a good commit.
    """
    first, *others = (repository.resolve_range(f"{commit}..{bad}") for commit in good)
    rest = [frozenset(other) for other in others]
    return [commit for commit in first if all(commit in other for other in rest)]


def forks(repository: Repository, bad: CommitId, good: Sequence[CommitId]) -> list[CommitId]:
    """Where the histories of `bad` and of good commits outside of it part. If one of these is bad, it was mended on the
    way to the good commit, and there is no first bad one between: git asks them first, too.
    """
    return [fork for fork in merge_bases(good, [bad], repository.parents) if fork not in good]


def _path(repository: Repository) -> Path:
    return repository.root / "bisect.json"


def _alone(repository: Repository) -> AbstractContextManager[None]:
    """Two commands wait for each other: else one of two verdicts would be lost."""
    return alone(repository.root, "bisect", repository.database.busy_seconds, "another command is at the bisection")


def _said(session: Session, verdict: Verdict, commit: CommitId) -> Session:
    log = (*session.log, f"{verdict} {commit}")
    if verdict == "bad":
        return replace(session, bad=commit, log=log)
    if verdict == "good":
        return replace(session, good=tuple(dict.fromkeys((*session.good, commit))), log=log)
    return replace(session, skipped=tuple(dict.fromkeys((*session.skipped, commit))), log=log)


def _keep(repository: Repository, session: Session) -> Step:
    """Store a session, unless it contradicts itself."""
    step = _step(repository, session)
    record: JsonValue = {"format": _FORMAT, **vars(session)}
    write_atomic(_path(repository), canonical_json(seal("bisect", record)) + b"\n")
    return step


def _step(repository: Repository, session: Session) -> Step:
    if session.bad is None or not session.good:
        return Step(session, None, None, (), 0)
    left = suspects(repository, session.bad, session.good)
    if not left:
        raise MemitVCError(
            f"{short(session.bad)} is bad and is in the history of a good commit: there is no first bad one between",
            hint="Call the newer end bad and the older end good, even to find where something was mended.",
        )
    unasked = [fork for fork in forks(repository, session.bad, session.good) if fork not in session.skipped]
    candidate = next(iter(unasked), None) or next_to_try(left, session.bad, repository.parents, session.skipped)
    if candidate is not None:
        return Step(session, candidate, None, (), len(left))
    if len(left) == 1:
        return Step(session, None, left[0], (), 1)
    return Step(session, None, None, tuple(left), len(left))
