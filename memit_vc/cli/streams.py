"""Standard streams that are closed, and signals that end a command: neither may stop it half-way without a word."""

from __future__ import annotations

import codecs
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import FrameType

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end, and lets it clean up."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def open_streams() -> None:
    """Put /dev/null in the place of each standard stream that is closed, as under cron and daemons. Else the next file
    that the process opens would be taken for the stream.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, number)  # for programs that are started here, too
            if opened != number:
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 (as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and codecs.lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8")  # click would do so behind the back of what escapes control characters


@contextmanager
def stoppable() -> Iterator[None]:
    """In the block, SIGTERM and SIGHUP end the command as Ctrl-C does. One that the caller ignores stays ignored."""
    stopped: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)
        for each in replaced:
            if each != signal.SIGINT:  # a second one must not disturb the cleaning up; who sits there may insist
                signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    defaults: dict[int, signal._HANDLER] = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    here = threading.current_thread() is threading.main_thread()
    replaced = [number for number, default in defaults.items() if here and signal.getsignal(number) is default]
    for number in replaced:
        signal.signal(number, stop)
    try:
        yield
    except Exception as error:
        if stopped:  # a library that was being imported made another error of it
            raise Stopped(stopped[0]) from error
        raise
    finally:
        for number in replaced:
            signal.signal(number, defaults[number])
