"""One run of the engine's split parts, by as many processes as launched it: z in chunks of two, second moments in small
batches, a pass that is killed and resumed, and an error in the middle.

    python -m tests.support.processes.engine_run MODEL OUTPUT
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from memit_vc.errors import EngineError
from memit_vc.numerics.edit.engine import compute_edit, search_targets
from memit_vc.numerics.forward.chat import turns
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.helper import opening, serve, stopping
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.distributed import Message, Team, joined, leave
from memit_vc.numerics.model.masters import swapped
from memit_vc.numerics.statistics.factors import factorise
from memit_vc.numerics.statistics.moments import collect
from tests.support.measure import second_moments
from tests.support.models import FACTS, SENTENCES, hparams_for, load

LAYERS = [1, 2, 3]
TEXTS = [" ".join(SENTENCES[i % 5 : i % 5 + 3]) for i in range(40)]
CHAT = "{% for m in messages %}{{ m['content'] }}.\n{% endfor %}"


class KilledError(Exception):
    pass


def edited(adapter: ModelAdapter) -> dict[int, torch.Tensor]:
    """Weights that answer some of the first five facts."""
    factors = {layer: factorise(c, 5.0) for layer, c in second_moments(adapter, LAYERS, SENTENCES).items()}
    hparams = hparams_for(adapter, LAYERS, v_num_grad_steps=60, v_lr=0.5, search_for="residuals")
    templates = parse_templates([["{}"]])
    edit = compute_edit(adapter, FACTS[:5], hparams=hparams, templates=templates, factor=factors.__getitem__)
    return {layer: (adapter.weight(layer).double() + u.delta).float() for layer, u in edit.updates.items()}


def lead(adapter: ModelAdapter, output: Path) -> None:
    hparams = hparams_for(adapter, v_num_grad_steps=6, rehearse=1.0)
    templates = parse_templates([["{}"], ["The first report. {}"]])
    other = {2: adapter.projection(2).weight.data * 1.5}

    more = {"hparams": hparams, "templates": templates, "weights": other, "chunk": 2}

    def search(**given: Any) -> torch.Tensor:
        with swapped(adapter, other):
            return search_targets(adapter, FACTS, **{**more, **given}).z  # type: ignore[arg-type]

    def moments(**options: object) -> dict[str, torch.Tensor]:
        made = collect(adapter, TEXTS, LAYERS, tokens=1500, batch_tokens=64, **options)  # type: ignore[arg-type]
        return {f"moment.{layer}": moment for layer, moment in made.moment.items()}

    columns = torch.Generator().manual_seed(0)
    widths = {layer: adapter.dimensions(layer)[1] for layer in hparams.layers}
    adjusted = {layer: torch.rand(width, len(FACTS), generator=columns) / width for layer, width in widths.items()}
    tensors = {"z": search(), "residuals": search(adjusted=adjusted)}
    adapter.tokenizer.chat_template = CHAT  # the leader alone knows what is asked, and what ends an answer
    tensors["in chat"] = search(templates=[*templates, turns(adapter.tokenizer)])
    live = edited(adapter)
    for name, earlier in (("rehearsed", FACTS[:5]), ("not rehearsed", [])):
        with swapped(adapter, live):
            given = {**more, "weights": live, "adjusted": adjusted, "earlier": earlier}
            tensors[name] = search_targets(adapter, FACTS[5:], **given).z  # type: ignore[arg-type]
    exchanged: list[int] = []
    exchange = Team.exchange

    def watched(team: Team, mine: Message) -> Iterator[Message]:
        exchanged.append(len(mine.tensors))
        return exchange(team, mine)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Team, "exchange", watched)
        tensors.update(moments())
    assert bool(exchanged) == (adapter.team is not None)
    assert not any(exchanged)  # sums are sent, once; keys are not

    weight = adapter.projection(2).weight.data
    kept = weight.clone()
    weight.fill_(float("nan"))  # the leader's copy alone: it must give up, and the helpers with it
    with pytest.raises(EngineError, match="not finite"):
        collect(adapter, TEXTS, [3], tokens=1500, batch_tokens=64)
    weight.copy_(kept)

    def dies(_: str, done: int, __: int) -> None:
        if done > 700:
            raise KilledError

    partial = output.with_suffix(".partial")
    with pytest.raises(KilledError):
        moments(resume=partial, progress=dies, save_every=0.0)
    assert partial.is_file()
    tensors.update({f"resumed.{name}": moment for name, moment in moments(resume=partial).items()})
    tensors["z again"] = search()
    save_file(tensors, output)


def main() -> None:
    model, output = map(Path, sys.argv[1:])
    with joined() if "RANK" in os.environ else nullcontext() as team:
        if team is not None and team.rank:
            serve(team, lambda directory, *_: load(Path(directory)))
            return
        adapter = load(model)
        if isinstance(team, Team):
            team.tell(opening(str(model), dtype="F32", device="cpu"))
            adapter = replace(adapter, team=team)
        lead(adapter, output)
        if team is not None:
            team.tell(stopping())


if __name__ == "__main__":
    main()
    if "RANK" in os.environ:
        leave(0)
