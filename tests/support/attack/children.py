"""Commands in processes of their own: the fork server has imported everything, so that a command starts at once."""

from __future__ import annotations

import importlib
import os
import pkgutil
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

import transformers.models.auto.modeling_auto
import transformers.models.llama.modeling_llama  # noqa: F401  (loaded before the fork)

import memit_vc
from tests.support.killing_transfers import run

__all__ = ["fork_server", "started"]

for _module in pkgutil.walk_packages(memit_vc.__path__, "memit_vc."):
    if not _module.name.endswith("__main__"):
        with suppress(ImportError):  # of an extra that is not there
            importlib.import_module(_module.name)


def fork_server() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def started(arguments: list[str], *, steps: int | None, told: str, said: str) -> BaseProcess:
    """`memitvc …` in a child, which is killed before its step of the number `steps`. Writes the steps that it did to
    `told`, and what it prints to `said`.
    """
    child = fork_server().Process(target=_quiet, args=(arguments, steps, told, said))
    child.start()
    return child


def _quiet(arguments: list[str], steps: int | None, told: str, said: str) -> None:
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    run(arguments, steps, told)
