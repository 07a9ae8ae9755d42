"""`blame`: which live commits and facts move the model's output at a prompt, and by how much."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memit_vc.edits import find_subject
from memit_vc.errors import MemitVCError, UsageError
from memit_vc.numerics.exact.patchfile import read_weight
from memit_vc.numerics.scores.influence import keys_at, output_norm, shift_norms
from memit_vc.numerics.scores.likelihood import continuations, greedy
from memit_vc.objects import ColumnId, CommitId, Fact, JsonValue, as_seen
from memit_vc.porcelain.editing.models import LoadedModel, model_of
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Blamed:
    """A live commit, or one fact of it (several if a dense patch holds them together).

    `influence` is ‖Δ k‖ / ‖W k‖ summed over the edited layers; `layers` has each share. `log_probability`, if it was
    measured, is the answer's without these columns.
    """

    commit: CommitId
    facts: tuple[Fact, ...]
    columns: frozenset[ColumnId]
    influence: float
    layers: Mapping[int, float]
    log_probability: float | None = None

    def to_json(self) -> JsonValue:
        return {
            "commit": self.commit,
            "facts": [{"id": fact.id, **fact.to_json()} for fact in self.facts],
            "influence": self.influence,
            "layers": {str(layer): share for layer, share in self.layers.items()},
            "log_probability": self.log_probability,
        }


@dataclass(frozen=True)
class Blame:
    """Commits and facts, the greatest influence first. `subject` None: the key is read at the prompt's last token.

    `log_probability` is the whole answer's, in nats, with every column in; None unless it was measured.
    """

    commit: CommitId
    prompt: str
    subject: str | None
    answer: str | None
    log_probability: float | None
    commits: tuple[Blamed, ...]
    facts: tuple[Blamed, ...]


def blame(
    repository: Repository,
    prompt: str,
    *,
    revision: str = "HEAD",
    subject: str | None = None,
    measure: bool = False,
    answer: str | None = None,
    limit: int = 10,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Blame:
    """Rank the commits and facts that are live at `revision` by how far they move the output at the prompt's key.

    The key is read at the last token of the subject: the one given, else that of the live facts with this very prompt,
    else a live fact's subject that occurs in the prompt, else a name in it that is certain, else the prompt's end. With
    `measure`, each of the first `limit` commits and facts is left out in turn, and the log-probability of the answer
    (default: the model's present one) is measured. MemitVCError if no edit is live.
    """
    if not prompt.strip():
        raise UsageError("the prompt is empty", hint="Give the words after which the model answers.")
    commit = repository.resolve(revision)
    state = LiveState.at(repository, commit)
    if not state.columns:
        raise MemitVCError(
            "nothing to blame: no edit is live, the answer is the base's own", hint="Name another REVISION."
        )
    if subject is None:
        subject = _subject(state, prompt)
    loaded = model_of(repository, loaded, progress=progress)
    layers = loaded.touched(state)
    with loaded.holding(state) as adapter:
        keys = keys_at(adapter, prompt, subject, layers)
        norms = {layer: output_norm(adapter, layer, keys[layer]) for layer in layers}
    by_commit, by_fact = _groups(state)
    commits = _ranked(loaded, state, by_commit, keys, norms)
    facts = _ranked(loaded, state, by_fact, keys, norms)
    if not measure:
        return Blame(commit, prompt, subject, None, None, commits, facts)
    probe = _Probe(loaded, prompt, answer, state)
    total = len(commits[:limit]) + len(facts[:limit])
    done = itertools.count()

    def measured(entries: Sequence[Blamed]) -> tuple[Blamed, ...]:
        found = []
        for entry in entries[:limit]:
            progress("leave one out", next(done), total)
            without = probe.log_probability(LiveState(repository, state.columns - entry.columns))
            found.append(replace(entry, log_probability=without))
        return (*found, *entries[limit:])

    commits, facts = measured(commits), measured(facts)
    progress("leave one out", total, total)
    return Blame(commit, prompt, subject, probe.answer, probe.log_probability(state), commits, facts)


def _subject(state: LiveState, prompt: str) -> str | None:
    """Of several live subjects in the prompt, the longest, if the others are parts of it."""
    facts = [live.fact for live in state.live]
    same = {fact.subject for fact in facts if as_seen(fact.prompt) == as_seen(prompt) and fact.subject in prompt}
    within = {fact.subject for fact in facts if re.search(rf"(?<!\w){re.escape(fact.subject)}(?!\w)", prompt)}
    for told in (same, within):
        longest = max(told, key=len, default=None)
        if longest is not None and all(subject in longest for subject in told):
            return longest
    found = find_subject(prompt)
    return None if found is None else found.text


class _Probe:
    """The log-probability of one answer to one prompt, on any state."""

    def __init__(
        self, loaded: LoadedModel, prompt: str, answer: str | None, state: LiveState, new_tokens: int = 4
    ) -> None:
        self._loaded, self._prompt = loaded, prompt
        self._target: str | tuple[int, ...]
        if answer is None:
            with loaded.holding(state) as adapter:
                written = greedy(adapter, [prompt], new_tokens=new_tokens)[0]
            answer, self._target = written.text, written.ids
        else:
            self._target = answer
        if not answer:
            raise MemitVCError(
                f"the model does not continue {prompt!r}", hint="Give the answer to measure with --answer."
            )
        self.answer = answer

    def log_probability(self, state: LiveState) -> float:
        with self._loaded.holding(state) as adapter:
            found = continuations(adapter, [(self._prompt, self._target)])[0]
        return -found.nll * len(found.predicted)


_Group = tuple[CommitId, tuple[Fact, ...], frozenset[ColumnId]]


def _groups(state: LiveState) -> tuple[list[_Group], list[_Group]]:
    """Columns by commit, and columns by fact: those that edit it in together with those that cancel it."""
    pairs, facts, origins = state.roles, state.facts, state.origins
    commits: dict[CommitId, set[ColumnId]] = {}
    single: dict[tuple[str, ...], set[ColumnId]] = {}
    for column in sorted(state.columns):
        commits.setdefault(origins[column], set()).add(column)
        if not pairs[column]:  # an adapter is about no fact
            continue
        single.setdefault(tuple(dict.fromkeys(fact for fact, _ in pairs[column])), set()).add(column)
    by_commit = [
        (
            commit,
            tuple(facts[f] for f in dict.fromkeys(fact for column in sorted(columns) for fact, _ in pairs[column])),
            frozenset(columns),
        )
        for commit, columns in commits.items()
    ]
    by_fact = [
        (origins[min(columns)], tuple(facts[f] for f in facts if f in names), frozenset(columns))
        for names, columns in single.items()
    ]
    return by_commit, by_fact


def _ranked(
    loaded: LoadedModel,
    state: LiveState,
    groups: Sequence[_Group],
    keys: Mapping[int, Tensor],
    norms: Mapping[int, float],
) -> tuple[Blamed, ...]:
    label = {column: index for index, (_, _, columns) in enumerate(groups) for column in columns}
    patches = {patch: known.columns for patch, known in state.patches.items()}
    shares: dict[int, list[float]] = {}
    for layer, key in keys.items():
        terms = []
        for weight, part in loaded.split(layer, key):  # an expert that the key does not reach moves nothing
            for patch, positions in state.selection.items():
                chosen = [patches[patch][position] for position in positions] or list(patches[patch])
                if label.keys().isdisjoint(chosen):  # an adapter is no group of facts
                    continue
                term = read_weight(state.repository.patch_path(patch), positions, weight.name)
                if term is not None:
                    terms.append((term, [label[column] for column in chosen], part))
        moved = shift_norms(terms, len(groups))
        shares[layer] = [float(value) / norms[layer] if norms[layer] else 0.0 for value in moved]
    found = [
        Blamed(commit, facts, columns, sum(share[i] for share in shares.values()), {n: s[i] for n, s in shares.items()})
        for i, (commit, facts, columns) in enumerate(groups)
    ]
    return tuple(sorted(found, key=lambda entry: (-entry.influence, entry.commit)))
