"""`merge` and `cherry-pick`: unions of sets, and what they do where facts contradict each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memit_vc.errors import ConflictError, MemitVCError
from memit_vc.objects import Commit
from memit_vc.porcelain.sets.branch import branches, create_branch, delete_branch, rename_branch
from memit_vc.porcelain.sets.cherry_pick import cherry_pick
from memit_vc.porcelain.sets.merge import merge
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sets.switch import switch, switch_detached, switch_to_new
from memit_vc.repository import Repository
from tests.support import synthetic
from tests.support.algebra.world import World, fact, same_bytes

Sides = tuple[Commit, Commit, Commit]


@pytest.fixture
def sides(world: World, repository: Repository) -> Callable[..., Sides]:
    """A common commit, one more on main and one on side; HEAD is on main."""

    def make(ours: list[tuple[int, str | None]], theirs: list[tuple[int, str | None]]) -> Sides:
        common = world.commit(repository, [fact(0)], message="common")
        switch_to_new(repository, "side")
        their = world.commit(repository, [fact(*each) for each in theirs], message="theirs")
        switch(repository, "main")
        our = world.commit(repository, [fact(*each) for each in ours], message="ours")
        return common, our, their

    return make


def test_a_merge_is_the_union_whichever_side_merges(
    world: World, repository: Repository, sides: Callable[..., Sides]
) -> None:
    common, our, their = sides([(1, None)], [(2, None)])
    made = merge(repository, "side")
    assert repository.commit(made.id).parents == (our.id, their.id)
    assert repository.state(made.id) == {*common.adds, *our.adds, *their.adds}
    assert (made.how, made.added, made.removed) == ("merge", 1, 0)
    assert repository.commit(made.id).message == "Merge branch 'side'"
    switch(repository, "side")
    other = merge(repository, our.id)
    assert other.state == made.state
    assert same_bytes(
        world.weights(repository, repository.state(made.id)), world.weights(repository, repository.state(other.id))
    )


def test_what_one_side_took_out_stays_out(world: World, repository: Repository, sides: Callable[..., Sides]) -> None:
    common, our, their = sides([(1, None)], [(2, None)])
    revert(repository, [common.id])
    made = merge(repository, "side")
    assert repository.state(made.id) == {*our.adds, *their.adds}


def test_fast_forward_and_already_there(world: World, repository: Repository) -> None:
    world.commit(repository, [fact(0)])
    switch_to_new(repository, "side")
    tip = world.commit(repository, [fact(1)])
    switch(repository, "main")
    before = len(repository.operations())
    made = merge(repository, "side")
    assert (made.how, made.id, made.added) == ("fast-forward", tip.id, 1)
    assert repository.head().branch == "main"
    assert repository.head().commit == tip.id
    assert merge(repository, "side").how == merge(repository, "HEAD").how == "up-to-date"
    assert len(repository.operations()) == before + 1
    repository.undo()
    forced = merge(repository, "side", fast_forward=False, message="on purpose")
    assert forced.how == "merge"
    assert repository.commit(forced.id).message == "on purpose"
    assert forced.state == repository.state_id(repository.state(tip.id))


def test_a_contradiction_stops_and_changes_nothing(
    world: World, repository: Repository, sides: Callable[..., Sides]
) -> None:
    _, our, their = sides([(1, "ours"), (5, None)], [(1, "theirs"), (6, None)])
    refs, operations = repository.refs(), repository.operations()
    with pytest.raises(ConflictError) as caught:
        merge(repository, "side")
    assert caught.value.exit_code == 13
    for part in ("City 1", "City 1 lies in", "'ours'", "'theirs'", our.id[:10], their.id[:10]):
        assert part in caught.value.message
    assert "--theirs" in str(caught.value.hint)
    assert (repository.refs(), repository.operations()) == (refs, operations)


@pytest.mark.parametrize(
    ("how", "targets"), [("ours", ["ours"]), ("theirs", ["theirs"]), ("keep-both", ["ours", "theirs"])]
)
def test_the_side_that_is_kept(
    world: World, repository: Repository, sides: Callable[..., Sides], how: str, targets: list[str]
) -> None:
    sides([(1, "ours"), (5, None)], [(1, "theirs"), (6, None)])
    made = merge(repository, "side", on_conflict=how)  # type: ignore[arg-type]
    live = [e.fact for e in repository.live_facts(made.id)]
    assert sorted(f.target for f in live if f.subject == "City 1") == targets
    assert {f.subject for f in live} == {"City 0", "City 1", "City 5", "City 6"}
    assert len(made.contradictions) == 1
    assert repository.commit(made.id).details["on_conflict"] == how
    # what was settled once is not asked again
    world.commit(repository, [fact(7)])
    switch_to_new(repository, "more", "side")
    world.commit(repository, [fact(8)])
    assert merge(repository, "main").how == "merge"


def test_a_change_of_target_on_one_side_is_no_contradiction(world: World, repository: Repository) -> None:
    old = world.commit(repository, [fact(1, "old")])
    switch_to_new(repository, "side")
    new = world.commit(repository, [fact(1, "new")], removes=old.adds)
    switch(repository, "main")
    world.commit(repository, [fact(2)])
    made = merge(repository, "side")
    assert new.adds[0] in repository.state(made.id)
    assert old.adds[0] not in repository.state(made.id)


def test_a_dense_patch_is_not_split(world: World, repository: Repository) -> None:
    world.commit(repository, [fact(0)])
    switch_to_new(repository, "side")
    batch = [fact(1, "theirs"), fact(2)]
    world.commit(repository, batch, patch=world.patch(repository, batch, dense=True))
    switch(repository, "main")
    world.commit(repository, [fact(1, "ours")])
    with pytest.raises(ConflictError, match="cannot be split"):
        merge(repository, "side", on_conflict="ours")
    made = merge(repository, "side", on_conflict="theirs")
    assert len(repository.live_facts(made.id)) == 3


def test_a_fact_edited_in_on_both_sides_is_told(
    world: World, repository: Repository, sides: Callable[..., Sides]
) -> None:
    sides([(1, None)], [(2, None)])
    world.commit(repository, [fact(2)], seed=7)
    made = merge(repository, "side")
    assert "counts twice (City 2)" in made.warnings[0]


def test_a_criss_cross_history(world: World, repository: Repository) -> None:
    start = world.commit(repository, [fact(0)])
    switch_to_new(repository, "side")
    two = world.commit(repository, [fact(2)])
    switch(repository, "main")
    one = world.commit(repository, [fact(1)])
    merge(repository, two.id)
    switch(repository, "side")
    merge(repository, one.id)
    revert(repository, [one.id])
    switch(repository, "main")
    revert(repository, [two.id])
    made = merge(repository, "side")
    assert repository.state(made.id) == set(start.adds)


def _crossed(world: World, repository: Repository, targets: tuple[str, str], ours: str) -> None:
    """Both sides answer one question and have merged the other's first commit, each for its own answer."""
    world.commit(repository, [fact(0)])
    switch_to_new(repository, "side")
    their = world.commit(repository, [fact(1, targets[1])], seed=1)
    switch(repository, "main")
    our = world.commit(repository, [fact(1, targets[0])], seed=2)
    merge(repository, their.id, on_conflict=ours)  # type: ignore[arg-type]
    if ours == "keep-both":
        revert(repository, [their.id])
    switch(repository, "side")
    merge(repository, our.id, on_conflict=ours)  # type: ignore[arg-type]
    if ours == "keep-both":
        revert(repository, [our.id])
    switch(repository, "main")


