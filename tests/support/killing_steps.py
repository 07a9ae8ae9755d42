"""Work in a child process that dies at its first durable step, then at its second, until it gets through."""

from __future__ import annotations

import os
from collections.abc import Callable

from sqlalchemy import Engine, event

__all__ = ["run_until_killed"]

_KILLED = 77
# the system calls by which files.py, blobs.py, create.py and gc.py make something visible, durable or gone
_STEPS = ("fsync", "rename", "mkdir", "open", "chmod", "unlink", "rmdir", "link")


def _die_at(step: int) -> None:
    """In this process, exit without any clean-up at the step-th durable call or commit, or within a transaction.

    Statements of one transaction are alike to a crash, so only every tenth counts.
    """
    left = [step]
    statements = [0]

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            os._exit(_KILLED)

    def count_tenth() -> None:
        statements[0] += 1
        if statements[0] % 10 == 0:
            count()

    def wrap(original: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **named: object) -> object:
            count()
            return original(*arguments, **named)

        return counted

    for name in _STEPS:
        setattr(os, name, wrap(getattr(os, name)))
    event.listen(Engine, "before_cursor_execute", lambda *_: count_tenth())
    event.listen(Engine, "commit", lambda *_: count())
    event.listen(Engine, "close", lambda *_: count())


def run_until_killed(work: Callable[[], object], check: Callable[[int], None]) -> int:
    """Run `work` in a child that dies at step 0, 1, 2 …, checking after each death, until it gets through."""
    for step in range(2000):
        child = os.fork()
        if child == 0:
            try:
                _die_at(step)
                work()
                os._exit(0)
            except BaseException:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, _KILLED), f"the command failed by itself with {code} at step {step}"
        check(step)
        if code == 0:
            return step
    raise AssertionError("never got through")
