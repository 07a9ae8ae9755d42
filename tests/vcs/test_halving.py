"""Halving and delta debugging as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from memit_vc.objects import CommitId
from memit_vc.vcs.ddmin import minimal
from memit_vc.vcs.halving import next_to_try


def line(length: int) -> tuple[list[CommitId], dict[CommitId, list[CommitId]]]:
    commits = [CommitId(f"c{number:03}") for number in range(length)]
    return commits, {commit: commits[max(0, i - 1) : i] for i, commit in enumerate(commits)}


@given(st.integers(2, 200), st.data())
def test_a_line_is_halved(length: int, data: st.DataObject) -> None:
    commits, parents = line(length)
    guilty = data.draw(st.sampled_from(commits))
    left, bad, asked = commits, commits[-1], 0
    while (candidate := next_to_try(left, bad, parents.__getitem__)) is not None:
        asked += 1
        if candidate >= guilty:
            bad = candidate
            left = [c for c in left if c <= candidate]
        else:
            left = [c for c in left if c > candidate]
    assert left == [bad] == [guilty]
    assert asked <= (length - 1).bit_length()


def test_a_side_branch_counts_as_history_of_its_merge() -> None:
    # a - b - m, a - c - m, m - d
    parents = {"a": [], "b": ["a"], "c": ["a"], "m": ["b", "c"], "d": ["m"]}
    order = [CommitId(name) for name in ("a", "b", "c", "m", "d")]
    found = next_to_try(order, CommitId("d"), lambda c: [CommitId(p) for p in parents[c]])
    assert found in {"b", "c"}  # two of five in their history; the merge has four


def test_skipped_commits_are_not_tried() -> None:
    commits, parents = line(5)
    tried = next_to_try(commits, commits[-1], parents.__getitem__, skipped=commits[1:3])
    assert tried in {commits[0], commits[3]}
    assert next_to_try(commits, commits[-1], parents.__getitem__, skipped=commits[:4]) is None


@given(st.integers(1, 24), st.data())
def test_delta_debugging_finds_a_smallest_part(size: int, data: st.DataObject) -> None:
    items = list(range(size))
    guilty = data.draw(st.sets(st.sampled_from(items), min_size=1))
    calls = 0

    def fails(chosen: Sequence[int]) -> bool:
        nonlocal calls
        calls += 1
        return guilty <= set(chosen)

    assert minimal(items, fails) == sorted(guilty)
    assert calls <= size**2 + 3 * size


@given(st.sets(st.frozensets(st.integers(0, 9), min_size=1), min_size=1))
def test_no_single_item_of_it_can_be_left_out(causes: set[frozenset[int]]) -> None:
    def fails(chosen: Sequence[int]) -> bool:
        return any(cause <= set(chosen) for cause in causes)

    found = minimal(range(10), fails)
    assert fails(found)
    assert not any(fails([item for item in found if item != left]) for left in found)
