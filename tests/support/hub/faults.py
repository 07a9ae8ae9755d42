"""Faults that a test scripts: which request they hit, how often, and what then goes wrong."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Fault", "Faults"]


@dataclass
class Fault:
    """`route` is searched in "METHOD /path"; the fault passes `skip` matches over, then strikes `times` times.

    status: answer with `status` and nothing is done · lost: all is done, the answer is not sent · cut: the line ends
    (FIN) in the middle of the request's body, or of the answer's where the request has none · reset: the same, with a
    RST · flip: one byte of the answer is another, the length the same · body: the answer's body is `body`. `then` is
    called when the fault strikes, before the line is dropped.
    """

    route: str
    kind: Literal["status", "lost", "cut", "reset", "flip", "body"]
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"error":"injected fault"}'
    times: int = 1
    skip: int = 0
    struck: int = 0
    then: Callable[[], object] | None = None


class Faults:
    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, request: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if re.search(fault.route, request) and fault.struck < fault.times:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.struck += 1
                    return fault
        return None
