"""`rebase --base`: replay a history on another base, from its facts, in a new repository.

The repository is made in a directory `.memitvc-rebase` inside its final place. Each replayed commit is stored there as
soon as it is computed. One rename puts `.memitvc` in its place. A command that was stopped leaves the directory, and
the same command goes on with it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from memit_vc.errors import UsageError
from memit_vc.numerics.forward.lengths import check_lengths, check_probes
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.scores.explain import unanswered
from memit_vc.numerics.scores.scores import score, subject_answers, total
from memit_vc.objects import BaseId, CommitId, Fact, FactId, RefUpdate, canonical_json, digest
from memit_vc.porcelain.base import SeenBase
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.evaluate import evaluate
from memit_vc.porcelain.editing.models import load_model, open_adapter
from memit_vc.porcelain.recomputing.replayed import Step, steps_of
from memit_vc.porcelain.setup import Surveyed, sources_of, survey
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, count, silent
from memit_vc.repository import Repository
from memit_vc.store.files import write_atomic
from memit_vc.store.staging import check_free, staging
from memit_vc.vcs.contradictions import OnConflict

_STAGING, _PLAN = ".memitvc-rebase", "plan"
_TAKEN = "Name a new directory for the new repository: -o DIR"
_SHOWN = 3
_Scores: TypeAlias = "Mapping[str, float | None]"


@dataclass(frozen=True)
class ReplayedFact:
    """A live fact and the commit that it came in with. `known`: the new base gives the target already."""

    fact: Fact
    commit: CommitId
    known: bool
    before: _Scores | None
    after: _Scores | None


@dataclass(frozen=True, kw_only=True)
class OnNewBase:
    """`commits` pairs old and new ids, the new one None for a dry run; `skipped` are commits whose facts are known.

    `before` and `after` are total scores of all facts, on the new base and at its tip `id`.
    """

    directory: Path
    base: str
    revision: str | None
    base_id: BaseId
    branch: str
    id: CommitId | None
    commits: tuple[tuple[CommitId, CommitId | None], ...]
    skipped: tuple[CommitId, ...]
    facts: tuple[ReplayedFact, ...]
    before: _Scores | None
    after: _Scores | None
    perplexity_before: float | None
    perplexity_after: float | None
    hparams_from: str
    dry_run: bool
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def rebase_base(
    repository: Repository,
    base: str,
    *,
    output: Path | None = None,
    revision: str | None = None,
    hparams: str | None = None,
    corpus: str | None = None,
    on_conflict: OnConflict = "stop",
    all_facts: bool = False,
    scores: bool = True,
    dry_run: bool = False,
    progress: Progress = silent,
) -> OnNewBase:
    """Make a repository on `base` with the facts that are live at HEAD, in `output` (default: NAME-edits beside this).

    Each commit that brought live facts in is computed again, oldest first, with its message and author. Facts that the
    base gives already are left out, unless `all_facts`. `hparams` are as for `init`; default: this repository's own if
    the base has the same matrices. `on_conflict` is as for `steps_of`. `dry_run` asks the base and writes nothing.

    MemitVCError if the place is taken or nothing is live; ConflictError; errors of `init` and `commit`. What was
    computed before a failure is kept for the next try.
    """
    head = repository.head()
    branch = head.branch or "main"
    steps = steps_of(repository, head.commit, on_conflict, what=f"replaying {branch}")
    place = output.absolute() if output is not None else _place(repository, base)
    check_free(place, _STAGING, hint=_TAKEN)
    config = repository.config
    sources = sources_of(corpus if corpus is not None else config.corpus, config.health)
    seen = SeenBase.find(base, revision, progress=progress)
    own = hparams is None and _same_matrices(repository, seen)
    surveyed = survey(seen, repository.hparams_path if own else hparams, progress=progress)
    origin = "this repository's" if own else surveyed.hparams_from
    replay = _Replay(repository, steps, surveyed, origin, place, branch, all_facts, scores, progress)
    if dry_run:
        device, dtype = surveyed.hparams.resolved_device(), surveyed.weights[0].dtype
        replay.ask(open_adapter(seen.checkpoint, dtype=dtype, device=device, hparams=surveyed.hparams))
        return replay.result(dry_run=True)
    with staging(place, _STAGING, doing="making", hint=_TAKEN) as made:
        try:
            with _opened(made.at, surveyed, sources, replay) as new:
                replay.run(new)
            made.finish()
        except Exception:
            if not replay.made:
                made.drop()
            raise
    return replay.result(dry_run=False)


def _place(repository: Repository, base: str) -> Path:
    local = Path(base).expanduser()
    name = local.resolve().name if local.is_dir() else base.rpartition("/")[2]
    if not name:
        raise UsageError(f"{base!r} gives the new repository no name", hint="Name its directory: -o DIR")
    return repository.directory.parent / f"{name}-edits"


def _same_matrices(repository: Repository, seen: SeenBase) -> bool:
    """Whether the base has the tensors of this one, and the editable ones in the same shapes: as a sibling has."""
    shapes = {record.name: tuple(record.shape) for record in repository.base().tensors}
    there = seen.checkpoint.in_parts(shapes).tensors
    return there.keys() == shapes.keys() and all(
        tuple(there[weight.name][1].shape) == shapes[weight.name] for weight in repository.fact_weights()
    )


@contextmanager
def _opened(
    at: Path, surveyed: Surveyed, sources: tuple[str | None, str | None], replay: _Replay
) -> Iterator[Repository]:
    """The repository in the staging directory: that of an earlier try with the same plan, or a new one."""
    plan = replay.plan(sources)
    try:
        same = (at / _PLAN).read_text(encoding="ascii") == plan
    except (OSError, ValueError):
        same = False
    if same:
        with Repository.open(at) as new:
            yield new
        return
    (at / _PLAN).unlink(missing_ok=True)
    shutil.rmtree(at / ".memitvc", ignore_errors=True)
    with surveyed.start(at, *sources) as new:
        old, root, name = replay.repository.config, new.head().commit, f"heads/{replay.branch}"
        if old.author is not None or old.require:
            new.configure(lambda config: replace(config, author=old.author, require=old.require))
        if name != "heads/main":
            moves = [RefUpdate("heads/main", root, None), RefUpdate(name, None, root)]
            new.publish(verb="rebase", description=f"branch {replay.branch}", refs=moves, head=name)
        write_atomic(at / _PLAN, plan.encode())
        yield new


class _Replay:
    """What is to be replayed, and what came of it so far."""

    def __init__(
        self,
        repository: Repository,
        steps: Sequence[Step],
        surveyed: Surveyed,
        origin: str,
        place: Path,
        branch: str,
        all_facts: bool,
        scores: bool,
        progress: Progress,
    ) -> None:
        self.repository, self.branch = repository, branch
        self.made: dict[str, CommitId] = {}
        """Old id → new one."""
        self._steps, self._surveyed, self._origin, self._place = steps, surveyed, origin, place
        self._all_facts, self._scores, self._progress = all_facts, scores, progress
        self._facts = [fact for step in steps for fact in step.facts]
        self._known: set[FactId] = set()
        self._before: dict[FactId, _Scores] = {}
        self._after: Mapping[FactId, _Scores] = {}
        self._perplexity: tuple[float | None, float | None] = (None, None)
        self._tip: CommitId | None = None
        self._notes: list[str] = []
        self._warnings: list[str] = []
        if LiveState.of_head(repository).adapters.columns:
            self._warnings.append("an imported adapter is live here; only facts go to another base")

    def plan(self, sources: tuple[str | None, str | None]) -> str:
        """A digest of all that decides what is computed."""
        steps = [[step.commit.id, *(fact.id for fact in step.facts)] for step in self._steps]
        base, values = self._surveyed.manifest.id, self._surveyed.hparams.to_yaml()
        return digest("rebase", canonical_json([base, values, list(sources), self._all_facts, self.branch, steps]))

    def ask(self, adapter: ModelAdapter) -> None:
        """What the base itself answers. EngineError for a fact that it has no room for."""
        check_lengths(adapter, self._facts, [Template.parse("{}")])
        if self._scores:
            check_probes(adapter, self._facts)
        self._progress("ask the new base", 0, len(self._facts))
        missing = set(unanswered(adapter, self._facts))
        self._known = {fact.id for number, fact in enumerate(self._facts) if number not in missing}
        if self._scores:
            answers = subject_answers(adapter, self._facts)
            found = score(
                adapter,
                self._facts,
                base=answers,
                on_done=lambda done, all_: self._progress("scores of the new base", done, all_),
            )
            self._before = {fact.id: scores for fact, scores in zip(self._facts, found, strict=True)}

    def run(self, new: Repository) -> None:
        """Commit what is left to do in the new repository, and measure."""
        commits = new.log([new.head().commit])
        root = commits[-1].id
        self.made.update((str(commit.details["rebases"]), commit.id) for commit in reversed(commits[:-1]))
        if self.made:
            self._notes.append(f"went on after {count(len(self.made), 'commit')} of an earlier try")
        loaded = load_model(new, device=new.hparams().resolved_device(), progress=self._progress)
        self.ask(loaded.adapter)
        new.put_evaluations([(new.state_id(()), None, "fact", id_, dict(each)) for id_, each in self._before.items()])
        for done, step in enumerate(self._steps):
            self._progress("replay", done, len(self._steps))
            wanted = self._wanted(step)
            if wanted and step.commit.id not in self.made:
                committed = commit_facts(
                    new,
                    wanted,
                    kind="rebase",
                    repeats=step.commit,
                    on_conflict="keep-both",
                    scores=self._scores,
                    loaded=loaded,
                    progress=self._progress,
                )
                self.made[step.commit.id] = committed.id
                self._warnings += [f"{step.commit.subject}: {text}" for text in committed.warnings]
        self._progress("replay", len(self._steps), len(self._steps))
        self._tip = new.head().commit
        if self._scores:
            health = evaluate(new, root, facts=(), loaded=loaded, progress=self._progress).measured.perplexity
            found = evaluate(
                new, self._tip, facts=self._facts, chat=False, loaded=loaded, progress=self._progress
            ).measured
            self._after, self._perplexity = found.facts, (health, found.perplexity)

    def _wanted(self, step: Step) -> list[Fact]:
        return [fact for fact in step.facts if self._all_facts or fact.id not in self._known]

    def result(self, *, dry_run: bool) -> OnNewBase:
        surveyed, seen = self._surveyed, self._surveyed.seen
        moving = [step.commit.id for step in self._steps if self._wanted(step)]
        lost = [
            fact
            for fact in self._facts
            if fact.id in self._known and self._after.get(fact.id, {}).get("rewrite_acc") == 0
        ]
        if lost:
            self._warnings.append(
                f"the new base knew {count(len(lost), 'fact')} that the replay lost: "
                f"{'; '.join(f'{fact.prompt} → {fact.target}' for fact in lost[:_SHOWN])} (--all-facts edits them in)"
            )
        return OnNewBase(
            directory=self._place,
            base=seen.name,
            revision=seen.revision,
            base_id=surveyed.manifest.id,
            branch=self.branch,
            id=self._tip,
            commits=tuple((old, self.made.get(old)) for old in moving),
            skipped=tuple(step.commit.id for step in self._steps if step.commit.id not in moving),
            facts=tuple(
                ReplayedFact(
                    fact, step.commit.id, fact.id in self._known, self._before.get(fact.id), self._after.get(fact.id)
                )
                for step in self._steps
                for fact in step.facts
            ),
            before=total(list(self._before.values())) if self._before else None,
            after=total(list(self._after.values())) if self._after else None,
            perplexity_before=self._perplexity[0],
            perplexity_after=self._perplexity[1],
            hparams_from=self._origin,
            dry_run=dry_run,
            notes=(*surveyed.notes, *self._notes),
            warnings=tuple(self._warnings),
        )
