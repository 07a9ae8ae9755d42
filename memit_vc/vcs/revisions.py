"""Revisions as git writes them: HEAD, @, branch, tag, id or a prefix of it, then ~n and ^n; A..B for a range."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from memit_vc.errors import RevisionError
from memit_vc.objects import CommitId, short
from memit_vc.vcs.graph import Parents

_SUFFIX = re.compile(r"([~^])(\d*)")
_HEX = re.compile(r"[0-9a-f]{4,64}")
_SHOWN = 6
_MOST_DIGITS = 9


@dataclass(frozen=True)
class Names:
    """What a revision can refer to. `by_prefix` gives every commit whose id starts so; `describe` its subject."""

    head: Callable[[], CommitId]
    refs: Callable[[], Mapping[str, CommitId]]
    by_prefix: Callable[[str], Sequence[CommitId]]
    parents: Parents
    describe: Callable[[CommitId], str]


class RangeError(RevisionError):
    """A range where one commit is needed."""


def split_range(text: str) -> tuple[str, str] | None:
    """("A", "B") of "A..B", an empty side meaning HEAD; None if it is not a range."""
    if "..." in text:
        raise RevisionError(f"{text!r}: a symmetric range is not supported", hint="Write A..B.")
    older, dots, newer = text.partition("..")
    if ".." in newer:
        raise RevisionError(f"{text!r} has more than two ends", hint="Write A..B.")
    return (older or "HEAD", newer or "HEAD") if dots else None


def resolve(revision: str, names: Names) -> CommitId:
    """The commit that a revision names. RevisionError says why there is none, or lists the candidates."""
    text = revision.strip()
    if ".." in text and "/.." not in text and "../" not in text:  # a path may be meant
        raise RangeError(f"{revision!r} is a range, and one commit is needed", hint="Give one revision, such as HEAD.")
    cut = min((n for n in (text.find("~"), text.find("^")) if n >= 0), default=len(text))
    commit = _named(text[:cut], names)
    position = cut
    while position < len(text):
        step = _SUFFIX.match(text, position)
        if step is None:
            raise RevisionError(f"{revision!r}: {text[position:]!r} is not understood", hint="Write ~n or ^n.")
        if len(step[2]) > _MOST_DIGITS:
            raise RevisionError(f"{revision[:40]!r}…: no history is so long", hint="Give a smaller number.")
        count = int(step[2]) if step[2] else 1
        commit = (
            _nth_ancestor(commit, count, names, revision) if step[1] == "~" else _nth(commit, count, names, revision)
        )
        position = step.end()
    return commit


def _named(name: str, names: Names) -> CommitId:
    if name in ("HEAD", "@"):
        return names.head()
    if not name:
        raise RevisionError("an empty revision names no commit", hint="Name one, such as HEAD.")
    refs = names.refs()
    if name in refs:
        return refs[name]
    meant = {full: refs[full] for full in (f"tags/{name}", f"heads/{name}", f"remotes/{name}") if full in refs}
    if len(set(meant.values())) > 1:
        listed = " and ".join(f"{full} ({short(commit)})" for full, commit in meant.items())
        raise RevisionError(f"{name!r} may mean {listed}", hint="Write the whole name.")
    if meant:
        return next(iter(meant.values()))
    if _HEX.fullmatch(name.lower()):
        found = names.by_prefix(name.lower())
        if len(found) == 1:
            return found[0]
        if found:
            listed = "".join(f"\n  {c[: max(10, len(name) + 4)]} {names.describe(c)}" for c in found[:_SHOWN])
            more = f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise RevisionError(
                f"{name!r} is the beginning of {len(found)} commits:{listed}{more}", hint="Give more digits."
            )
    raise RevisionError(f"no commit is called {name!r}", hint=_suggest(name, refs))


def _suggest(name: str, refs: Mapping[str, CommitId]) -> str:
    known = sorted({"HEAD", *(ref.partition("/")[2] for ref in refs)})
    # hexadecimal digits are an id, not a misspelt name, unless they are very close to one
    alike = 0.8 if _HEX.fullmatch(name.lower()) else 0.5
    near = difflib.get_close_matches(name, known, n=3, cutoff=alike)
    if not near:
        folded = {entry.lower(): entry for entry in known}
        near = [folded[entry] for entry in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=alike)]
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return "Give a branch, a tag, or at least four digits of a commit's id; `memitvc log` shows them."


def _nth_ancestor(commit: CommitId, count: int, names: Names, revision: str) -> CommitId:
    start = commit
    for walked in range(count):
        parents = names.parents(commit)
        if not parents:
            raise RevisionError(
                f"{revision!r}: {short(start)} has only {walked} commit{'' if walked == 1 else 's'} before it",
                hint=f"Go back less far: {short(commit)} is the root, the untouched base.",
            )
        commit = parents[0]
    return commit


def _nth(commit: CommitId, number: int, names: Names, revision: str) -> CommitId:
    if number == 0:
        return commit
    parents = names.parents(commit)
    if number > len(parents):
        raise RevisionError(
            f"{revision!r}: {short(commit)} has {len(parents)} parent{'' if len(parents) == 1 else 's'}, not {number}",
            hint="Use ~n to walk along first parents, ^n to pick a parent of a merge.",
        )
    return parents[number - 1]
