"""One command run by several processes of a torchrun launch: rank 0 leads, the others help with what can be split."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from memit_vc.errors import EngineError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.porcelain.editing.models import open_adapter
from memit_vc.store.checkpoint import Checkpoint

if TYPE_CHECKING:
    from memit_vc.numerics.model.adapter import ModelAdapter


def in_team(lead: Callable[[], int], *, local_rank: int) -> int:
    """Rank 0: what `lead` returns, helped by the others wherever it loads a base. Others: 0, when the leader is done.

    `local_rank` is the process's number on its machine, and its GPU's where there are GPUs. EngineError where another
    process is gone.
    """
    from memit_vc.numerics.helper import serve, stopping
    from memit_vc.numerics.model.distributed import joined

    def open_base(directory: str, dtype: str, device: str, hparams: str | None) -> ModelAdapter:
        own = f"cuda:{local_rank}" if device.startswith("cuda") else device
        named = None if hparams is None else MEMITHyperParams.from_yaml(hparams, source="hparams.yaml")
        return open_adapter(Checkpoint.find(Path(directory)), dtype=dtype, device=own, spread=False, hparams=named)

    with joined() as team:
        if team.rank:
            serve(team, open_base)
            return 0
        try:
            return lead()
        finally:
            with suppress(EngineError):  # a helper that is gone has said why
                team.tell(stopping())


def leave(code: int) -> NoReturn:
    """End this process of a launch with its exit code (`numerics.distributed.leave` says why not as usual)."""
    from memit_vc.numerics.model import distributed

    distributed.leave(code)
