"""The hyperparameters in force: the repository's own, unless the user names others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memit_vc.hparams import MEMITHyperParams

if TYPE_CHECKING:
    from memit_vc.repository import Repository

__all__ = ["read_hparams"]


def read_hparams(repository: Repository, given: str | None = None) -> MEMITHyperParams:
    """Those of `.memitvc/hparams.yaml`, or of the file or shipped name that was given."""
    return MEMITHyperParams.from_hparams(given if given is not None else repository.hparams_path)
