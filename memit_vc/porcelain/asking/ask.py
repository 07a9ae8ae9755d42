"""`ask`: what the model says at several revisions. One load, the states swapped in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memit_vc.errors import EngineError, UsageError
from memit_vc.numerics.forward.chat import chat_ids
from memit_vc.numerics.forward.tokens import encode
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.scores.generation import Generated, generate
from memit_vc.objects import CommitId, StateId
from memit_vc.porcelain.editing.models import LoadedModel, model_of
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository

NEW_TOKENS = 20
"""Tokens of an answer, unless the caller says otherwise."""


@dataclass(frozen=True)
class Answer:
    """What the model writes at a revision. `text` is as plain transformers decodes it, up to a space in front."""

    revision: str
    commit: CommitId
    state: StateId
    text: str


@dataclass(frozen=True)
class Asked:
    """A prompt, and its answers in the order of the revisions."""

    prompt: str
    answers: tuple[Answer, ...]


def ask(
    repository: Repository,
    prompts: Sequence[str],
    revisions: Sequence[str] = ("HEAD",),
    *,
    chat: bool = False,
    new_tokens: int = NEW_TOKENS,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> list[Asked]:
    """Each prompt's greedy continuation at each revision, equal to that of plain transformers on its checkout; with
    `chat` the answer to the prompt as a user's turn. UsageError for an empty prompt; EngineError for one that is too
    long, and for a model without a chat template.
    """
    told = generated(repository, prompts, revisions, chat=chat, new_tokens=new_tokens, loaded=loaded, progress=progress)
    return [
        Asked(prompt, tuple(Answer(*place, made.text) for place, made in row))
        for prompt, row in zip(prompts, told, strict=True)
    ]


Place = tuple[str, CommitId, StateId]
"""A revision as it was named, its commit, its state."""


def generated(
    repository: Repository,
    prompts: Sequence[str],
    revisions: Sequence[str],
    *,
    chat: bool = False,
    new_tokens: int = NEW_TOKENS,
    best: int = 0,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> list[list[tuple[Place, Generated]]]:
    """As `ask`, with the tokens, and with the `best` likeliest of each place."""
    if not all(prompt.strip() for prompt in prompts):
        raise UsageError("a prompt is empty", hint="Give at least one word.")
    commits = [repository.resolve(revision) for revision in revisions]
    states = {commit: LiveState.at(repository, commit) for commit in dict.fromkeys(commits)}
    named = {commit: repository.state_id(state.columns) for commit, state in states.items()}
    loaded = model_of(repository, loaded, progress=progress)
    rows = prompt_ids(loaded.adapter, prompts, chat=chat)
    said: dict[StateId, list[Generated]] = {}
    done, total = 0, len(set(named.values())) * len(rows)
    for commit, state in states.items():
        if named[commit] in said:  # a revision by another name, or one that was reverted to
            continue
        with loaded.holding(state) as adapter:
            told = said.setdefault(named[commit], [])
            for row in rows:
                progress("ask the model", done, total)
                told.append(generate(adapter, row, new_tokens=new_tokens, best=best))
                done += 1
    progress("ask the model", total, total)
    places = [(revision, commit, named[commit]) for revision, commit in zip(revisions, commits, strict=True)]
    return [[(place, said[place[2]][number]) for place in places] for number in range(len(rows))]


def prompt_ids(adapter: ModelAdapter, prompts: Sequence[str], *, chat: bool) -> list[tuple[int, ...]]:
    """The tokens that the model is given for each prompt."""
    if not chat:
        return [encoded.ids for encoded in encode(adapter.tokenizer, prompts)]
    turns = [chat_ids(adapter.tokenizer, prompt) for prompt in prompts]
    found = [turn for turn in turns if turn is not None]
    if len(found) < len(turns):
        raise EngineError("the model has no chat template for a single turn of a user", hint="Ask without --chat.")
    return found
