"""Several processes at one edit (`torchrun --nproc-per-node N -m memit_vc …`): a leader and those that help it.

Rank 0 runs the command as it would alone, and is the only one that reads or writes the repository or prints. The others
hold the base model and wait for work: chunks of facts to search z for (`engine.py`), batches of tokens to take second
moments of (`moments_team.py`). What is computed together, and in what order it is summed, does not depend on the number
of processes, so the patch is the same, byte for byte, as one process computes with as many threads.

Messages are safetensors bytes over gloo: never pickle, and CPU tensors only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from memit_vc.errors import EngineError, MemitVCError

_BODY = "body"
_TIMEOUT = timedelta(days=30)
"""A helper waits for as long as the leader is busy with what cannot be split; a dead leader is noticed at once."""


@dataclass(frozen=True)
class Message:
    """Plain JSON values and CPU tensors by name."""

    body: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def encode(self) -> Tensor:
        body = torch.frombuffer(bytearray(json.dumps(dict(self.body)).encode()), dtype=torch.uint8)
        # cloned: safetensors refuses two names for one storage, which parts of one tensor are
        tensors = {f"{_BODY}.{n}": t.detach().cpu().contiguous().clone() for n, t in self.tensors.items()}
        return torch.frombuffer(bytearray(save({_BODY: body, **tensors})), dtype=torch.uint8)

    @classmethod
    def decode(cls, data: Tensor) -> Message:
        tensors = load(data.numpy().tobytes())
        body = json.loads(tensors.pop(_BODY).numpy().tobytes())
        return cls(body, {name.removeprefix(f"{_BODY}."): tensor for name, tensor in tensors.items()})


class LeftError(Exception):
    """The leader gave the present job up; a helper goes back to waiting for the next."""


@dataclass(frozen=True)
class Team:
    """The processes of this run. Every method is collective: all ranks call the matching one in the same order."""

    rank: int
    size: int

    def tell(self, message: Message) -> None:
        """Leader: give every helper a message. EngineError if one of them is gone."""
        self._broadcast(message, 0)

    def told(self) -> Message:
        """Helper: the leader's next message. LeftError if it gave the job up."""
        message = self._broadcast(None, 0)
        if message.body.get("leave"):
            raise LeftError
        return message

    def exchange(self, mine: Message) -> Iterator[Message]:
        """Everybody's message to everybody, in the order of ranks; the leader's is the first, so that it can leave.

        To be read to its end. LeftError as `told`; EngineError at the end where one of the messages reports an error.
        """
        failed: Message | None = None
        for source in range(self.size):
            message = self._broadcast(mine if source == self.rank else None, source)
            if source == 0 and self.rank != 0 and message.body.get("leave"):
                raise LeftError
            if "error" in message.body:
                failed = failed or message
            elif failed is None:
                yield message
        if failed is not None:
            if self.rank != 0:
                raise LeftError
            raise EngineError(failed.body["error"], hint=failed.body["hint"])

    def send(self, message: Message) -> None:
        """Helper: a message to the leader alone."""
        data = message.encode()
        with _connected():
            dist.send(torch.tensor([data.numel()]), 0)
            dist.send(data, 0)

    def receive(self, source: int) -> Message:
        """Leader: what helper `source` sent."""
        length = torch.zeros(1, dtype=torch.int64)
        with _connected():
            dist.recv(length, source)
            data = torch.empty(int(length), dtype=torch.uint8)
            dist.recv(data, source)
        return Message.decode(data)

    @contextmanager
    def job(self, order: Message) -> Iterator[None]:
        """Leader: give a job out; if the block fails, the helpers leave the job as well."""
        self.tell(order)
        try:
            yield
        except BaseException:
            with suppress(EngineError):
                self.tell(Message({"leave": True}))
            raise

    def _broadcast(self, message: Message | None, source: int) -> Message:
        data = None if message is None else message.encode()
        length = torch.tensor([0 if data is None else data.numel()])
        with _connected():
            dist.broadcast(length, source)
            if data is None:
                data = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(data, source)
        return Message.decode(data) if message is None else message


_TEAM: ContextVar[Team | None] = ContextVar("team", default=None)


@contextmanager
def joined() -> Iterator[Team]:
    """The team of this torchrun launch, which its environment describes, for the length of a block."""
    dist.init_process_group("gloo", timeout=_TIMEOUT)
    team = Team(dist.get_rank(), dist.get_world_size())
    token = _TEAM.set(team)
    try:
        yield team
    finally:
        _TEAM.reset(token)
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process of a launch with its exit code, without the interpreter's own clean-up.

    gloo's threads may still be dropping the last tensors; one that asks for the interpreter while that shuts down
    aborts the process ("terminate called without an active exception"), now and then, after all its work is done.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def present_team() -> Team | None:
    """The team of the `joined` block that this runs in.

    A script's own process group is not a team: its ranks may all run the same code, and none would help.
    """
    return _TEAM.get()


def reported(error: Exception) -> Message:
    """An error as a message, for `exchange`."""
    if isinstance(error, MemitVCError):
        return Message({"error": error.message, "hint": error.hint})
    return Message({"error": f"{type(error).__name__}: {error}", "hint": None})


@contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise EngineError(
            f"another process of this run has ended: {str(error).strip().splitlines()[0]}",
            hint="Read its own message. Nothing was committed; z already found is kept for the next try.",
        ) from error