def test_answers_that_each_side_took_from_the_other_are_a_contradiction(world: World, repository: Repository) -> None:
    """Column by column, both would be gone."""
    _crossed(world, repository, ("ours", "theirs"), "ours")
    head = repository.head()
    with pytest.raises(ConflictError, match=r"'ours'.*'theirs'"):
        merge(repository, "side")
    assert repository.head() == head
    for how, targets in (("ours", ["ours"]), ("theirs", ["theirs"]), ("keep-both", ["ours", "theirs"])):
        made = merge(repository, "side", on_conflict=how)  # type: ignore[arg-type]
        live = [each.fact for each in repository.live_facts(made.id)]
        assert sorted(each.target for each in live if each.subject == "City 1") == targets
        assert len(live) == 1 + len(targets)
        assert len(made.contradictions) == 1
        repository.undo()
    switch(repository, "side")
    with pytest.raises(ConflictError, match=r"'theirs'.*'ours'"):
        merge(repository, "main")


def test_an_answer_that_both_sides_kept_in_other_columns_stays_once(world: World, repository: Repository) -> None:
    _crossed(world, repository, ("same", "same"), "keep-both")
    made = merge(repository, "side")
    assert [each.fact.subject for each in repository.live_facts(made.id)] == ["City 0", "City 1"]
    assert len(repository.state(made.id)) == 2
    assert not made.warnings
    repository.undo()
    switch(repository, "side")
    assert merge(repository, "main").state == made.state


