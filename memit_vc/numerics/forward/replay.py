"""Run some blocks of a model on hidden states of one's own, with the arguments that the model itself would pass them.

A forward of the whole model is watched once: each block's arguments (masks, rotary tables, alibi, caches) are kept.
Afterwards any run of blocks can be called again with other hidden states. This needs nothing family-specific: every
transformers decoder passes its blocks the hidden states as first argument and gets them back first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from memit_vc.numerics.model.adapter import ModelAdapter


class StopForwardError(Exception):
    """Raised by a hook to leave a forward whose rest is not needed; for its caller to catch."""


def cache_argument(module: nn.Module) -> str:
    """What `module.forward` calls its cache of keys and values: `cache` in newer releases of transformers."""
    return "cache" if "cache" in inspect.signature(type(module).forward).parameters else "past_key_values"


@dataclass(frozen=True)
class Recording:
    """What the model passed to its blocks in one forward, and the block outputs that were asked for."""

    calls: Mapping[int, tuple[tuple[Any, ...], dict[str, Any]]]
    outputs: Mapping[int, Tensor]
    """Block outputs [rows, tokens, d_model] by block index; -1 is the input of block 0."""
    unchanged: Tensor = field(default_factory=lambda: torch.empty(0))
    """Where a block's output was changed: what it was before, without gradients. Empty if none was."""

    def before(self, places: Tensor) -> Tensor:
        """`unchanged` at `places` [2, rows], each a row and a token: float32 [rows, d_model]."""
        return self.unchanged[tuple(places.to(self.unchanged.device))].float()


def hidden_of(output: Any) -> Tensor:
    """A block's hidden states, whether it returns a tensor or a tuple (that depends on the family and the release)."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode (no dropout), and each module's own mode given back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def watching(
    modules: Mapping[Any, nn.Module],
    on_call: Callable[[Any, tuple[Any, ...], dict[str, Any]], None] | None = None,
    on_output: Callable[[Any, Any], Any] | None = None,
) -> Iterator[None]:
    """Hooks on some modules for the length of a block; all are taken off again, whatever happens in it."""
    with ExitStack() as stack:
        for key, module in modules.items():
            if on_call is not None:
                before = module.register_forward_pre_hook(
                    lambda _, args, kwargs, key=key: on_call(key, args, kwargs), with_kwargs=True
                )
                stack.callback(before.remove)
            if on_output is not None:
                after = module.register_forward_hook(lambda _, __, output, key=key: on_output(key, output))
                stack.callback(after.remove)
        yield


def record(
    adapter: ModelAdapter,
    inputs: Mapping[str, Any],
    *,
    keep: Collection[int] = (),
    calls: range | None = None,
    change: tuple[int, Callable[[Tensor], Tensor]] | None = None,
    through: bool = False,
) -> Recording:
    """One forward of the backbone; stops after the last block that anything is wanted of.

    `change` (block, function) makes of a block's hidden states those that the next one gets, and what follows is
    differentiable; without it there are no gradients. `through`: gradients also flow into that block.
    """
    wanted = range(adapter.n_layers) if calls is None else calls
    last = max([*wanted, *keep, 0])
    kept: dict[int, Tensor] = {}
    before: list[Tensor] = []
    seen: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def on_call(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if index == 0 and -1 in keep:
            kept[-1] = args[0] if args else kwargs["hidden_states"]
        if index in wanted:
            rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            seen[index] = (args[1:], rest)

    def on_output(index: int, output: Any) -> Any:
        hidden = hidden_of(output)
        if change is not None and index == change[0]:
            before.append(hidden.detach())
            hidden = change[1](hidden if through else before[0])
        if index in keep:
            kept[index] = hidden
        if index == last:
            raise StopForwardError
        if change is None or index != change[0]:
            return None
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    blocks = {i: adapter.blocks[i] for i in range(last + 1)}
    with (
        torch.set_grad_enabled(change is not None and torch.is_grad_enabled()),
        evaluating(adapter.model),
        suppress(StopForwardError),
        watching(blocks, on_call, on_output),
    ):
        adapter.backbone(**inputs)
    return Recording(seen, kept, before[0] if before else torch.empty(0))


def replay(adapter: ModelAdapter, recording: Recording, hidden: Tensor, *, blocks: Sequence[int]) -> Tensor:
    """Output [rows, tokens, d_model] of the last of `blocks`, run one after the other on `hidden`. Differentiable."""
    for index in blocks:
        args, kwargs = recording.calls[index]
        block = adapter.blocks[index]
        hidden = hidden_of(block(hidden.to(next(block.parameters()).device), *args, **kwargs))
    return hidden
