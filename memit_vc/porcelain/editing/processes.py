"""One command run by several processes of a torchrun launch: rank 0 leads, the others share its work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from memit_vc.errors import EngineError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.helper import serve, stopping
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.distributed import joined
from memit_vc.numerics.model.distributed import leave as leave
from memit_vc.porcelain.editing.models import open_adapter
from memit_vc.store.checkpoint import Checkpoint


def in_team(lead: Callable[[], int], *, local_rank: int) -> int:
    """Rank 0 runs `lead` and returns its result; the others help wherever it loads a base, and return 0.

    `local_rank` is the number of the process on its machine, and of its GPU. EngineError if another process is gone.
    """

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
            with suppress(EngineError):  # a helper that ended has said why
                team.tell(stopping())
