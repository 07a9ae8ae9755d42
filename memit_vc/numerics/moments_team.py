"""Second moments by several processes, bit-identical to one's.

Each process runs the forward of one batch in N; the keys go to everybody, and each process adds the keys of all
batches, in the batches' order, to its own tiles of every layer's sum. So every tile sees the additions that one process
makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from memit_vc.errors import EngineError
from memit_vc.numerics.adapter import ModelAdapter
from memit_vc.numerics.distributed import Message, Team, reported
from memit_vc.numerics.gram import Gram
from memit_vc.numerics.replay import evaluating

__all__ = ["JOB", "Pieces", "Rows", "SharedSums", "help_moments", "not_finite"]

JOB = "moments"

Rows: TypeAlias = "Sequence[Sequence[int]]"
Pieces: TypeAlias = "Callable[[ModelAdapter, Rows, Sequence[int]], Iterator[Mapping[int, Tensor]]]"
"""Keys by layer of a batch of rows, in one piece or, where memory is short, in several."""


class SharedSums:
    """The leader's side: `sums` are whole after `gather`; in between, it holds only its own tiles up to date."""

    def __init__(self, adapter: ModelAdapter, team: Team, sums: Mapping[int, Gram], pieces: Pieces) -> None:
        self._adapter, self._team, self._sums, self._pieces = adapter, team, sums, pieces
        self.width = team.size
        self._own = {layer: gram.part(0, team.size) for layer, gram in sums.items()}

    def order(self) -> Message:
        """The job as given out."""
        return Message({"job": JOB, "layers": list(self._sums)})

    def start(self) -> None:
        """Hand the sums so far to their owners."""
        for gram in self._sums.values():
            self._team.tell(Message(tensors=gram.tensors()))

    def add(self, batches: Sequence[Rows]) -> None:
        """Add the keys of at most N batches. EngineError for keys that are not finite, and where a process failed."""
        self._team.tell(Message({"batches": [[list(row) for row in rows] for rows in batches]}))
        _add(self._adapter, self._team, batches, self._own, self._pieces)

    def gather(self) -> None:
        """Fetch the tiles of the others into `sums`."""
        self._team.tell(Message({"gather": True}))
        for gram in self._sums.values():
            for source in range(1, self._team.size):
                gram.part(source, self._team.size).restore(self._team.receive(source).tensors)
        for layer, gram in self._sums.items():
            if not gram.finite():
                raise not_finite(self._adapter, layer)

    def end(self) -> None:
        self._team.tell(Message({"end": True}))


def help_moments(adapter: ModelAdapter, team: Team, order: Message, pieces: Pieces) -> None:
    """Helper: its share of a pass. LeftError where the leader gives up or any process fails."""
    own: dict[int, Gram] = {}
    for layer in order.body["layers"]:
        weight = adapter.weight(layer)
        own[layer] = Gram.zeros(int(weight.shape[1]), device=weight.device).part(team.rank, team.size)
        begun = team.told().tensors
        own[layer].restore({name: begun[name] for name in own[layer].tensors()})
    with torch.no_grad(), evaluating(adapter.model):
        while True:
            message = team.told()
            if message.body.get("end"):
                return
            if message.body.get("gather"):
                for gram in own.values():
                    team.send(Message(tensors=gram.tensors()))
            else:
                _add(adapter, team, message.body["batches"], own, pieces)


def _add(adapter: ModelAdapter, team: Team, batches: Sequence[Rows], own: Mapping[int, Gram], pieces: Pieces) -> None:
    mine = Message()
    if team.rank < len(batches):
        try:
            mine = _keys(adapter, batches[team.rank], list(own), pieces)
        except Exception as error:  # whatever it is, the others wait for an answer
            mine = reported(error)
    for message in team.exchange(mine):
        for piece in range(message.body.get("pieces", 0)):
            for layer, gram in own.items():
                gram.add(message.tensors[f"{piece}.{layer}"])


def _keys(adapter: ModelAdapter, rows: Rows, layers: Sequence[int], pieces: Pieces) -> Message:
    tensors = {}
    count = 0
    for index, keys in enumerate(pieces(adapter, rows, layers)):
        count = index + 1
        for layer in layers:
            if not bool(keys[layer].isfinite().all()):
                raise not_finite(adapter, layer)
            tensors[f"{index}.{layer}"] = keys[layer]
    return Message({"pieces": count}, tensors)


def not_finite(adapter: ModelAdapter, layer: int) -> EngineError:
    """The error of activations that overflow."""
    return EngineError(
        f"the activations at layer {layer} ({adapter.parameter_name(layer)}) are not finite",
        hint="The model overflows in its dtype: compute the statistics in float32 or bfloat16.",
    )
