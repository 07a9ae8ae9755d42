"""How commits are named, and what is said when a name names none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from memit_vc.errors import RevisionError, UsageError
from memit_vc.objects import CommitId
from memit_vc.vcs.refnames import check_distinct, check_one_meaning, check_ref_name
from memit_vc.vcs.revisions import Names, resolve, split_range

A, B, C, D = (CommitId(prefix.ljust(64, "0")) for prefix in ("abcd1", "abcd2", "beef", "1234"))
PARENTS = {A: (), B: (A,), C: (A,), D: (B, C)}


def _by_prefix(prefix: str) -> Sequence[CommitId]:
    return [c for c in PARENTS if c.startswith(prefix)]


NAMES = Names(
    head=lambda: D,
    refs=lambda: {"heads/main": D, "heads/beef": B, "tags/v1": A, "remotes/origin/main": C, "heads/Side/Line": C},
    by_prefix=_by_prefix,
    parents=lambda c: PARENTS[c],
    describe=lambda c: f"subject of {c[:5]}",
)


@pytest.mark.parametrize(
    ("text", "commit"),
    [
        ("HEAD", D),
        ("@", D),
        (" main ", D),
        ("heads/main", D),
        ("v1", A),
        ("tags/v1", A),
        ("origin/main", C),
        ("Side/Line", C),
        (D, D),
        ("1234", D),
        ("ABCD1", A),
        ("beef0", C),
        ("beef", B),  # a branch goes before a prefix
        ("HEAD~", B),
        ("HEAD~0", D),
        ("HEAD~2", A),
        ("HEAD~~", A),
        ("HEAD^", B),
        ("HEAD^2", C),
        ("HEAD^0", D),
        ("HEAD^2~1", A),
        ("@^2^", A),
        ("main~1^1", A),
    ],
)
def test_names(text: str, commit: CommitId) -> None:
    assert resolve(text, NAMES) == commit


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("mian", "no commit is called 'mian'", "Did you mean main?"),
        ("side/line", "no commit is called", "Side/Line"),
        ("V1", "no commit is called", "v1"),
        ("zzzzzzzz", "no commit is called", "memitvc log"),
        ("abc", "no commit is called", "four digits"),
        ("abcd", "beginning of 2 commits", "more digits"),
        ("dead", "no commit is called", "four digits"),
        ("deadbeef", "no commit is called", "four digits"),
        ("", "empty revision", "HEAD"),
        ("HEAD~9", "only 2 commits before it", "root"),
        ("HEAD^3", "2 parents, not 3", "parent of a merge"),
        ("v1^", "0 parents, not 1", ""),
        ("HEAD~x", "'x' is not understood", "~n"),
        ("HEAD^-1", "'-1' is not understood", "^n"),
        ("HEAD~" + "9" * 5000, "no history is so long", "smaller number"),
        ("twin", "'twin' may mean tags/twin (abcd100000) and heads/twin (abcd200000)", "whole name"),
        ("origin/main", "may mean heads/origin/main (1234000000) and remotes/origin/main (beef000000)", "whole name"),
    ],
)
def test_errors(text: str, message: str, hint: str) -> None:
    more = {"heads/twin": B, "tags/twin": A, "heads/origin/main": D} if "may mean" in message else {}
    with pytest.raises(RevisionError) as caught:
        resolve(text, replace(NAMES, refs=lambda: {**NAMES.refs(), **more}))
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_an_ambiguous_prefix_lists_its_candidates() -> None:
    with pytest.raises(RevisionError) as caught:
        resolve("abcd", NAMES)
    assert "subject of abcd1" in caught.value.message
    assert "subject of abcd2" in caught.value.message


def test_ranges() -> None:
    assert split_range("a..b") == ("a", "b")
    assert split_range("a..") == ("a", "HEAD")
    assert split_range("..b") == ("HEAD", "b")
    assert split_range("a") is None
    with pytest.raises(RevisionError, match="symmetric"):
        split_range("a...b")


_FOREIGN = ("heads/главная", "heads/λ-sweep", "heads/μ2", "tags/東京-tokyo", "heads/東京tokyo")


@pytest.mark.parametrize(
    "name", ["heads/main", "heads/a/b-c_1.2", "tags/v1.0", "remotes/origin/main", "heads/été", *_FOREIGN]
)
def test_good_ref_names(name: str) -> None:
    check_ref_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("main", "heads/", "notes/x", "HEAD", "heads/HEAD", "heads/-x", "heads/.x", "heads/a/.b", "heads/a..b"),
        *("heads/a b", "heads/a~1", "heads/a^", "heads/a:b", "heads/a@b", "heads/a\n", "heads/a/", "heads//a"),
        *(
            "heads/a.lock",
            "heads/a.",
            "heads/" + "a" * 64,
            "heads/" + "x" * 300,
            "../heads/x",
            "heads/a\\b",
            "heads/a*",
            *(f"heads/a{c}b" for c in "\u202e\u2066\u200b\u00a0\u0085\u2028\u200f\x9b"),
            *("heads/m\u0430in", "heads/v1/m\u03b1in", "tags/\uff4dain", "heads/\ufb01rst", "heads/e\u0301te\u0301"),
        ),
    ],
)
def test_bad_ref_names(name: str) -> None:
    with pytest.raises(UsageError):
        check_ref_name(name)


def test_two_refs_of_one_name() -> None:
    refs = {"heads/main": D, "tags/main": D, "heads/other": A, "tags/other": B}
    names = replace(NAMES, refs=lambda: refs)
    assert resolve("main", names) == D  # both mean the same commit
    assert resolve("heads/other~0", names) == A
    assert resolve("tags/other", names) == B
    check_one_meaning("tags/v1", refs)
    check_one_meaning("tags/main", ["tags/main"])
    for new in ("tags/main", "remotes/main", "heads/other"):
        with pytest.raises(UsageError, match="exists already, and people write both as"):
            check_one_meaning(new, {name for name in refs if name != new})


def test_two_names_that_look_alike() -> None:
    check_distinct(["heads/copa"], ["heads/copa", "heads/cope", "tags/\u0441\u043e\u0440\u0430"])
    for new, there in (
        (["heads/\u0441\u043e\u0440\u0430"], ["heads/copa"]),
        (["heads/copa", "heads/\u0441\u043e\u0440\u0430"], []),
    ):
        with pytest.raises(UsageError, match="looks like 'heads/copa'"):
            check_distinct(new, there)


@pytest.mark.parametrize("name", ["heads/heads/main", "tags/tags/x", "heads/remotes/origin/main"])
def test_a_new_name_does_not_begin_as_a_whole_one(name: str) -> None:
    check_ref_name(name)  # another program may have made it
    with pytest.raises(UsageError, match="begins as the whole name of a ref does"):
        check_one_meaning(name, [])
