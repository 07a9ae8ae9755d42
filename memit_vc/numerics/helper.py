"""What every process but the first does in a torchrun launch: hold the base, and do its share of the work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.distributed import LeftError, Message, Team
from memit_vc.numerics.search import targets_team
from memit_vc.numerics.statistics import moments_team


def opening(directory: str, *, dtype: str, device: str, hparams: str | None = None) -> Message:
    """Leader: the base that the next jobs are about, and the YAML text that names its parts."""
    return Message({"job": "open", "directory": directory, "dtype": dtype, "device": device, "hparams": hparams})


def stopping() -> Message:
    """Leader: no more work comes."""
    return Message({"job": "stop"})


def serve(team: Team, open_base: Callable[[str, str, str, str | None], ModelAdapter]) -> None:
    """Work until the leader stops. `open_base(directory, dtype, device, hyperparameters)` loads a base."""
    adapter: ModelAdapter | None = None
    while True:
        with suppress(LeftError):  # the leader gave a job up, or some process failed: wait for the next
            order = team.told()
            job = order.body["job"]
            if job == "stop":
                return
            if job == "open":
                where = order.body
                adapter = open_base(where["directory"], where["dtype"], where["device"], where["hparams"])
            elif adapter is not None and job == targets_team.JOB:
                targets_team.help_search(adapter, team, order)
            elif adapter is not None and job == moments_team.JOB:
                moments_team.help_moments(adapter, team, order)
