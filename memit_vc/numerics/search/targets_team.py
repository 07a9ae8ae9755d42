"""The search in parts, by one process or by several: the parts are the same, so what is found is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any

import torch
from torch import Tensor

from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.architecture import architecture_for
from memit_vc.numerics.model.distributed import Message, Team, reported
from memit_vc.numerics.model.masters import swapped
from memit_vc.numerics.search.residuals import find_residuals
from memit_vc.numerics.search.targets import Targets, find_targets
from memit_vc.objects import Fact

JOB = "targets"


def search_order(
    parts: Sequence[Sequence[Fact]],
    *,
    hparams: MEMITHyperParams,
    templates: Sequence[Template],
    anchors: Sequence[Sequence[Template] | None],
    max_tokens: int,
    plain: bool,
    weights: Mapping[int, Tensor],
    adjusted: Sequence[Mapping[int, Tensor]] | None,
    earlier: Sequence[Fact],
) -> Message:
    """What a helper needs to know: `weights` are those that the leader's model holds instead of the base's, `adjusted`
    those of each part, for a search for residuals, and `earlier` the facts that it rehearses.
    """
    body = {
        "job": JOB,
        "parts": [[fact.to_json() for fact in part] for part in parts],
        "earlier": [fact.to_json() for fact in earlier],
        "hparams": hparams.to_json(),
        "templates": [astuple(template) for template in templates],
        "anchors": [None if own is None else [astuple(each) for each in own] for own in anchors],
        "max_tokens": max_tokens,
        "plain": plain,
    }
    tensors = {f"weight.{layer}": weight for layer, weight in weights.items()}
    for index, part in enumerate(adjusted or ()):
        tensors |= {f"{index}.{layer}": columns for layer, columns in part.items()}
    return Message(body, tensors)


def find(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    *,
    hparams: MEMITHyperParams,
    adjusted: Mapping[int, Tensor] | None,
    earlier: Sequence[Fact],
    **options: Any,
) -> Targets:
    """z of the facts behind the last edited layer. With `adjusted`, their residuals, while `earlier` are rehearsed."""
    if adjusted is None:
        return find_targets(adapter, facts, layer=hparams.layers[-1], hparams=hparams, **options)
    return find_residuals(adapter, facts, adjusted=adjusted, earlier=earlier, hparams=hparams, **options)


def searched(
    team: Team | None, count: int, order: Callable[[], Message], search: Callable[[int], Targets]
) -> Iterator[tuple[int, Targets]]:
    """(part, what was found for it), in order. `search` is called here for parts 0, N, 2 N, …; helpers do the rest."""
    if team is None:
        for index in range(count):
            yield index, search(index)
        return
    with team.job(order()):
        for start in range(0, count, team.size):
            answers = list(team.exchange(_answer(lambda start=start: search(start))))  # type: ignore[misc]
            for index, answer in enumerate(answers[: count - start], start=start):
                yield index, _targets(answer)


def help_search(adapter: ModelAdapter, team: Team, order: Message) -> None:
    """Helper: search its share of the parts. LeftError if the leader gives up or any process fails."""
    body = order.body
    hparams = MEMITHyperParams.from_json(body["hparams"])
    # the helper's model with the parts that this search's hyperparameters name: a commit may have its own
    model = adapter.model
    adapter = replace(adapter, architecture=architecture_for(model, model.config.model_type, hparams))
    parts = [[Fact.from_json(record) for record in part] for part in body["parts"]]
    anchors = body["anchors"]
    earlier = [Fact.from_json(record) for record in body["earlier"]]
    weights, adjusted = dict[int, Tensor](), [dict[int, Tensor]() for _ in parts]
    for name, tensor in order.tensors.items():
        kind, layer = name.split(".")
        (weights if kind == "weight" else adjusted[int(kind)])[int(layer)] = tensor

    def search(index: int) -> Targets:
        return find(
            adapter,
            parts[index],
            hparams=hparams,
            adjusted=adjusted[index] or None,
            earlier=earlier,
            templates=[Template(*pair) for pair in body["templates"]],
            anchors=None if anchors[index] is None else [Template(*pair) for pair in anchors[index]],
            max_tokens=body["max_tokens"],
            plain=body["plain"],
        )

    with swapped(adapter, weights):
        for start in range(0, len(parts), team.size):
            mine = start + team.rank
            answer = _answer(lambda mine=mine: search(mine)) if mine < len(parts) else Message()  # type: ignore[misc]
            list(team.exchange(answer))


def _answer(search: Callable[[], Targets]) -> Message:
    try:
        found = search()
    except Exception as error:  # whatever it is, the others wait for an answer
        return reported(error)
    return Message({"steps": found.steps, "loss": found.loss}, {"z": found.z})


def _targets(answer: Message) -> Targets:
    z = answer.tensors["z"].to(torch.float32)
    return Targets(z.cpu(), tuple(answer.body["steps"]), tuple(answer.body["loss"]))
