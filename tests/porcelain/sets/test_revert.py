"""`revert`: the inverse of a change, as far as the change still stands; and what holds of the state that comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from memit_vc.errors import ConflictError, MemitVCError, RevisionError, UsageError
from memit_vc.porcelain.sets.cherry_pick import cherry_pick
from memit_vc.porcelain.sets.commit_kept import commit_kept
from memit_vc.porcelain.sets.contradictions import settle
from memit_vc.porcelain.sets.merge import merge
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sets.squash import squash
from memit_vc.porcelain.sets.switch import switch, switch_to_new
from memit_vc.porcelain.state import LiveState
from memit_vc.porcelain.upkeep.gc import collect_garbage
from memit_vc.repository import Repository
from tests.support.algebra.world import World, fact


def targets(repository: Repository) -> list[tuple[str, str]]:
    return sorted((e.fact.subject, e.fact.target) for e in repository.live_facts(repository.head().commit))


def here(repository: Repository) -> frozenset[str]:
    return repository.state(repository.head().commit)


def test_the_middle_of_a_chain_of_replacements_is_not_there_any_more(world: World, repository: Repository) -> None:
    one = world.commit(repository, [fact(1, "one")])
    two = world.commit(repository, [fact(1, "two")], removes=one.adds)
    three = world.commit(repository, [fact(1, "three")], removes=two.adds)
    with pytest.raises(MemitVCError, match="nothing to revert"):
        revert(repository, [two.id])
    assert targets(repository) == [("City 1", "three")]
    revert(repository, [two.id, three.id])
    assert targets(repository) == [("City 1", "one")]
    repository.undo()
    revert(repository, ["HEAD~2..HEAD"])
    assert targets(repository) == [("City 1", "one")]
    repository.undo()
    revert(repository, [three.id])
    assert targets(repository) == [("City 1", "two")]


def test_inverses_are_applied_the_newest_first(world: World, repository: Repository) -> None:
    one = world.commit(repository, [fact(1)])
    out = revert(repository, [one.id])
    for order in ([one.id, out.id], [out.id, one.id]):
        with pytest.raises(MemitVCError, match="nothing to revert"):
            revert(repository, order)
    with pytest.raises(RevisionError, match="no commit is in that range"):
        revert(repository, ["HEAD..HEAD~1"])


def test_what_comes_back_may_contradict_what_is_live(world: World, repository: Repository) -> None:
    old = world.commit(repository, [fact(1, "a"), fact(2)])
    out = revert(repository, [old.id])
    new = world.commit(repository, [fact(1, "b")])
    before = repository.refs(), repository.operations()
    with pytest.raises(ConflictError) as stopped:
        revert(repository, [out.id])
    assert stopped.value.exit_code == 13
    for part in ("ours 'b'", new.id[:10], "theirs 'a'", old.id[:10]):
        assert part in stopped.value.message
    (record,) = stopped.value.conflicts
    assert (record["subject"], record["prompt"]) == ("City 1", "City 1 lies in")
    assert (repository.refs(), repository.operations()) == before
    for how, expected in (("ours", ["b"]), ("theirs", ["a"]), ("keep-both", ["a", "b"])):
        made = revert(repository, [out.id], on_conflict=how)  # type: ignore[arg-type]
        assert targets(repository) == [*(("City 1", target) for target in expected), ("City 2", "land 2")]
        assert repository.commit(made.id).details["on_conflict"] == how
        repository.undo()


def test_two_answers_that_both_come_back_are_taken_one_by_one(world: World, repository: Repository) -> None:
    one = world.commit(repository, [fact(1, "a")])
    first = revert(repository, [one.id])
    two = world.commit(repository, [fact(1, "b")])
    second = revert(repository, [two.id])
    both = [first.id, second.id]
    with pytest.raises(ConflictError, match="a contradiction"):
        revert(repository, both)
    with pytest.raises(ConflictError) as stopped:
        revert(repository, both, on_conflict="theirs")
    assert "one commit after the other" in str(stopped.value.hint)
    with pytest.raises(MemitVCError, match="nothing to revert"):
        revert(repository, both, on_conflict="ours")


def test_a_fact_that_was_edited_in_again_counts_twice_and_that_is_said(world: World, repository: Repository) -> None:
    one = world.commit(repository, [fact(1)])
    out = revert(repository, [one.id])
    world.commit(repository, [fact(1)], seed=3)
    made = revert(repository, [out.id])
    assert "counts twice (City 1)" in made.warnings[0]
    # `commit --theirs` replaces it in both columns
    settled = settle(LiveState.of_head(repository), [fact(1, "elsewhere")], "theirs")
    assert settled.replaced == here(repository)


def test_a_commit_of_another_history_replaces_nothing_here(world: World, repository: Repository) -> None:
    switch_to_new(repository, "side")
    a = world.commit(repository, [fact(1, "a")])
    b = world.commit(repository, [fact(1, "b")], removes=a.adds)
    switch(repository, "main")
    with pytest.raises(MemitVCError, match="nothing to revert"):
        revert(repository, [b.id])


def test_a_cancel_column_leaves_with_its_edit_column(world: World, repository: Repository) -> None:
    one = world.commit(repository, [fact(1), fact(2)])
    cancel = world.cancel(repository, [fact(1), fact(2)])
    assert targets(repository) == []
    made = revert(repository, [one.id], fact="City 1")
    assert made.removed == 2
    assert "taken out with --resolve (City 1)" in made.warnings[0]
    repository.undo()
    out = revert(repository, [one.id])
    assert here(repository) == frozenset()
    # and comes back with it
    revert(repository, [out.id])
    assert here(repository) == {*one.adds, *cancel.adds}
    assert targets(repository) == []
    revert(repository, [cancel.id])
    assert targets(repository) == [("City 1", "land 1"), ("City 2", "land 2")]


def test_a_cancel_column_of_several_facts_does_not_leave_for_one(world: World, repository: Repository) -> None:
    one = world.commit(repository, [fact(1), fact(2)])
    world.cancel(repository, [fact(1), fact(2)], dense=True)
    with pytest.raises(ConflictError, match="cannot be split") as stopped:
        revert(repository, [one.id], fact="City 1")
    assert "squash --resolve" in str(stopped.value.hint)
    revert(repository, [one.id])
    assert here(repository) == frozenset()


def test_one_fact_of_a_patch_that_cannot_be_split_does_not_leave(world: World, repository: Repository) -> None:
    batch = [fact(1), fact(2)]
    one = world.commit(repository, batch, patch=world.patch(repository, batch, dense=True))
    with pytest.raises(ConflictError, match="a patch of 2 facts, which cannot be split") as stopped:
        revert(repository, [one.id], fact="City 1")
    assert "--resolve" in str(stopped.value.hint)
    assert here(repository) == set(one.adds)


def test_what_was_taken_out_since_stays_out_when_a_squash_is_reverted(world: World, repository: Repository) -> None:
    """A commit that put other columns in the place of the same facts, as `squash --resolve` does."""
    one = world.commit(repository, [fact(1), fact(2), fact(3)])
    solved = world.patch(repository, [fact(1), fact(2), fact(3)], seed=8)
    squashed = world.commit(repository, [fact(1)], patch=solved, removes=one.adds)
    other = world.commit(repository, [fact(1, "x")], removes=[solved.columns[0]])
    world.cancel(repository, [fact(2)])
    revert(repository, [squashed.id])
    assert targets(repository) == [("City 1", "x"), ("City 3", "land 3")]
    (column,) = here(repository) - set(other.adds)
    assert column in one.adds


def test_a_pair_comes_back_with_what_it_was_part_of(world: World, repository: Repository) -> None:
    one = world.commit(repository, [fact(1), fact(2)])
    cancel = world.cancel(repository, [fact(1)])
    solved = world.patch(repository, [fact(2)], seed=8)
    squashed = world.commit(repository, [fact(2)], patch=solved, removes=[*one.adds, *cancel.adds])
    revert(repository, [squashed.id])
    assert here(repository) == {*one.adds, *cancel.adds}
    repository.undo()
    revert(repository, [squashed.id], fact="City 2")
    repository.undo()
    world.commit(repository, [fact(2, "other")], removes=solved.columns)
    with pytest.raises(MemitVCError, match="nothing to revert"):
        revert(repository, [squashed.id])


def test_a_name_that_fits_several_facts_is_refused(world: World, repository: Repository) -> None:
    import dataclasses

    other = dataclasses.replace(fact(1), prompt="City 1 has")
    one = world.commit(repository, [fact(1), other, fact(2)])
    with pytest.raises(RevisionError, match="names 2 facts") as stopped:
        revert(repository, [one.id], fact="City 1")
    for each in (fact(1), other):
        assert each.id[:10] in stopped.value.message
        assert each.prompt in stopped.value.message
    with pytest.raises(UsageError, match="--fact is empty"):
        revert(repository, [one.id], fact=" ")
    revert(repository, [one.id], fact=other.id[:8])
    assert targets(repository) == [("City 1", "land 1"), ("City 2", "land 2")]


def test_one_fact_of_a_batch_that_replaced_others(world: World, repository: Repository) -> None:
    old = world.commit(repository, [fact(1, "a"), fact(2, "a")])
    new = world.commit(repository, [fact(1, "b"), fact(2, "b")], removes=old.adds)
    made = repository.commit(revert(repository, [new.id], fact="City 1").id)
    assert targets(repository) == [("City 1", "a"), ("City 2", "b")]
    assert made.subject == f'Revert "City 1" of "{new.subject}"'
    assert all(f"({each.id[:10]})" in made.message for each in (fact(1, "a"), fact(1, "b")))


def test_what_was_computed_on_top(world: World, repository: Repository) -> None:
    switch_to_new(repository, "side")
    world.commit(repository, [fact(2)], message="apart")
    switch(repository, "main")
    one = world.commit(repository, [fact(1)], message="one")
    merge(repository, "side")
    assert revert(repository, [one.id]).later == ()
    repository.undo()
    two = world.commit(repository, [fact(3)], message="two")
    assert revert(repository, [one.id]).later == (two.id,)


def test_what_was_computed_on_top_is_told_after_a_squash(world: World, repository: Repository) -> None:
    for number in (1, 2, 3):
        world.commit(repository, [fact(number)])
    squashed = squash(repository)
    later = world.commit(repository, [fact(4)])
    assert revert(repository, [squashed.id], fact="City 2").later == (squashed.id, later.id)
    repository.undo()
    assert revert(repository, [squashed.id], fact="City 3").later == (later.id,)
    repository.undo()
    # also where the squash itself was squashed
    squashed = squash(repository)
    assert revert(repository, [squashed.id], fact="City 2").later == (squashed.id,)
    repository.undo()
    assert revert(repository, [squashed.id], fact="City 4").later == ()


def test_a_fact_names_the_commit_that_first_brought_it_in(world: World, repository: Repository) -> None:
    switch_to_new(repository, "side")
    side = world.commit(repository, [fact(2)])
    switch(repository, "main")
    one = world.commit(repository, [fact(1)])
    made = merge(repository, "side")
    assert {e.fact.subject: e.commit for e in repository.live_facts(made.id)} == {"City 1": one.id, "City 2": side.id}
    out = revert(repository, [one.id])
    back = revert(repository, [out.id])
    assert {e.fact.subject: e.commit for e in repository.live_facts(back.id)} == {"City 1": one.id, "City 2": side.id}


def test_a_cancelled_fact_that_revives_is_compared_with_what_is_live(world: World, repository: Repository) -> None:
    one = world.commit(repository, [fact(1, "a")])
    cancel = world.cancel(repository, [fact(1, "a")])
    switch_to_new(repository, "side")
    revived = revert(repository, [cancel.id])
    switch(repository, "main")
    world.commit(repository, [fact(1, "b")])
    state = here(repository)
    for verb in (lambda: merge(repository, "side"), lambda: cherry_pick(repository, [revived.id])):
        with pytest.raises(ConflictError, match="ours 'b'"):
            verb()
    # our side keeps the columns that take the other answer out
    merge(repository, "side", on_conflict="ours")
    assert here(repository) == state
    repository.undo()
    merge(repository, "side", on_conflict="theirs")
    assert here(repository) == set(one.adds)


@pytest.mark.parametrize("verb", ["merge", "pick", "patch"])
def test_an_edit_column_that_comes_in_beside_a_cancelled_one(world: World, repository: Repository, verb: str) -> None:
    one = world.commit(repository, [fact(1)])
    switch_to_new(repository, "side")
    revert(repository, [one.id])
    again = world.commit(repository, [fact(1)], seed=9)
    switch(repository, "main")
    world.cancel(repository, [fact(1)])
    if verb == "merge":
        merge(repository, "side")
    elif verb == "pick":
        cherry_pick(repository, [again.id])
    else:
        patch = world.patch(repository, [fact(1)], seed=9)
        repository.keep_patch(patch, [fact(1)], parent=repository.head().commit, message="late", details={})
        commit_kept(repository, patch.id)
    assert here(repository) == set(again.adds)
    assert targets(repository) == [("City 1", "land 1")]


def test_a_fact_cancelled_on_both_sides_leaves_whole(world: World, repository: Repository) -> None:
    world.commit(repository, [fact(0)])
    world.commit(repository, [fact(1)])
    switch_to_new(repository, "side")
    world.cancel(repository, [fact(1)], seed=1)
    switch(repository, "main")
    world.cancel(repository, [fact(1)], seed=2)
    merge(repository, "side")
    assert len(here(repository)) == 1
    assert targets(repository) == [("City 0", "land 0")]


def test_a_pick_of_what_is_here_and_cancelled_says_so(world: World, repository: Repository) -> None:
    one = world.commit(repository, [fact(1)])
    world.cancel(repository, [fact(1)])
    with pytest.raises(MemitVCError, match="here already") as stopped:
        cherry_pick(repository, [one.id])
    assert "revert --resolve" in str(stopped.value.hint)


def test_a_kept_patch_is_never_lost(world: World, repository: Repository, tmp_path: Path) -> None:
    patch = world.patch(repository, [fact(1, "a")], seed=9)
    repository.keep_patch(patch, [fact(1, "a")], parent=repository.head().commit, message="late", details={})
    world.commit(repository, [fact(1, "b")])
    with pytest.raises(ConflictError, match=f"patch {patch.id[:10]}"):
        commit_kept(repository, patch.id)
    with pytest.raises(MemitVCError, match="it stays kept"):
        commit_kept(repository, patch.id, on_conflict="ours")
    assert repository.kept_patches() == [patch.id]
    commit_kept(repository, patch.id, on_conflict="theirs")
    assert repository.kept_patches() == []
    repository.undo()
    assert repository.kept_patches() == [patch.id]
    collect_garbage(repository, grace=0.0, keep_operations=0)
    assert repository.kept_patches() == [patch.id]
    commit_kept(repository, patch.id, on_conflict="theirs")
    collect_garbage(repository, grace=0.0, keep_operations=0)
    assert repository.kept_patches() == []
    with pytest.raises(RevisionError):
        repository.kept(patch.id)
