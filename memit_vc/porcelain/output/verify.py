"""`verify` proves which state a directory is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memit_vc.errors import IntegrityError, VerificationError
from memit_vc.objects import CommitId, StateId, short
from memit_vc.porcelain.base import checked_base
from memit_vc.porcelain.output.recorded import record_hashes, recorded_hashes
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, count, silent
from memit_vc.store.checkpoint import RECORD_FILE, Checkpoint
from memit_vc.store.jsoncache import read_or_empty
from memit_vc.vcs.graph import ancestors

if TYPE_CHECKING:
    from memit_vc.repository import Repository

MOST_COMPUTED = 20
"""States whose weights are computed for a directory that may hold none of them."""


@dataclass(frozen=True)
class Verified:
    """The state that a directory was proved to hold. `commits` have that state, `compared` tensors were hashed."""

    directory: Path
    state: StateId
    commits: tuple[CommitId, ...]
    is_base: bool
    compared: int
    recorded: StateId | None = None
    """Another state that the directory's own `memitvc.json` names: a switch was interrupted."""
    on_branch: bool = True
    """Whether a branch, a tag or HEAD reaches one of `commits`; if none does, they were undone or replaced."""


def verify(
    repository: Repository,
    directory: Path,
    *,
    expect: str | None = None,
    every: bool = False,
    progress: Progress = silent,
) -> Verified:
    """Prove by the hash of every tensor which state of this repository a model directory holds.

    It is compared with the states whose hashes are recorded, and with the likeliest others, `MOST_COMPUTED` of them or
    with `every` all. VerificationError if it holds none, or not the one of `expect`.
    """
    recorded = {tensor.name: tensor for tensor in repository.base().tensors}
    checkpoint = Checkpoint.find(directory).in_parts(recorded)
    there = {tensor.name: tensor for tensor in checkpoint.manifest(progress).tensors}
    found = {name: tensor.sha256 for name, tensor in there.items()}
    base = {name: tensor.sha256 for name, tensor in recorded.items()}
    editable = {weight.name for weight in repository.weights()}
    names = base.keys() | found.keys()
    foreign = sorted(
        name
        for name in names
        if (name not in editable and base.get(name) != found.get(name))
        or name not in there
        or (there[name].dtype, there[name].shape) != (recorded[name].dtype, recorded[name].shape)
    )
    shapes = {name: tensor.shape for name, tensor in there.items()}
    if foreign and shapes == {name: tensor.shape for name, tensor in recorded.items()}:
        dtypes = {(there[name].dtype, recorded[name].dtype) for name in names}
        if all(now != was for now, was in dtypes):
            now, was = min(dtypes)
            raise VerificationError(
                f"{directory}: its tensors are {now}, the base's are {was}; verify compares hashes, so the model must "
                "have the base's dtype",
                hint="Write such a model with `memitvc checkout`, or with `memitvc export --merged` without --dtype.",
            )
    if foreign:
        are = "is" if len(foreign) == 1 else "are"
        raise VerificationError(
            f"{directory}: {count(len(foreign), 'tensor')} that no edit touches {are} not the base's (missing, or of "
            f"other bytes, dtype or shape): {_first(foreign)}",
            hint="Check whether it is a model of another base, or was changed by something other than memit-vc.",
        )
    said = _recorded_state(directory)
    nearest: tuple[list[str], CommitId] | None = None
    computed = untried = 0
    for state, commits, on_branch in _candidates(repository, expect, said):
        if not every and recorded_hashes(repository, state) is None:
            if computed == MOST_COMPUTED:
                untried += 1
                continue
            computed += 1
        expected = {**{name: base[name] for name in editable}, **edited_hashes(repository, commits[0], state)}
        differing = sorted(name for name in editable if found[name] != expected[name])
        if not differing:
            if LiveState.at(repository, commits[0]).id != state:
                what = f"commit {short(commits[0])} is recorded with another state than its history gives"
                raise IntegrityError(what, hint="Run `memitvc fsck`.")
            is_base = all(expected[name] == base[name] for name in editable)
            return Verified(directory, state, commits, is_base, len(found), said if said != state else None, on_branch)
        if expect is not None:
            raise VerificationError(
                f"{directory} does not hold the state of {expect}: other bytes in {count(len(differing), 'tensor')}, "
                f"{_first(differing)}",
                hint="Run `memitvc verify DIR` without --expect to see which state it holds.",
            )
        if nearest is None or len(differing) < len(nearest[0]):
            nearest = differing, commits[0]
    differing, commit = nearest or ([], repository.head().commit)
    near = (
        f"The nearest is that of commit {short(commit)}: {len(differing)} of {len(found)} tensors differ from it, "
        f"{_first(differing)}"
    )
    if untried:
        raise VerificationError(
            f"{directory} does not hold a state that was tried. {near}. {count(untried, 'state')} whose hashes are not "
            "recorded were not tried",
            hint="Name one with --expect REV, or try all with --every, which computes the weights of each.",
        )
    raise VerificationError(
        f"{directory} does not hold a state of this repository. {near}",
        hint="Look for its repository, or check it out again: it may have been changed since.",
    )


def _first(names: Sequence[str]) -> str:
    return f"{names[0]}{'' if len(names) == 1 else ' first'}" if names else ""


def _recorded_state(directory: Path) -> StateId | None:
    """The state that `memitvc.json` names; None if it cannot be read. It proves nothing."""
    said = read_or_empty(directory / RECORD_FILE).get("state")
    return StateId(said) if isinstance(said, str) else None


def _candidates(
    repository: Repository, expect: str | None, said: StateId | None
) -> Iterator[tuple[StateId, tuple[CommitId, ...], bool]]:
    """States to compare with, and whether a ref reaches them. The likeliest come first: the state that the directory
    names, HEAD's, that of any other commit which a ref reaches, then commits that were undone or replaced and are still
    stored. Ids are those that were recorded with the commits: to compute all takes the square of the history's length.
    """
    if expect is not None:
        wanted = repository.resolve(expect)
        yield LiveState.at(repository, wanted).id, (wanted,), True
        return
    head = repository.head().commit
    reached = ancestors([head, *repository.refs().values()], repository.parents)
    recorded = repository.recorded_states()
    held: dict[bool, dict[StateId, list[CommitId]]] = {True: {}, False: {}}
    for commit in repository.stored_commits():
        held[commit in reached].setdefault(recorded[commit], []).append(commit)
    states = {**held[False], **held[True]}
    likely = [state for state in (said, recorded[head]) if state in states]
    for state in dict.fromkeys([*likely, *held[True], *held[False]]):
        yield state, tuple(states[state]), state in held[True]


def edited_hashes(repository: Repository, commit: CommitId, state: StateId) -> Mapping[str, str]:
    """SHA-256 of each edited tensor of a state: remembered, else materialised from the base."""
    stored = recorded_hashes(repository, state)
    if stored is not None:
        return stored
    made = state_hashes(LiveState.at(repository, commit))
    record_hashes(repository, state, made)
    return made


def state_hashes(state: LiveState) -> dict[str, str]:
    """SHA-256 of the bytes of each tensor that a state touches, as `checkout` would write them."""
    from memit_vc.numerics.exact.materialise import materialise
    from memit_vc.numerics.model.checkpoint_tensors import read_tensor, tensor_digest

    checkpoint = checked_base(state.repository)
    return {
        weight.name: tensor_digest(materialise(read_tensor(checkpoint, weight.name), state.terms(weight), weight))
        for weight in state.touched
    }
