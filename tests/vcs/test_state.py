"""States are sets: the laws of change and merge, on random sets and on random histories."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memit_vc.objects import BaseId, ColumnId, CommitId
from memit_vc.vcs.graph import merge_bases
from memit_vc.vcs.state import Change, State, apply, change_between, merge, merge_commits, state_id
from tests.support.graphs import History, columns, histories, history

states = st.frozensets(st.sampled_from([ColumnId(c) for c in "abcdef"]))


@given(states, states)
def test_a_change_leads_from_one_state_to_the_other(old: State, new: State) -> None:
    change = change_between(old, new)
    assert apply(old, change) == new
    assert not change.adds & change.removes
    assert apply(new, Change(adds=change.removes, removes=change.adds)) == old


@given(states, states, states)
def test_the_laws_of_a_three_way_merge(base: State, ours: State, theirs: State) -> None:
    merged = merge(base, ours, theirs)
    assert merged == merge(base, theirs, ours)
    assert merge(base, ours, ours) == ours
    assert merge(base, base, theirs) == theirs
    assert merge(base, ours, base) == ours
    for column in base | ours | theirs:
        sides = {column in ours, column in theirs}
        expected = sides.pop() if len(sides) == 1 else column not in base
        assert (column in merged) == expected


@given(states, states, states, states)
def test_merging_both_changes_in_either_order_agrees(base: State, ours: State, theirs: State, other: State) -> None:
    # what merges commute on: changes that do not touch the same columns
    change = change_between(base, theirs)
    disjoint = Change(adds=ours - base - change.adds, removes=(base - ours) - change.removes)
    mine = apply(base, disjoint)
    assert merge(base, mine, theirs) == apply(mine, change) == apply(theirs, disjoint)


def test_the_id_of_a_state_is_of_the_set() -> None:
    base = BaseId("b")
    assert state_id(base, [ColumnId("x"), ColumnId("y"), ColumnId("x")]) == state_id(base, columns("yx"))
    assert state_id(base, columns("x")) != state_id(base, columns("y"))
    assert state_id(base, columns("x")) != state_id(BaseId("c"), columns("x"))


def test_a_merge_with_one_base() -> None:
    graph = history("a; b: a; c: a")
    state = {"a": columns("xy"), "b": columns("xyz"), "c": columns("y")}
    assert merge_commits(CommitId("b"), CommitId("c"), graph.of, lambda c: state[c]) == columns("yz")


def test_a_criss_cross_merge_uses_the_merge_of_its_bases() -> None:
    graph = history("a; b: a; c: a; d: b c; e: c b")
    # both sides merged b and c; d then took x away again: the virtual base has x, so that taking away wins
    state = {"a": columns(""), "b": columns("x"), "c": columns("y"), "d": columns("y"), "e": columns("xyz")}
    assert merge_bases([CommitId("d")], [CommitId("e")], graph.of) == ["b", "c"]
    assert merge_commits(CommitId("d"), CommitId("e"), graph.of, lambda c: state[c]) == columns("yz")


def test_unrelated_histories_merge_to_their_union() -> None:
    graph = history("a; b")
    state = {"a": columns("x"), "b": columns("y")}
    assert merge_commits(CommitId("a"), CommitId("b"), graph.of, lambda c: state[c]) == columns("xy")


def test_a_long_history_of_criss_crosses_needs_no_deep_recursion() -> None:
    parents: dict[CommitId, tuple[CommitId, ...]] = {CommitId("root"): ()}
    left = right = CommitId("root")
    expected = columns("")
    for n in range(601):
        new_left, new_right = CommitId(f"l{n:04}"), CommitId(f"r{n:04}")
        above = (left, right) if left != right else (left,)
        parents[new_left], parents[new_right] = above, above[::-1]
        left, right = new_left, new_right
        expected = merge(expected, columns("x"), columns("y"))
    graph = History(parents)
    state = {"l": columns("x"), "r": columns("y")}
    merged = merge_commits(left, right, graph.of, lambda c: state[c[0]] if c != "root" else columns(""))
    assert merged == expected == columns("xy")


@given(histories(), st.data())
def test_merging_with_an_ancestor_gives_the_descendant(graph: History, data: st.DataObject) -> None:
    state = {c: data.draw(states) for c in graph.commits}
    tip = data.draw(st.sampled_from(graph.commits))
    for parent in graph.of(tip):
        assert merge_commits(tip, parent, graph.of, lambda c: state[c]) == state[tip]
        assert merge_commits(parent, tip, graph.of, lambda c: state[c]) == state[tip]


@given(histories(), st.data())
def test_merging_does_not_depend_on_the_side(graph: History, data: st.DataObject) -> None:
    state = {c: data.draw(states) for c in graph.commits}
    ours, theirs = data.draw(st.sampled_from(graph.commits)), data.draw(st.sampled_from(graph.commits))
    merged = merge_commits(ours, theirs, graph.of, lambda c: state[c])
    assert merged == merge_commits(theirs, ours, graph.of, lambda c: state[c])
