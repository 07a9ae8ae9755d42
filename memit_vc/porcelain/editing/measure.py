"""Scores of facts on a state and the perplexity of a health text, measured once per state and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memit_vc.errors import MemitVCError, StorageError
from memit_vc.numerics.forward.chat import SCORED as CHAT
from memit_vc.numerics.forward.chat import chat_template
from memit_vc.numerics.forward.questions import SCORED as QUESTIONS
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.scores.likelihood import perplexity
from memit_vc.numerics.scores.scores import Answers, score, standard_errors, subject_answers, total
from memit_vc.numerics.statistics.corpus import held_out_documentation, open_corpus
from memit_vc.objects import Fact, FactId, StateId, canonical_json, digest, finite
from memit_vc.objects.measures import MEASURES
from memit_vc.progress import Progress, silent
from memit_vc.remote.hub_corpus import find_dataset
from memit_vc.repository import Repository
from memit_vc.store.publish import Evaluation

HEALTH_TOKENS = 512
"""Predicted tokens of the health text: enough for the relative change between two states; the level does not matter."""


@dataclass(frozen=True)
class Probe:
    """The health text whose perplexity is watched: the user's file, else text that comes with Python."""

    id: str
    texts: tuple[str, ...]
    name: str

    @classmethod
    def of(cls, repository: Repository) -> Probe:
        """`[statistics] health` of config.toml, else the part of Python's own topics that statistics leave out."""
        source = repository.config.health
        texts = held_out_documentation() if source is None else _read(source)
        content = canonical_json([HEALTH_TOKENS, *texts])
        return cls(id=digest("probe", content), texts=tuple(texts), name=source or "pydoc (held out)")


@dataclass(frozen=True)
class Measured:
    """Scores on one state: per fact, their means with standard errors, and the perplexity."""

    facts: Mapping[FactId, Mapping[str, float | None]]
    total: Mapping[str, float | None]
    error: Mapping[str, float | None]
    perplexity: float | None
    probe: str

    def rows(self, state: StateId) -> list[Evaluation]:
        """Rows that let the next command on this state skip the measuring. What is no number is measured again."""
        found: list[Evaluation] = [(state, None, "fact", fact, dict(scores)) for fact, scores in self.facts.items()]
        if self.perplexity is not None:
            found.append((state, None, "perplexity", self.probe, self.perplexity))
        return [row for row in found if finite(row[-1]) == row[-1]]


def measure(
    repository: Repository,
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    state: StateId,
    probe: Probe | None,
    *,
    base: Answers | None = None,
    chat: bool = False,
    progress: Progress = silent,
    stage: str = "scores",
) -> Measured:
    """Scores of `facts` with the weights that `adapter` now holds, which must be those of `state`.

    What was measured on this state before is read from the repository. `probe` None leaves the perplexity out, `base`
    None (see `base_answers`) the scores of other questions about a subject. `chat_acc` is measured with `chat`.
    """
    chat = chat and chat_template(adapter.tokenizer, CHAT) is not None
    known = repository.evaluations(state, "fact")
    per_fact: dict[FactId, Mapping[str, float | None]] = {}
    for fact in facts:
        stored = known.get(("fact", fact.id))
        if isinstance(stored, Mapping) and stored.keys() >= set(MEASURES) and not (chat and stored["chat_acc"] is None):
            per_fact[fact.id] = {
                name: None if value is None else float(value)  # type: ignore[arg-type]
                for name, value in stored.items()
            }
    missing = [fact for fact in facts if fact.id not in per_fact]
    # an earlier version's row may lack a score of this one, and have a reply, which takes long
    replied = {fact.id: reply for fact in missing if (reply := _reply(known.get(("fact", fact.id)))) is not None}
    for part, asked in (
        ([fact for fact in missing if fact.id not in replied], chat),
        ([fact for fact in missing if fact.id in replied], False),
    ):
        if not part:
            continue
        scored = score(
            adapter,
            part,
            base=base,
            chat=asked,
            on_done=lambda done, all_: progress(stage, done, all_),
            on_reply=lambda done, all_: progress("replies in chat", done, all_),
        )
        for fact, scores in zip(part, scored, strict=True):
            per_fact[fact.id] = scores | ({"chat_acc": replied[fact.id]} if fact.id in replied else {})
    ppl = None
    if probe is not None:
        stored_ppl = repository.evaluations(state, "perplexity").get(("perplexity", probe.id))
        ppl = float(stored_ppl) if isinstance(stored_ppl, int | float) else perplexity_of(adapter, probe)
    ordered = {fact.id: per_fact[fact.id] for fact in facts}
    each = list(ordered.values())
    return Measured(ordered, total(each), standard_errors(each), ppl, "" if probe is None else probe.id)


def _reply(stored: object) -> float | None:
    reply = stored.get("chat_acc") if isinstance(stored, Mapping) else None
    return float(reply) if isinstance(reply, int | float) else None


def base_answers(repository: Repository, adapter: ModelAdapter, facts: Sequence[Fact]) -> Answers:
    """What the base says to other questions about the facts' subjects; `adapter` must hold the base's weights.

    Kept with the base's state: it depends on the subject alone.
    """
    base = repository.state_id(())
    stored = {key: value for (_, key), value in repository.evaluations(base, "answers").items()}
    found: dict[FactId, Sequence[int]] = {}
    for fact in facts:
        known = stored.get(_answers_key(fact))
        if isinstance(known, list):
            found[fact.id] = [int(token) for token in known]
    missing = [fact for fact in facts if fact.id not in found]
    for fact, tokens in zip(missing, subject_answers(adapter, missing).values(), strict=True) if missing else ():
        found[fact.id] = tokens
        repository.put_evaluation(base, None, "answers", _answers_key(fact), list(tokens))
    return found


def _answers_key(fact: Fact) -> str:
    return digest("answers", canonical_json([fact.subject, *QUESTIONS]))


def perplexity_of(adapter: ModelAdapter, probe: Probe) -> float:
    """Of the health text, with the weights that `adapter` now holds."""
    return perplexity(adapter, probe.texts, tokens=HEALTH_TOKENS)


def measure_base(repository: Repository, adapter: ModelAdapter) -> None:
    """The base's own perplexity of the health text, kept for the first commit, which asks for it."""
    state = repository.state_id(())
    repository.put_evaluations(measure(repository, adapter, (), state, Probe.of(repository)).rows(state))


def _read(source: str) -> list[str]:
    try:
        corpus = open_corpus(source, find_dataset=find_dataset)
    except StorageError as error:
        raise MemitVCError(
            f"the health text of the perplexity probe cannot be read: {error.message}",
            hint="Correct [statistics] health in .memitvc/config.toml, or remove the line.",
        ) from error
    texts, length = [], 0
    for text in corpus:
        texts.append(text)
        length += len(text)
        if length > 12 * HEALTH_TOKENS:  # more characters than HEALTH_TOKENS tokens have
            break
    return texts