@pytest.mark.parametrize("turned", [False, True])
def test_a_fact_that_one_side_cancelled_and_the_other_kept_is_a_contradiction(
    plain_repository: Repository, turned: bool
) -> None:
    """main reverts the second answer, side cancels the first one: none would be left."""
    one, two = synthetic.fact(1, "one"), synthetic.fact(1, "two")
    first, second = synthetic.record(plain_repository, [one]), synthetic.record(plain_repository, [two])
    switch_to_new(plain_repository, "side")
    cancel = synthetic.put_patch(plain_repository, [one], seed=9, role="cancel")
    third = synthetic.record(plain_repository, [one], branch="side", patch=cancel)
    switch(plain_repository, "main")
    revert(plain_repository, [second.id])
    if turned:
        switch(plain_repository, "side")
    there = "main" if turned else "side"
    with pytest.raises(ConflictError, match=r"'one'|'two'"):
        merge(plain_repository, there)
    states = {"one": set(first.adds), "two": {*first.adds, *second.adds, *third.adds}}
    for how, kept in (("ours", "two" if turned else "one"), ("theirs", "one" if turned else "two")):
        made = merge(plain_repository, there, on_conflict=how)  # type: ignore[arg-type]
        assert [each.fact.target for each in plain_repository.live_facts(made.id)] == [kept]
        assert plain_repository.state(made.id) == states[kept]
        plain_repository.undo()


def test_cherry_pick_puts_the_columns_in(world: World, repository: Repository, sides: Callable[..., Sides]) -> None:
    common, our, their = sides([(1, None)], [(2, None)])
    made = cherry_pick(repository, ["side"])
    commit = repository.commit(made.ids[0])
    assert commit.kind == "cherry-pick"
    assert commit.parents == (our.id,)
    assert commit.patches == their.patches
    assert commit.details == {"picks": their.id}
    assert commit.subject == "theirs"
    assert repository.state(commit.id) == {*common.adds, *our.adds, *their.adds}
    with pytest.raises(MemitVCError, match="here already"):
        cherry_pick(repository, ["side"])
    # the same patch on both sides counts once
    assert merge(repository, "side").state == made.state


def test_a_range_is_picked_in_one_operation(world: World, repository: Repository) -> None:
    start = world.commit(repository, [fact(0)])
    switch_to_new(repository, "side")
    commits = [world.commit(repository, [fact(n)], message=f"m{n}") for n in (1, 2, 3)]
    switch(repository, "main")
    cherry_pick(repository, [commits[1].id])
    before = len(repository.operations())
    made = cherry_pick(repository, [f"{start.id}..side"])
    assert made.skipped == (commits[1].id,)
    assert [repository.commit(c).subject for c in made.ids] == ["m1", "m3"]
    assert len(repository.operations()) == before + 1
    assert made.state == repository.state_id(repository.state(commits[2].id))


def test_picking_a_revert_takes_out(world: World, repository: Repository) -> None:
    one = world.commit(repository, [fact(1)])
    create_branch(repository, "side")
    out = revert(repository, [one.id])
    switch(repository, "side")
    world.commit(repository, [fact(2)])
    made = cherry_pick(repository, [out.id])
    assert (made.added, made.removed) == (0, 1)
    assert one.adds[0] not in repository.state(made.ids[0])


def test_a_pick_that_contradicts(world: World, repository: Repository, sides: Callable[..., Sides]) -> None:
    _, our, _ = sides([(1, "ours")], [(1, "theirs"), (2, None)])
    head = repository.head()
    with pytest.raises(ConflictError, match="picking"):
        cherry_pick(repository, ["side"])
    assert repository.head() == head
    made = cherry_pick(repository, ["side"], on_conflict="theirs")
    assert repository.commit(made.ids[0]).removes == our.adds
    repository.undo()
    made = cherry_pick(repository, ["side"], on_conflict="ours")
    assert len(repository.commit(made.ids[0]).adds) == 1
    root = repository.log([head.commit])[-1].id
    with pytest.raises(MemitVCError, match="base itself"):
        cherry_pick(repository, [root])


def test_branches_and_switches(world: World, repository: Repository) -> None:
    one = world.commit(repository, [fact(1)])
    create_branch(repository, "side", "HEAD~1")
    with pytest.raises(MemitVCError, match="exists already"):
        create_branch(repository, "side")
    assert [(b.name, b.current) for b in branches(repository)] == [("main", True), ("side", False)]
    rename_branch(repository, None, "trunk")
    assert repository.head().branch == "trunk"
    switch(repository, "side")
    world.commit(repository, [fact(2)])
    switch_detached(repository, one.id)
    assert repository.head().branch is None
    world.commit(repository, [fact(3)])
    switch(repository, "-")
    assert repository.head().branch == "side"
    with pytest.raises(MemitVCError, match="HEAD is on"):
        delete_branch(repository, "side")
    switch(repository, "trunk")
    with pytest.raises(MemitVCError, match="no other branch"):
        delete_branch(repository, "side")
    delete_branch(repository, "side", force=True)
    assert [b.name for b in branches(repository)] == ["trunk"]
    repository.undo()
    assert [b.name for b in branches(repository)] == ["side", "trunk"]
