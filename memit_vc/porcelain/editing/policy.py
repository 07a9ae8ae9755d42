"""Bounds on scores: `[policy] require` of config.toml and `--require`. A change that breaks one is not stored.

A bound is a name, >= or <=, and a number: "argmax >= 0.95", "perplexity_rise <= 0.02", "NS_drop <= 0.03". Names are
those of the scores; `argmax` is `rewrite_acc`. NAME_drop is what a score loses, `perplexity_rise` a share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from memit_vc.errors import PolicyError, UsageError
from memit_vc.objects.measures import LABELS
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor

    from memit_vc.objects import Fact, StateId
    from memit_vc.porcelain.editing.measure import Measured
    from memit_vc.porcelain.editing.models import LoadedModel
    from memit_vc.repository import Repository

_FORM = re.compile(r"\s*(\w+?)(_drop|_rise)?\s*(>=|<=|≥|≤)\s*([0-9.]+(?:e-?[0-9]+)?)\s*")
_NAMES = {"argmax": "rewrite_acc"}
_KEPT = ("NS", "neighbourhood_acc", "same_subject", "hijacked", "name_acc")
"""Scores of what an edit should leave as it was. A weaker edit is better there; for the others, a stronger one."""


@dataclass(frozen=True)
class Bound:
    """`least`: the figure must be at least `limit`, else at most. `change` is "", "_drop" or "_rise"."""

    text: str
    name: str
    change: str
    least: bool
    limit: float

    @classmethod
    def parse(cls, text: str) -> Bound:
        """UsageError for what is no bound on a score."""
        form = _FORM.fullmatch(text)
        if form is None:
            raise UsageError(f"{text!r} is not a bound", hint='Write it like "argmax >= 0.95" or "NS_drop <= 0.03".')
        name, change = _NAMES.get(form[1], form[1]), form[2] or ""
        known = (*LABELS, "nll")
        if change == "_rise" and name != "perplexity":
            raise UsageError(f"{text!r}: only perplexity has a rise", hint=f"Write {form[1]}_drop for what it loses.")
        if name not in (known if change != "_rise" else ("perplexity",)):
            listed = ", ".join(("argmax", *known, "perplexity_rise"))
            raise UsageError(f"{text!r}: there is no score {form[1]!r}", hint=f"Use one of {listed}, or NAME_drop.")
        try:
            limit = float(form[4])
        except ValueError as error:
            raise UsageError(f"{text!r}: {form[4]} is not a number", hint="Write one, such as 0.95.") from error
        if limit > 1 and name != "nll" and change != "_rise":
            raise UsageError(f"{text!r}: scores are from 0 to 1", hint="Write 0.95 for 95 %.")
        return cls(" ".join(text.split()), name, change, form[3] in (">=", "≥"), limit)

    def figure(self, before: Measured, after: Measured) -> float | None:
        """None where it was not measured: no fact has such a probe."""
        sides = before.total.get(self.name), after.total.get(self.name)
        if self.change == "_rise":
            sides = before.perplexity, after.perplexity
        old, new = sides
        if not self.change:
            return new
        if old is None or new is None:
            return None
        return new / old - 1 if self.change == "_rise" else old - new

    def kept(self, figure: float) -> bool:
        return figure >= self.limit if self.least else figure <= self.limit  # NaN keeps nothing


def check_policy(bounds: Sequence[Bound], before: Measured, after: Measured, *, computed: bool = False) -> list[str]:
    """PolicyError naming each bound that is broken, with its figure; notes on bounds that nothing was measured for.

    `computed`: the facts were edited in just now, so that other settings may help.
    """
    figures = [(bound, bound.figure(before, after)) for bound in bounds]
    broken = [(bound, figure) for bound, figure in figures if figure is not None and not bound.kept(figure)]
    if broken:
        told = "; ".join(f"{bound.text} is {figure:.3f}" for bound, figure in broken)
        hint = "If the change is wanted all the same, change the bound."
        if computed and any(bound.change or bound.name in _KEPT for bound, _ in broken):
            hint = "Use fewer facts at once or a larger mom2_update_weight (λ), or change [policy] or --require."
        elif computed:
            hint = "Give the facts phrasings, or set more v_num_grad_steps, or change [policy] or --require."
        raise PolicyError(f"scores are out of bounds: {told}; the branch did not move", hint=hint)
    return [
        f"the bound {bound.text} was not checked: no fact has such probes"
        for bound, figure in figures
        if figure is None
    ]


def policy_of(repository: Repository, require: Sequence[str] = ()) -> list[Bound]:
    """The bounds of config.toml and of the command line. UsageError."""
    return [Bound.parse(text) for text in (*repository.config.require, *require)]


def ask_in_chat(bounds: Sequence[Bound]) -> bool:
    """Whether a bound is on `chat_acc`, which is measured only for who asks for it."""
    return any(bound.name == "chat_acc" for bound in bounds)


@dataclass(frozen=True)
class Guard:
    """For verbs that join states: it loads the model, measures both, and raises PolicyError before anything is stored.

    A bound on a score is for all facts that are live then, one on a drop for those that are live on both sides.
    """

    repository: Repository
    bounds: Sequence[Bound]
    progress: Progress = silent

    def __call__(self, before: LiveState, after: LiveState, loaded: LoadedModel | None = None) -> Sequence[str]:
        """HEAD's state and the new one, of stored columns → notes. `loaded` None: the model is loaded."""
        from memit_vc.porcelain.editing.models import model_of

        loaded = model_of(self.repository, loaded, progress=self.progress)
        facts = [after.facts[fact] for fact in sorted(after.edits)]
        return self._notes(loaded, before, facts, after.id, partial(loaded.holding, after))

    def solved(
        self,
        loaded: LoadedModel,
        before: LiveState,
        facts: Sequence[Fact],
        after: StateId,
        weights: Mapping[int, Tensor],
    ) -> Sequence[str]:
        """The same of a state that is solved and not stored yet: its facts, its id and its weights."""
        from memit_vc.numerics.model.masters import swapped

        return self._notes(loaded, before, facts, after, partial(swapped, loaded.adapter, weights))

    def _notes(
        self,
        loaded: LoadedModel,
        before: LiveState,
        facts: Sequence[Fact],
        after: StateId,
        holding: Callable[[], AbstractContextManager[object]],
    ) -> Sequence[str]:
        from memit_vc.porcelain.editing.measure import Probe, base_answers, measure

        staying = [fact for fact in facts if fact.id in before.edits]
        probe, base = Probe.of(self.repository), base_answers(self.repository, loaded.adapter, facts)
        measured: dict[str, Measured] = {}
        for name, state, chosen in (("before", before.id, staying), ("after", after, facts), ("stays", after, staying)):
            with loaded.holding(before) if name == "before" else holding():
                found = measure(
                    self.repository,
                    loaded.adapter,
                    chosen,
                    state,
                    probe,
                    base=base,
                    chat=ask_in_chat(self.bounds),
                    progress=self.progress,
                )
            self.repository.put_evaluations(found.rows(state))
            measured[name] = found
        absolute = [bound for bound in self.bounds if not bound.change]
        changes = [bound for bound in self.bounds if bound.change]
        return [
            *check_policy(absolute, measured["before"], measured["after"]),
            *check_policy(changes, measured["before"], measured["stays"]),
        ]


def guard_of(repository: Repository, require: Sequence[str] = (), *, progress: Progress = silent) -> Guard | None:
    """None without a bound."""
    bounds = policy_of(repository, require)
    return Guard(repository, bounds, progress) if bounds else None
