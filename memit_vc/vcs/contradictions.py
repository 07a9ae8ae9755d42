"""One question with two answers: how such pairs are found, and which answer goes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from memit_vc.errors import ConflictError
from memit_vc.objects import CommitId, Fact, FactId, JsonValue, PatchId, short
from memit_vc.progress import count

OnConflict: TypeAlias = Literal["stop", "ours", "theirs", "keep-both"]
"""ours keeps the live fact, theirs the new one, keep-both both."""

_SHOWN = 20


def contradicting(facts: Iterable[Fact], against: Iterable[Fact] | None = None) -> list[tuple[Fact, Fact]]:
    """Every pair (earlier, later) with one question and different answers, in order.

    With `against`, the earlier fact of each pair is one of these; else both are among `facts`. Texts are compared as
    people see them (`as_seen`).
    """
    asked: dict[tuple[str, str], list[Fact]] = {}
    for fact in against or ():
        asked.setdefault(fact.question, []).append(fact)
    found: list[tuple[Fact, Fact]] = []
    for fact in facts:
        found += [(other, fact) for other in asked.get(fact.question, ()) if other.claim != fact.claim]
        if against is None:
            asked.setdefault(fact.question, []).append(fact)
    return found


@dataclass(frozen=True)
class Contradiction:
    """One question with two answers, one from each side, and the commits (or the kept patch) that brought them in."""

    ours: Fact
    theirs: Fact
    our_commit: CommitId | None
    their_commit: CommitId | None
    their_patch: PatchId | None = None

    def line(self) -> str:
        theirs = _from(self.their_commit) if self.their_patch is None else f" (patch {short(self.their_patch)})"
        return (
            f"  {self.ours.subject}: {self.ours.prompt!r} → ours {self.ours.target!r}{_from(self.our_commit)}, "
            f"theirs {self.theirs.target!r}{theirs}"
        )

    def to_json(self) -> dict[str, JsonValue]:
        theirs: dict[str, JsonValue] = {"target": self.theirs.target, "fact": self.theirs.id}
        theirs |= {"commit": self.their_commit} if self.their_patch is None else {"patch": self.their_patch}
        return {
            "subject": self.ours.subject,
            "prompt": self.ours.prompt,
            "ours": {"target": self.ours.target, "fact": self.ours.id, "commit": self.our_commit},
            "theirs": theirs,
        }


def pairs_apart(
    facts: Iterable[Fact], ours: Collection[FactId], theirs: Sequence[Collection[FactId]]
) -> list[tuple[Fact, Fact]]:
    """(ours, theirs) of each contradiction among `facts`, unless one side holds both: then it was settled before. The
    sides are sets of live facts; if both facts of a pair come in, neither is one of ours.
    """
    found = []
    for one, other in contradicting(facts):
        if not any(one.id in side and other.id in side for side in (ours, *theirs)):
            found.append((other, one) if one.id not in ours and other.id in ours else (one, other))
    return found


def losers(
    found: Sequence[Contradiction], ours: Collection[FactId], on_conflict: OnConflict, *, what: str
) -> frozenset[FactId]:
    """The facts that go, as the user says. ConflictError lists the contradictions if the user said nothing, or if both
    facts of a pair come in, so that `theirs` does not choose.
    """
    if not found or on_conflict == "keep-both":
        return frozenset()
    if on_conflict == "stop":
        hint = "--ours keeps our answers, --theirs theirs, --keep-both both. The repository is unchanged."
        raise _conflict(found, what, hint)
    both = [each for each in found if each.ours.id not in ours]
    if on_conflict == "ours":
        return frozenset(each.theirs.id for each in found) | frozenset(each.ours.id for each in both)
    if both:
        raise _conflict(both, what, "Both answers would come in: take one commit after the other, or use --keep-both.")
    return frozenset(each.ours.id for each in found)


def conflict_details(found: Sequence[Contradiction], on_conflict: OnConflict) -> dict[str, JsonValue]:
    """What a commit records of contradictions that were settled; {} without any."""
    return {"on_conflict": on_conflict, "conflicts": [each.to_json() for each in found]} if found else {}


def _from(commit: CommitId | None) -> str:
    return "" if commit is None else f" (commit {short(commit)})"


def _conflict(found: Sequence[Contradiction], what: str, hint: str) -> ConflictError:
    lines = [each.line() for each in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"  … and {len(found) - _SHOWN} more")
    several = "a contradiction" if len(found) == 1 else count(len(found), "contradiction")
    return ConflictError(
        f"{what} would put {several} into the model:\n" + "\n".join(lines),
        hint=hint,
        conflicts=[each.to_json() for each in found],
    )
