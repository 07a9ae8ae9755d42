"""What the model card says of a commit, gathered from the repository; no model is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from memit_vc.errors import MemitVCError
from memit_vc.foreign.data import MOST_YAML
from memit_vc.foreign.files import read_file
from memit_vc.objects import CommitId, FactId, JsonValue, StateId
from memit_vc.page.charts import score_picture
from memit_vc.page.graph import picture
from memit_vc.porcelain.base import find_base
from memit_vc.porcelain.history.adapters import live_adapters
from memit_vc.porcelain.history.report import history
from memit_vc.porcelain.history.scores_at_commit import Came, came_in
from memit_vc.porcelain.state import LiveState
from memit_vc.remote.card import Card, CardFact, card_with
from memit_vc.remote.manifest import CARD, PICTURES
from memit_vc.remote.opening import hub_name
from memit_vc.repository import Repository
from memit_vc.store.jsoncache import read_or_empty
from memit_vc.vcs.facts import LiveFact

_NAMES = {
    "ES": "ES (new answer preferred)",
    "PS": "PS (in paraphrases)",
    "NS": "NS (neighbours kept)",
    "rewrite_acc": "Learnt (every token of the answer right)",
}


_VLLM_LORA = frozenset(
    ("gemma", "gemma2", "gemma3_text", "gpt_bigcode", "granite", "llama", "mistral", "olmo2", "opt", "phi", "phi3")
) | {"qwen2", "qwen3"}
"""Model types for which vLLM implements LoRA; GPT-2, GPT-J, GPT-NeoX, BLOOM and Falcon are not among them."""


def model_card(
    repository: Repository, commit: CommitId, *, url: str, present: str | None = None, rank: int | None = None
) -> str:
    """README.md of `card_files`."""
    return card_files(repository, commit, url=url, present=present, rank=rank)[CARD]


def card_files(
    repository: Repository, commit: CommitId, *, url: str, present: str | None = None, rank: int | None = None
) -> dict[str, str]:
    """README.md for a push of `commit` to `url`: `present`, which the remote has now, with our part renewed; and its
    pictures. By name.

    `rank` is the rank of the PEFT adapter in the same push, None without one. RemoteError if the metadata in `present`
    cannot be read.
    """
    name, branch = hub_name(url) or (None, "main")
    card = replace(gather_card(repository, commit, repo_id=name, branch=branch, rank=rank), pictured=True)
    # branches, remotes and HEAD are this repository's own affair, and move without a push
    rows = [replace(row, refs=()) for row in history(repository, commit)]
    drawn = (picture(rows), score_picture(card.scores))
    return {CARD: card_with(card, present), **dict(zip(PICTURES, drawn, strict=True))}


def gather_card(
    repository: Repository,
    commit: CommitId,
    *,
    repo_id: str | None = None,
    branch: str = "main",
    rank: int | None = None,
    relation: Literal["adapter", "finetune"] = "adapter",
    history: str | None = None,
) -> Card:
    """The card's content. Where a local base lies, and its name there, are private and not in it."""
    config = repository.config
    state = LiveState.at(repository, commit)
    live = state.live
    sides, scored_on = _measured(repository, commit, state.id, live)
    scores = _score_rows(sides)
    perplexity = _perplexity(repository, commit, state.id)
    on_hub = config.revision is not None
    return Card(
        repo_id=repo_id,
        branch=branch,
        vllm=model_type(repository) in _VLLM_LORA,
        base=config.base if on_hub else None,
        base_revision=config.revision,
        base_id=repository.base_id,
        base_about=_about(repository),
        license=_license(repository),
        commit=commit,
        state=state.id,
        commits=len(repository.log([commit])) - 1,
        facts=tuple(
            CardFact(each.fact.prompt, each.fact.target, each.fact.ground_truth, _number(side[1], "rewrite_acc"))
            for each, side in zip(live, sides, strict=True)
        ),
        scores=(*scores, *perplexity),
        scored_on=scored_on,
        rank=rank,
        relation=relation,
        history=history,
        adapters=tuple((each.name, each.licence, each.source) for each in live_adapters(state)),
    )


_Scores = Mapping[str, Any]


def _measured(
    repository: Repository, commit: CommitId, state: Any, live: Sequence[LiveFact]
) -> tuple[list[tuple[_Scores, _Scores]], str]:
    """(before, after) of each fact: on this very state if all were measured there, else as they were committed."""
    now = repository.evaluations(state, "fact")
    came = _as_committed(repository, commit, live)
    committed = [came.get(each.fact.id, (None, {})) for each in live]
    found: list[tuple[_Scores, _Scores]] = [(before or {}, after) for before, after in committed]
    here = [now.get(("fact", each.fact.id)) for each in live]
    if live and all(isinstance(one, Mapping) for one in here):
        pairs = zip(found, here, strict=True)
        fresh: list[tuple[_Scores, _Scores]] = [(old, one) for (old, _), one in pairs if isinstance(one, Mapping)]
        return fresh, "on the published weights; what was before, when each fact was committed"
    return found, "when each fact was committed"


