"""Any sequence of verbs against plain sums: equal sets, and equal bytes of every tensor, after every step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from memit_vc.errors import ConflictError, MemitVCError, UsageError
from memit_vc.numerics.patchfile import check_patch
from memit_vc.objects import CommitId
from memit_vc.porcelain.amend import amend_message
from memit_vc.porcelain.branch import create_branch
from memit_vc.porcelain.cherry_pick import cherry_pick
from memit_vc.porcelain.compress import compress
from memit_vc.porcelain.conflicts import OnConflict
from memit_vc.porcelain.merge import merge
from memit_vc.porcelain.revert import revert
from memit_vc.porcelain.squash import squash
from memit_vc.porcelain.switch import switch, switch_detached
from memit_vc.repository import Repository
from tests.algebra.plain import Place, Plain, State
from tests.algebra.world import World, fact

_T = TypeVar("_T")
_ANY = st.integers(0, 40)
_VERBS = (
    *["commit"] * 5,
    *["revert", "revert fact", "merge", "merge", "pick", "squash", "squash"],
    *["branch", "switch", "switch", "detach", "amend", "undo", "gc", "reopen", "compress"],
)


class Algebra(RuleBasedStateMachine):
    """The repository and the plain model, side by side. Commits are picked by their place in the log."""

    def __init__(self, world: World, directory: Path) -> None:
        super().__init__()
        self.world = world
        self.repository: Repository = world.copy(directory)
        root = self.repository.head().commit
        self.plain = Plain(Place((("main", root),), "main"), {root: ()}, {root: frozenset()})
        self.serial = itertools.count()

    @initialize(count=st.integers(2, 5))
    def start(self, count: int) -> None:
        for number in range(count):
            self.commit([number], "north", 0, False)
        self.branch(count)

    @rule(
        verb=st.sampled_from(_VERBS),
        first=_ANY,
        second=st.integers(0, 9),
        numbers=st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True),
        answer=st.sampled_from(["north", "south"]),
        how=st.sampled_from(["stop", "ours", "theirs", "keep-both"]),
    )
    def step(self, verb: str, first: int, second: int, numbers: list[int], answer: str, how: OnConflict) -> None:
        # one rule for all verbs: with a rule for each, Hypothesis leaves most of them out of any one sequence
        if verb == "commit":
            self.commit(numbers, answer, second % 2, dense=len(numbers) > 1 and first % 4 == 0)
        elif verb == "revert":
            self.revert_commit(first)
        elif verb == "revert fact":
            self.revert_fact(first, second)
        elif verb == "branch":
            self.branch(first)
        elif verb == "switch":
            self.switch(first)
        elif verb == "detach":
            self.detach(first)
        elif verb == "merge":
            self.merge(first, how)
        elif verb == "pick":
            self.pick(first, how)
        elif verb == "squash":
            self.squash(first % 3, 1 + second % 5)
        elif verb == "compress":
            self.compress([0.1, 0.5, 0.9][second % 3])
        elif verb == "amend":
            self.amend()
        elif verb == "undo":
            self.undo()
        elif verb == "gc":
            self.gc([None, None, 3, 1][second % 4])
        else:
            self.reopen()

    def commit(self, numbers: list[int], answer: str, seed: int, dense: bool) -> None:
        asked = {live.question for live in self.plain.live(self.plain.state)}
        facts = [fact(n, answer) for n in numbers if fact(n).question not in asked]
        if not facts:
            return
        patch = self.world.patch(self.repository, facts, seed=seed, dense=dense)
        made = self.world.commit(self.repository, facts, patch=patch, message=self._name())
        self.plain.deltas.update(self.world.plain(self.repository, patch))
        told = [tuple(facts)] if dense else [(each,) for each in facts]
        self.plain.facts.update(zip(patch.columns, told, strict=True))
        self._advance(made.id, (self.plain.place.commit,), self.plain.state | set(patch.columns))

    def revert_commit(self, which: int) -> None:
        if self._at_root():
            return
        target = self._any(self._history()[:-1], which)
        adds, removes = self.plain.change(target)
        self._revert(target, adds & self.plain.state, removes - self.plain.state, None)

    def revert_fact(self, which: int, number: int) -> None:
        if self._at_root():
            return
        target = self._any(self._history()[:-1], which)
        adds, removes = (
            frozenset(c for c in change if any(f.subject == fact(number).subject for f in self.plain.facts[c]))
            for change in self.plain.change(target)
        )
        if any(len(self.plain.facts[c]) > 1 for c in (adds & self.plain.state) | (removes - self.plain.state)):
            self._refused(lambda: revert(self.repository, [target], fact=fact(number).subject))
            return
        self._revert(target, adds & self.plain.state, removes - self.plain.state, fact(number).subject)

    def _revert(self, target: CommitId, out: State, back: State, subject: str | None) -> None:
        if not out and not back:
            self._refused(lambda: revert(self.repository, [target], fact=subject))
            return
        made = revert(self.repository, [target], fact=subject, message=self._name())
        self._advance(made.id, (self.plain.place.commit,), (self.plain.state - out) | back)

    def branch(self, which: int) -> None:
        if len(self.plain.place.branches) > 3:
            return
        target = self._any(self._history(), which)
        name = f"branch-{next(self.serial)}"
        create_branch(self.repository, name, target)
        self.plain.move(self.plain.place.with_branch(name, target))

    def switch(self, which: int) -> None:
        others = [name for name in sorted(self.plain.place.tips) if name != self.plain.place.head]
        if not others:
            return
        name = self._any(others, which)
        switch(self.repository, name)
        self.plain.move(Place(self.plain.place.branches, name))

    def detach(self, which: int) -> None:
        target = self._any(self._history(), which)
        switch_detached(self.repository, target)
        self.plain.move(Place(self.plain.place.branches, target))

    def merge(self, which: int, how: OnConflict) -> None:
        ours = self.plain.place.commit
        tips = [commit for _, commit in self.plain.place.branches]
        theirs = self._any([tip for tip in tips if tip not in self.plain.ancestors([ours])] or tips, which)
        if theirs in self.plain.ancestors([ours]):
            assert merge(self.repository, theirs).how == "up-to-date"
        elif ours in self.plain.ancestors([theirs]):
            assert merge(self.repository, theirs).how == "fast-forward"
            self.plain.move(self.plain.place.moved(theirs))
        else:
            sides = self.plain.states[ours], self.plain.states[theirs]
            expected = self.plain.settled(self.plain.merged(ours, theirs), *sides, how)
            if expected is None:
                self._refused(lambda: merge(self.repository, theirs, on_conflict=how), ConflictError)
                return
            made = merge(self.repository, theirs, on_conflict=how, message=self._name())
            self._advance(made.id, (ours, theirs), expected)

    def pick(self, which: int, how: OnConflict) -> None:
        here = self.plain.ancestors([self.plain.place.commit])
        away = [commit for commit in self._everything() if commit not in here]
        target = self._any(away or self._everything(), which)
        adds, removes = self.plain.change(target)
        wanted = (self.plain.state - removes) | adds
        expected = self.plain.settled(wanted, self.plain.state, adds, how)
        if expected is None or expected == self.plain.state:
            self._refused(lambda: cherry_pick(self.repository, [target], on_conflict=how))
            return
        made = cherry_pick(self.repository, [target], on_conflict=how, message=self._name())
        self._advance(made.ids[0], (self.plain.place.commit,), expected)

    def squash(self, behind: int, length: int) -> None:
        start = end = self._back(self.plain.place.commit, behind)
        for _ in range(length):
            start = self._back(start, 1)
        known = {self.repository.commit(c).message: c for c in self.plain.ancestors([self.plain.place.commit])}
        before = self._snapshot()
        try:
            made = squash(self.repository, f"{start}..{end}", message=self._name())
        except MemitVCError:
            assert self._snapshot() == before
            assert self._tied(start, end)
            return
        assert not self._tied(start, end)
        self.plain.add(made.id, (start,), self.plain.states[end])
        for new in reversed(self._log(made.tip)):
            if new not in self.plain.parents:
                commit = self.repository.commit(new)
                self.plain.add(new, commit.parents, self.plain.states[known[commit.message]])
        self.plain.move(self.plain.place.moved(made.tip))

    def _tied(self, start: CommitId, end: CommitId) -> bool:
        """Whether one commit cannot stand for what is between `start` and `end`."""
        if start not in self.plain.ancestors([end]):
            return True
        inside = self.plain.ancestors([end]) - self.plain.ancestors([start])
        behind = self.plain.ancestors([self.plain.place.commit]) - self.plain.ancestors([end])
        return (
            len(inside) < 2
            or any(p not in inside and p != start for c in inside for p in self.plain.parents[c])
            or any(p in inside and p != end for c in behind for p in self.plain.parents[c])
        )

    def compress(self, tolerance: float) -> None:
        before, state = self._snapshot(), self.plain.state
        live = tuple(dict.fromkeys(self.plain.live(state)))
        said = None
        try:
            made = compress(self.repository, tolerance, message=self._name())
        except MemitVCError as error:
            said = error.message
        if said is not None:
            assert self._snapshot() == before
            assert not live or "no column can go" in said or said.startswith("column ")
            return
        patch = self.repository.patch(made.patch)
        self.plain.deltas.update(self.world.plain(self.repository, patch))
        self.plain.facts[patch.columns[0]] = live
        for weight in self.repository.weights():
            deltas = [self.plain.deltas[c][weight.name] for c in state if weight.name in self.plain.deltas[c]]
            if weight.name in made.ranks:
                exact, new = torch.stack(deltas).sum(dim=0), self.plain.deltas[patch.columns[0]][weight.name]
                assert (new - exact).norm() <= tolerance * exact.norm()
            else:
                assert not deltas or not torch.stack(deltas).sum(dim=0).any()
        self._advance(made.id, (self.plain.place.commit,), frozenset(patch.columns))

    def amend(self) -> None:
        if self._at_root():
            return
        old = self.plain.place.commit
        made = amend_message(self.repository, self._name())
        self._advance(made.id, self.plain.parents[old], self.plain.states[old])

    def undo(self) -> None:
        if not self.plain.operations:
            if len(self.repository.operations()) <= 1:
                self._refused(self.repository.undo, UsageError)
            return
        self.repository.undo()
        self.plain.move(self.plain.operations[-1][0])

    def gc(self, keep: int | None) -> None:
        self.repository.gc(grace=0.0, keep_operations=keep)
        if keep is not None:
            del self.plain.operations[:-keep]
        assert self.repository.gc(grace=0.0, keep_operations=None).commits == 0

    def reopen(self) -> None:
        root = self.repository.directory
        self.repository.close()
        self.repository = Repository.open(root)

    @invariant()
    def the_same(self) -> None:
        head = self.repository.head()
        assert (head.branch or head.commit) == self.plain.place.head
        assert self.repository.refs("heads/") == {f"heads/{n}": c for n, c in self.plain.place.branches}
        assert self.repository.state(head.commit) == self.plain.state
        live = [entry.fact for entry in self.repository.live_facts(head.commit)]
        assert set(live) == set(self.plain.live(self.plain.state))
        found = self.world.weights(self.repository, self.plain.state)
        for weight in self.repository.weights():
            deltas = [
                self.plain.deltas[c][weight.name] for c in self.plain.state if weight.name in self.plain.deltas[c]
            ]
            expected = self.world.summed(weight, deltas)
            assert torch.equal(found[weight.name].view(torch.int32), expected.contiguous().view(torch.int32))

    def teardown(self) -> None:
        assert self.repository.fsck(check_patch=check_patch) == []
        self.repository.close()

    def _at_root(self) -> bool:
        return not self.plain.parents[self.plain.place.commit]

    def _name(self) -> str:
        return f"message {next(self.serial)}"

    def _advance(self, commit: CommitId, parents: tuple[CommitId, ...], state: State) -> None:
        self.plain.add(commit, parents, state)
        self.plain.move(self.plain.place.moved(commit))

    def _back(self, commit: CommitId, steps: int) -> CommitId:
        """Along first parents, as far as there are any."""
        for _ in range(steps):
            commit = next(iter(self.plain.parents[commit]), commit)
        return commit

    def _log(self, *tips: CommitId) -> list[CommitId]:
        return [commit.id for commit in self.repository.log(tips)]

    def _history(self) -> list[CommitId]:
        return self._log(self.plain.place.commit)

    def _everything(self) -> list[CommitId]:
        return self._log(*self.plain.place.tips.values())

    @staticmethod
    def _any(items: list[_T], which: int) -> _T:
        return items[which % len(items)]

    def _snapshot(self) -> tuple[object, ...]:
        operations = [operation.id for operation in self.repository.operations()]
        return self.repository.refs(), self.repository.head(), operations

    def _refused(self, action: Callable[[], object], kind: type[MemitVCError] = MemitVCError) -> None:
        """The verb says no, and leaves everything as it was."""
        before = self._snapshot()
        try:
            action()
        except kind:
            assert self._snapshot() == before
        else:
            raise AssertionError("it should have been refused")


def test_any_sequence_of_verbs(world: World, tmp_path: Path) -> None:
    runs = itertools.count()
    # 20 sequences of up to 40 steps by default, 1000 in the nightly profile
    budget = settings(max_examples=settings().max_examples // 10, stateful_step_count=40)
    run_state_machine_as_test(lambda: Algebra(world, tmp_path / str(next(runs))), settings=budget)
