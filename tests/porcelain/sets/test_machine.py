"""Any sequence of verbs against plain sums: equal sets, and equal bytes of every tensor, after every step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast

import pytest
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
from memit_vc.numerics.exact.patchfile import check_patch
from memit_vc.objects import CommitId, Fact, Patch, PatchId
from memit_vc.porcelain.editing.models import LoadedModel
from memit_vc.porcelain.recomputing.compress import compress
from memit_vc.porcelain.recomputing.rebase import rebase
from memit_vc.porcelain.sets.amend import amend_message
from memit_vc.porcelain.sets.branch import create_branch
from memit_vc.porcelain.sets.cherry_pick import cherry_pick
from memit_vc.porcelain.sets.commit_kept import commit_kept
from memit_vc.porcelain.sets.contradictions import settle
from memit_vc.porcelain.sets.merge import merge
from memit_vc.porcelain.sets.revert import Reverted, revert
from memit_vc.porcelain.sets.squash import squash
from memit_vc.porcelain.sets.switch import switch, switch_detached
from memit_vc.porcelain.sets.tag import create_tag
from memit_vc.porcelain.state import LiveState
from memit_vc.porcelain.upkeep.gc import collect_garbage
from memit_vc.repository import Repository
from memit_vc.vcs.contradictions import OnConflict
from tests.support.algebra.plain import Place, Plain, Refused, State, Voice
from tests.support.algebra.world import World, fact

_T = TypeVar("_T")
_ANY = st.integers(0, 40)
_VERBS = (
    *["commit"] * 5,
    *["cancel", "cancel", "revert", "revert", "revert fact", "revert last"],
    *["merge", "merge", "pick", "squash", "squash"],
    *["branch", "switch", "switch", "detach", "amend", "undo", "redo", "restore", "gc", "reopen", "compress", "tag"],
    *["keep", "commit kept", "rebase", "replace all"],
)


@dataclass
class Computed:
    """A batch as `compute_batch` gives it, with factors that no engine made."""

    patch: Patch
    survived: float = 1.0
    warnings: tuple[str, ...] = ()

    def store(self) -> None:
        """Its blobs are stored already."""

    def evaluations(self, *_: object) -> list[object]:
        return []


@contextmanager
def computing(make: Callable[[list[Fact]], Patch]) -> Iterator[LoadedModel]:
    """`rebase` computes its batches by `make`; the model that it is given is none."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "memit_vc.porcelain.editing.batch.compute_batch", lambda _, facts, __, **___: Computed(make(facts))
        )
        yield cast(LoadedModel, object())


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
            self.commit([number], "north", "stop", False)
        self.branch(count)

    @rule(
        verb=st.sampled_from(_VERBS),
        first=_ANY,
        second=st.integers(0, 9),
        numbers=st.lists(st.integers(0, 6), min_size=1, max_size=4, unique=True),
        answer=st.sampled_from(["north", "south", "west"]),
        how=st.sampled_from(["stop", "ours", "theirs", "theirs", "keep-both"]),
    )
    def step(self, verb: str, first: int, second: int, numbers: list[int], answer: str, how: OnConflict) -> None:
        # one rule for all verbs: with a rule for each, Hypothesis leaves most of them out of any one sequence
        actions: dict[str, Callable[[], None]] = {
            "commit": lambda: self.commit(numbers, answer, how, len(numbers) > 1 and first % 4 == 0),
            "cancel": lambda: self.cancel(first, second),
            "replace all": self.replace_all,
            "revert": lambda: self.revert(first, second, how),
            "revert fact": lambda: self.revert_fact(first, second, how),
            "revert last": lambda: self.revert_last(1 + second % 4),
            "branch": lambda: self.branch(first),
            "tag": lambda: self.tag(first),
            "switch": lambda: self.switch(first),
            "detach": lambda: self.detach(first),
            "merge": lambda: self.merge(first, how),
            "pick": lambda: self.pick(first, how),
            "squash": lambda: self.squash(first % 3, 1 + second % 5),
            "compress": lambda: self.compress([0.1, 0.5, 0.9][second % 3]),
            "amend": self.amend,
            "undo": self.undo,
            "redo": self.redo,
            "restore": lambda: self.restore(first),
            "keep": lambda: self.keep(numbers, answer),
            "commit kept": lambda: self.commit_kept(first, how),
            "rebase": lambda: self.rebase(first),
            "gc": lambda: self.gc([None, None, 3, 1][second % 4]),
            "reopen": self.reopen,
        }
        actions[verb]()

    def commit(self, numbers: list[int], answer: str, how: OnConflict, dense: bool) -> None:
        batch = [fact(n, answer) for n in numbers]
        try:
            facts, gone = self.plain.committed(batch, how)
        except Refused:
            self._refused(lambda: settle(LiveState.of_head(self.repository), batch, how))
            return
        settled = settle(LiveState.of_head(self.repository), batch, how)
        assert (list(settled.facts), settled.replaced) == (facts, gone)
        patch = self._patch(facts, dense=dense and len(facts) > 1)
        made = self.world.commit(self.repository, facts, patch=patch, removes=gone, message=self._name())
        self._advance(made.id, (self.plain.place.commit,), (self.plain.state - gone) | set(patch.columns))

    def _patch(self, facts: list[Fact], *, dense: bool = False, role: Literal["edit", "cancel"] = "edit") -> Patch:
        patch = self.world.patch(self.repository, facts, seed=next(self.serial), dense=dense, role=role)
        self.plain.deltas.update(self.world.plain(self.repository, patch))
        told = [tuple(facts)] if dense else [(each,) for each in facts]
        self.plain.facts.update(zip(patch.columns, told, strict=True))
        self.plain.cancels.update(patch.columns if role == "cancel" else ())
        return patch

    def cancel(self, which: int, count: int) -> None:
        """As `revert --resolve` leaves a state: what takes a fact out stands beside what put it in."""
        live = sorted(self.plain.live(self.plain.state), key=lambda each: each.id)[which % 3 :][: 1 + count % 3]
        if not live:
            return
        patch = self._patch(live, dense=len(live) > 1 and count > 7, role="cancel")
        made = self.world.commit(self.repository, live, patch=patch, message=self._name(), kind="revert")
        self._advance(made.id, (self.plain.place.commit,), self.plain.state | set(patch.columns))

    def replace_all(self) -> None:
        """As `squash --resolve` leaves a state: every live fact in a column of its own, everything else out."""
        live = sorted(self.plain.live(self.plain.state), key=lambda each: each.id)
        if not live:
            return
        patch, gone = self._patch(live), self.plain.state
        made = self.world.commit(self.repository, live, patch=patch, removes=gone, message=self._name(), kind="squash")
        self._advance(made.id, (self.plain.place.commit,), frozenset(patch.columns))

    def revert(self, which: int, more: int, how: OnConflict) -> None:
        """One commit or two, of this history or, sometimes, of any."""
        known = self._history() if more % 4 else self._everything()
        commits = [commit for commit in known if self.plain.parents[commit]]
        if not commits:
            return
        chosen = [self._any(commits, which), *([self._any(commits, which + more)] if more > 6 else [])]
        self._revert(chosen, how, lambda wanted: wanted, None)

    def revert_fact(self, which: int, number: int, how: OnConflict) -> None:
        if self._at_root():
            return
        target = self._any(self._history()[:-1], which)
        subject = fact(number).subject

        def of_subject(wanted: State) -> State:
            here = self.plain.state
            named = {c: [f for f in self.plain.facts[c] if f.subject == subject] for c in here ^ wanted}
            changed = {column for column, facts in named.items() if facts}
            told = {f for c in changed & here for f in named[c]} or {f for c in changed for f in named[c]}
            if len(told) > 1:
                raise Refused  # one name for two answers
            if any(len(self.plain.facts[column]) > 1 for column in changed):
                raise Refused
            return here ^ frozenset(changed)

        self._revert([target], how, of_subject, subject)

    def _revert(
        self, chosen: list[CommitId], how: OnConflict, part: Callable[[State], State], subject: str | None
    ) -> None:
        state = self.plain.state
        order = [commit for commit in self._log(*self.plain.place.all) if commit in chosen]
        voices = [Voice(self.plain.before(c), self.plain.live(self.plain.before(c))) for c in order]

        def act(message: str | None = None) -> Reverted:
            return revert(self.repository, list(chosen), fact=subject, on_conflict=how, message=message)

        try:
            expected = self.plain.joined(part(self.plain.reverted(state, order)), state, voices, how)
        except Refused:
            self._refused(act)
            return
        if expected == state:
            self._refused(act)
            return
        self._advance(act(self._name()).id, (self.plain.place.commit,), expected)

    def revert_last(self, count: int) -> None:
        """The last commits of a line, whatever they did, taken back together: the state before them, to the bit."""
        start = self.plain.place.commit
        for _ in range(count):
            if len(self.plain.parents[start]) != 1:
                return
            start = self._back(start, 1)
        if self.plain.states[start] == self.plain.state:
            return
        made = revert(self.repository, [f"{start}..HEAD"], message=self._name())
        self._advance(made.id, (self.plain.place.commit,), self.plain.states[start])

    def keep(self, numbers: list[int], answer: str) -> None:
        """As a commit leaves a patch whose branch moved while it was computed."""
        facts = [fact(n, answer) for n in numbers]
        patch = self._patch(facts)
        self.repository.keep_patch(
            patch, facts, parent=self.plain.place.commit, message=self._name(), details={"survived": 1.0}
        )
        self.plain.kept[patch.id] = patch.columns

    def commit_kept(self, which: int, how: OnConflict) -> None:
        waiting = self._waiting()
        if not waiting:
            return
        patch = self._any(waiting, which)
        live, state = self.plain.live(self.plain.state), self.plain.state
        new = frozenset(column for column in self.plain.kept[patch] if self.plain.facts[column][0] not in live)
        try:
            expected = self.plain.joined(state | new, state, [Voice(new, self.plain.live(new))], how)
        except Refused:
            self._refused(lambda: commit_kept(self.repository, patch, on_conflict=how))
            return
        if expected <= state:
            self._refused(lambda: commit_kept(self.repository, patch, on_conflict=how))
            return
        made = commit_kept(self.repository, patch, on_conflict=how, message=self._name())
        self._advance(made.id, (self.plain.place.commit,), expected)

    def rebase(self, which: int) -> None:
        """Batches are computed again: what a commit says it did is taken from it, what holds of the state is not."""
        onto = self._any([commit for _, commit in self.plain.place.branches], which)
        before = self._snapshot()
        with computing(self._patch) as loaded:
            try:
                made = rebase(self.repository, onto, scores=False, loaded=loaded)
            except MemitVCError:
                assert self._snapshot() == before
                return
        for new in reversed(self._log(made.id)):
            if new not in self.plain.parents:
                commit = self.repository.commit(new)
                (parent,) = commit.parents
                assert set(commit.removes) <= self.plain.states[parent]
                self.plain.add(new, (parent,), (self.plain.states[parent] - set(commit.removes)) | set(commit.adds))
        assert onto in self.plain.ancestors([made.id])
        self._moved(self.plain.place.moved(made.id))

    def branch(self, which: int) -> None:
        if len(self.plain.place.branches) > 3:
            return
        target = self._any(self._history(), which)
        name = f"branch-{next(self.serial)}"
        create_branch(self.repository, name, target)
        self._moved(self.plain.place.with_branch(name, target))

    def tag(self, which: int) -> None:
        if len(self.plain.place.tags) > 2:
            return
        target = self._any(self._history(), which)
        name = f"tag-{next(self.serial)}"
        create_tag(self.repository, name, target)
        self._moved(self.plain.place.with_tag(name, target))

    def switch(self, which: int) -> None:
        others = [name for name in sorted(self.plain.place.tips) if name != self.plain.place.head]
        if not others:
            return
        name = self._any(others, which)
        switch(self.repository, name)
        self._moved(self.plain.place.at(name))

    def detach(self, which: int) -> None:
        target = self._any(self._history(), which)
        switch_detached(self.repository, target)
        self._moved(self.plain.place.at(target))

    def merge(self, which: int, how: OnConflict) -> None:
        ours = self.plain.place.commit
        tips = [commit for _, commit in self.plain.place.branches]
        theirs = self._any([tip for tip in tips if tip not in self.plain.ancestors([ours])] or tips, which)
        if theirs in self.plain.ancestors([ours]):
            assert merge(self.repository, theirs).how == "up-to-date"
        elif ours in self.plain.ancestors([theirs]):
            assert merge(self.repository, theirs).how == "fast-forward"
            self._moved(self.plain.place.moved(theirs))
        else:
            theirs_state = self.plain.states[theirs]
            voice = Voice(theirs_state, self.plain.live(theirs_state), wins=True)
            try:
                expected = self.plain.joined(self.plain.merged(ours, theirs), self.plain.states[ours], [voice], how)
            except Refused:
                self._refused(lambda: merge(self.repository, theirs, on_conflict=how), ConflictError)
                return
            made = merge(self.repository, theirs, on_conflict=how, message=self._name())
            self._advance(made.id, (ours, theirs), expected)

    def pick(self, which: int, how: OnConflict) -> None:
        here = self.plain.ancestors([self.plain.place.commit])
        away = [commit for commit in self._everything() if commit not in here]
        target = self._any(away or self._everything(), which)
        adds, removes = self.plain.change(target)
        state, there = self.plain.state, self.plain.states[target]
        told = {each for column in adds | removes for each in self.plain.facts[column]}
        voice = Voice(there, self.plain.live(there) & told)
        try:
            expected = self.plain.joined((state - removes) | adds, state, [voice], how)
        except Refused:
            self._refused(lambda: cherry_pick(self.repository, [target], on_conflict=how))
            return
        if expected == state:
            self._refused(lambda: cherry_pick(self.repository, [target], on_conflict=how))
            return
        made = cherry_pick(self.repository, [target], on_conflict=how, message=self._name())
        self._advance(made.ids[0], (self.plain.place.commit,), expected)

    def squash(self, behind: int, length: int) -> None:
        start = end = self._back(self.plain.place.commit, behind)
        for _ in range(length):
            start = self._back(start, 1)
        before, old = self._snapshot(), self.plain.state
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
                parent = self.plain.states[commit.parents[0]]
                self.plain.add(new, commit.parents, (parent - set(commit.removes)) | set(commit.adds))
        assert self.plain.states[made.tip] == old
        self._moved(self.plain.place.moved(made.tip))

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
        live = tuple(self.plain.live(state))
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
        if not self.plain.done:
            self._refused(self.repository.undo, UsageError)
            return
        self.plain.undo(self.repository.undo().id)

    def redo(self) -> None:
        if not self.plain.undone:
            self._refused(self.repository.redo, UsageError)
            return
        self.plain.redo(self.repository.redo().id)

    def restore(self, which: int) -> None:
        if not self.plain.operations:
            return
        number, _, after = self._any(self.plain.operations, which)
        self.repository.restore(number)
        self._moved(after)

    def _waiting(self) -> list[PatchId]:
        return sorted(patch for patch in self.plain.kept if not self.plain.holds(self.plain.place, patch))

    def _moved(self, place: Place) -> None:
        self.plain.move(place, self.repository.operations(1)[0].id)

    def gc(self, keep: int | None) -> None:
        collect_garbage(self.repository, grace=0.0, keep_operations=keep)
        if keep is not None:
            self.plain.prune(keep)
            self.plain.forget_kept()
        assert collect_garbage(self.repository, grace=0.0, keep_operations=None).commits == 0

    def reopen(self) -> None:
        root = self.repository.directory
        self.repository.close()
        self.repository = Repository.open(root)

    @invariant()
    def the_same(self) -> None:
        head = self.repository.head()
        assert (head.branch or head.commit) == self.plain.place.head
        assert self.repository.refs() == {
            **{f"heads/{n}": c for n, c in self.plain.place.branches},
            **{f"tags/{n}": c for n, c in self.plain.place.tags},
        }
        assert sorted(self.repository.kept_patches()) == self._waiting()
        assert self.repository.state(head.commit) == self.plain.state
        live = [entry.fact for entry in self.repository.live_facts(head.commit)]
        assert len(live) == len(set(live))
        assert set(live) == self.plain.live(self.plain.state)
        # no column that takes a fact out stands alone
        edited = {each for c in self.plain.state - self.plain.cancels for each in self.plain.facts[c]}
        assert all(edited.issuperset(self.plain.facts[c]) for c in self.plain.state & self.plain.cancels)
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
        self._moved(self.plain.place.moved(commit))

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