def _as_committed(repository: Repository, commit: CommitId, live: Sequence[LiveFact]) -> Mapping[FactId, Came]:
    """The scores from the commit that brought each fact in; if it measured nothing (an import, or a cherry-pick from
    elsewhere), from the newest commit before it that measured the same fact.
    """
    came = came_in(repository, {each.commit for each in live})
    found = {each.fact.id: came[each.commit][each.fact.id] for each in live if each.fact.id in came[each.commit]}
    if len(found) < len({each.fact.id for each in live}):
        history = [each.id for each in repository.log([commit])]
        everything = came_in(repository, history)
        for older in history:
            found = {**everything[older], **found}
    return found


def _number(scores: _Scores, name: str) -> float | None:
    value = scores.get(name)
    return float(value) if isinstance(value, int | float) else None


def _score_rows(sides: Sequence[tuple[_Scores, _Scores]]) -> tuple[tuple[str, str, str], ...]:
    """Both columns are of the same facts: those that were measured before and after, if there are any."""
    rows = []
    for name, label in _NAMES.items():
        pairs = [(_number(before, name), _number(after, name)) for before, after in sides]
        both = [(before, after) for before, after in pairs if before is not None and after is not None]
        known = [after for _, after in both] or [after for _, after in pairs if after is not None]
        if known:
            of = f", measured on {len(known)} of {len(sides)} facts" if len(known) < len(sides) else ""
            before = f"{sum(value for value, _ in both) / len(both):.2f}" if both else "–"
            rows.append((label + of, before, f"{sum(known) / len(known):.2f}"))
    return tuple(rows)


def _perplexity(repository: Repository, commit: CommitId, state: StateId) -> tuple[tuple[str, str, str], ...]:
    """The state's, beside the base's by the same probe: measured here, or by the author of the commit."""
    base = dict(_perplexities(repository, LiveState(repository, ()).id))
    firsts = [c.id for c in repository.log([commit]) if len(c.parents) == 1 and not repository.parents(c.parents[0])]
    for scores in repository.evaluations_of(firsts, "commit").values():
        base = dict([_perplexity_of(scores, "before")]) | base
    after = dict(_perplexity_of(scores, "after") for scores in repository.evaluations(state, "commit").values())
    for probe, value in {**after, **dict(_perplexities(repository, state))}.items():
        old = base.get(probe)
        if isinstance(value, int | float) and isinstance(old, int | float):  # alone, it says nothing
            return (("Perplexity", f"{old:.2f}", f"{value:.2f}"),)
    return ()


def _perplexities(repository: Repository, state: StateId) -> Iterator[tuple[str, JsonValue]]:
    return ((probe, value) for (_, probe), value in repository.evaluations(state, "perplexity").items())


def _perplexity_of(scores: Any, side: Literal["before", "after"]) -> tuple[str, JsonValue]:
    """(probe, perplexity) of what `commit` measured, if it did."""
    return scores[side].get("probe", ""), scores[side].get("perplexity")


def model_type(repository: Repository) -> str | None:
    """What the base's config.json says; None if it cannot be read."""
    try:
        found = read_or_empty(find_base(repository.config) / "config.json").get("model_type")
    except MemitVCError:
        return None
    return found if isinstance(found, str) else None


def _about(repository: Repository) -> str:
    """What a local base is: its family, its size."""
    tensors = repository.base().tensors
    parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    dtypes = ", ".join(sorted({tensor.dtype for tensor in tensors}))
    family = model_type(repository)
    return f"{f'of the family {family}, ' if family else ''}{parameters / 1e6:,.1f} million parameters, {dtypes}"


def _license(repository: Repository) -> str | None:
    """The licence on the base's own card: the file beside the base, else the Hub's, if it can be asked."""
    for card in (_card_here, _card_on_hub):
        with suppress(Exception):  # the reader looks up a licence that cannot be found here
            said = getattr(card(repository), "license", None)
            found = said[0] if isinstance(said, list) and len(said) == 1 else said  # of several: which one?
            if isinstance(found, str) and found:
                return found
    return None


def _card_here(repository: Repository) -> Any:
    from huggingface_hub import ModelCard

    readme = Path(find_base(repository.config), "README.md")
    return ModelCard(read_file(readme, most=MOST_YAML).decode(), ignore_metadata_errors=True).data


def _card_on_hub(repository: Repository) -> Any:
    from huggingface_hub import HfApi

    config = repository.config
    return config.revision and HfApi().model_info(config.base, revision=config.revision).card_data
