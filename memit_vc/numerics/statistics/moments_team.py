"""Second moments by several processes, bit-identical to one's.

Each process takes one batch in N and adds its keys to a sum of its own. The sums are exact (`gram.py`), so it does not
matter who adds what: what goes over the wire is a sum of each process, once at the end and where the pass is saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from memit_vc.errors import EngineError
from memit_vc.numerics.forward.replay import StopForwardError, evaluating, watching
from memit_vc.numerics.forward.rows import pad
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.distributed import Message, Team, reported
from memit_vc.numerics.model.experts import expert_by_expert
from memit_vc.numerics.model.memory import is_out_of_memory, let_go
from memit_vc.numerics.statistics.expert_grams import ExpertGrams
from memit_vc.numerics.statistics.gram import Gram

JOB = "moments"
_TILE = "tile"

Rows: TypeAlias = "Sequence[Sequence[int]]"


def empty_sums(adapter: ModelAdapter, layers: Sequence[int]) -> dict[int, Gram]:
    """A sum of keys for each layer, on the layer's device."""
    weights = {layer: adapter.weight(layer) for layer in layers}
    return {layer: Gram.zeros(int(w.shape[1]), device=w.device) for layer, w in weights.items()}


class SharedSums:
    """The leader's side: `sums` are whole after `gather`; in between, each process holds what it has added.

    The first batch sets the scale of the sums, so the leader takes that one alone.
    """

    def __init__(self, adapter: ModelAdapter, team: Team, sums: Mapping[int, Gram]) -> None:
        self._adapter, self._team, self._sums = adapter, team, sums
        self._told = False

    @property
    def width(self) -> int:
        """How many batches the next `add` takes."""
        return self._team.size if self._scaled else 1

    @property
    def _scaled(self) -> bool:
        return all(gram.exponents is not None for gram in self._sums.values())

    def order(self) -> Message:
        """The job as given out."""
        return Message({"job": JOB, "layers": list(self._sums)})

    def add(self, batches: Sequence[Rows]) -> None:
        """Add the keys of at most `width` batches. EngineError for keys that are not finite, and if a process
        failed.
        """
        if not self._scaled:
            add_keys(self._adapter, batches[0], self._sums)
            return
        if not self._told:
            scales = {str(layer): gram.exponents for layer, gram in self._sums.items() if gram.exponents is not None}
            self._team.tell(Message({"scales": True}, scales))
            self._told = True
        self._team.tell(Message({"batches": [[list(row) for row in rows] for rows in batches]}))
        _share(self._adapter, self._team, batches, self._sums)

    def gather(self) -> None:
        """Fetch the sums of the others into `sums`, tile by tile; theirs start again at zero."""
        if not self._told:
            return
        self._team.tell(Message({"gather": True}))
        for gram in self._sums.values():
            for source in range(1, self._team.size):
                for block in gram.blocks.values():
                    block.add_(self._team.receive(source).tensors[_TILE].to(block.device))
        for layer, gram in self._sums.items():
            if not gram.finite():
                raise _not_finite(self._adapter, layer)

    def end(self) -> None:
        self._team.tell(Message({"end": True}))


def help_moments(adapter: ModelAdapter, team: Team, order: Message) -> None:
    """Helper: its share of a pass. LeftError if the leader gives up or any process fails."""
    own = empty_sums(adapter, order.body["layers"])
    with torch.no_grad(), evaluating(adapter.model):
        while True:
            message = team.told()
            if message.body.get("end"):
                return
            if message.body.get("scales"):
                for layer, gram in own.items():
                    gram.exponents = message.tensors[str(layer)]
            elif message.body.get("gather"):
                for gram in own.values():
                    for block in gram.blocks.values():
                        team.send(Message(tensors={_TILE: block}))
                        block.zero_()
            else:
                _share(adapter, team, message.body["batches"], own)


def _share(adapter: ModelAdapter, team: Team, batches: Sequence[Rows], own: Mapping[int, Gram]) -> None:
    """This process's batch of a group, and word from all that theirs went well."""
    done = Message()
    if team.rank < len(batches):
        try:
            add_keys(adapter, batches[team.rank], own)
        except Exception as error:  # whatever it is, the others wait for an answer
            done = reported(error)
    list(team.exchange(done))


def add_keys(adapter: ModelAdapter, rows: Rows, sums: Mapping[int, Gram | ExpertGrams]) -> None:
    """Add the keys of a batch to the sums. EngineError for keys that are not finite."""
    for keys in _key_pieces(adapter, rows, list(sums)):
        for layer, gram in sums.items():
            if not gram.add(keys.pop(layer)):
                raise _not_finite(adapter, layer)


def _key_pieces(adapter: ModelAdapter, rows: Rows, layers: Sequence[int]) -> Iterator[dict[int, Any]]:
    """Keys by layer of all rows: at once, or in halves if memory runs out."""
    keys = None
    try:
        keys = _keys(adapter, rows, layers)
    except (RuntimeError, MemoryError) as error:
        if len(rows) == 1 or not is_out_of_memory(error):
            raise
    if keys is not None:
        yield keys
        return
    let_go()  # out of the handler, whose error holds what the failed forward had
    half = len(rows) // 2
    yield from _key_pieces(adapter, rows[:half], layers)
    yield from _key_pieces(adapter, rows[half:], layers)


def _keys(adapter: ModelAdapter, rows: Rows, layers: Sequence[int]) -> dict[int, Any]:
    """Inputs of the projections at every real token: by layer, [tokens, d_in] in the model's dtype; of a layer with
    experts by expert, its part of the stacked key at the tokens that reach it.
    """
    ids, mask = pad(rows)
    real = mask.bool().reshape(-1)
    found: dict[int, Any] = {}
    experts = {layer: held for layer in layers if (held := adapter.experts(layer)) is not None}

    def on_call(layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs["input"]
        flat = given.reshape(-1, given.shape[-1])  # some families flatten rows and tokens before the MLP
        found[layer] = flat[real.to(flat.device)]
        if layer == layers[-1]:
            raise StopForwardError

    def on_keys(layer: int, expert: int, tokens: Tensor, keys: Tensor) -> None:
        found.setdefault(layer, {})[expert] = keys[real.to(tokens.device)[tokens]]

    def on_output(layer: int, _: Any) -> None:
        if layer == layers[-1]:
            raise StopForwardError

    plain = {layer: adapter.projection(layer) for layer in layers if layer not in experts}
    modules = {layer: each.module for layer, each in experts.items()}
    with ExitStack() as stack:
        for layer, each in experts.items():
            stack.enter_context(expert_by_expert(each, partial(on_keys, layer)))
        stack.enter_context(watching(plain, on_call))
        stack.enter_context(watching(modules, on_output=on_output))
        stack.enter_context(suppress(StopForwardError))
        adapter.backbone(input_ids=ids.to(adapter.device), attention_mask=mask.to(adapter.device), use_cache=False)
    return found


def _not_finite(adapter: ModelAdapter, layer: int) -> EngineError:
    """The error of activations that overflow."""
    return EngineError(
        f"the activations at layer {layer} ({adapter.parameter_name(layer)}) are not finite",
        hint="Compute the statistics in float32 or bfloat16: the model overflows in its own dtype.",
    )
