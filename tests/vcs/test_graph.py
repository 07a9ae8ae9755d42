"""Ancestors, merge bases, order and ranges, against their plain definitions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memit_vc.objects import CommitId
from memit_vc.vcs.graph import ancestors, commits_between, is_ancestor, merge_bases, newest_first
from tests.support.graphs import History, histories, history


def _plain_ancestors(graph: History, commit: CommitId) -> set[CommitId]:
    return {commit}.union(*(_plain_ancestors(graph, parent) for parent in graph.of(commit)))


def test_criss_cross_has_two_merge_bases() -> None:
    graph = history("a; b: a; c: a; d: b c; e: c b; f: d; g: e")
    assert merge_bases([CommitId("f")], [CommitId("g")], graph.of) == ["b", "c"]
    assert merge_bases([CommitId("b")], [CommitId("c")], graph.of) == ["a"]
    assert merge_bases([CommitId("b")], [CommitId("d")], graph.of) == ["b"]


def test_a_range_leaves_out_what_the_older_side_has() -> None:
    graph = history("a; b: a; c: a; d: b c; e: d")
    assert commits_between(CommitId("b"), CommitId("e"), graph.of, graph.order) == ["c", "d", "e"]
    assert commits_between(CommitId("e"), CommitId("b"), graph.of, graph.order) == []


@given(histories())
def test_ancestors_are_what_parents_reach(graph: History) -> None:
    for commit in graph.commits:
        expected = _plain_ancestors(graph, commit)
        assert ancestors([commit], graph.of) == expected
        assert all(is_ancestor(other, commit, graph.of) == (other in expected) for other in graph.commits)


@given(histories(), st.data())
def test_merge_bases_are_the_maximal_common_ancestors(graph: History, data: st.DataObject) -> None:
    ours, theirs = data.draw(st.sampled_from(graph.commits)), data.draw(st.sampled_from(graph.commits))
    common = _plain_ancestors(graph, ours) & _plain_ancestors(graph, theirs)
    best = {c for c in common if not any(c != other and c in _plain_ancestors(graph, other) for other in common)}
    found = merge_bases([ours], [theirs], graph.of)
    assert set(found) == best
    assert found == sorted(found)


@given(histories(), st.data())
def test_the_log_has_children_before_parents(graph: History, data: st.DataObject) -> None:
    tips = data.draw(st.lists(st.sampled_from(graph.commits), min_size=1))
    listed = list(newest_first(tips, graph.of, graph.order))
    assert len(listed) == len(set(listed))
    assert set(listed) == ancestors(tips, graph.of)
    for commit in listed:
        assert all(listed.index(parent) > listed.index(commit) for parent in graph.of(commit))
