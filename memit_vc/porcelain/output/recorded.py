"""The recorded hashes of a state's tensors, by which `verify` knows it.

They are recorded only for weights that were computed from bytes proved to be the base's and the patches'. A damaged
record counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from memit_vc.objects import StateId
from memit_vc.store.tensor_hashes import sealed_hashes, unsealed_hashes

if TYPE_CHECKING:
    from memit_vc.repository import Repository

_KIND, _KEY = "tensors", "sha256"


def recorded_hashes(repository: Repository, state: StateId) -> dict[str, str] | None:
    """SHA-256 of tensors of a state, of every one that it touches at least; None if none are known."""
    found = repository.evaluations(state, _KIND).get((_KIND, _KEY))
    try:
        return None if found is None else unsealed_hashes(state, found)
    except ValueError:
        return None


def record_hashes(repository: Repository, state: StateId, hashes: Mapping[str, str]) -> None:
    """Remember them, in place of what was recorded before."""
    if recorded_hashes(repository, state) != dict(hashes):
        repository.put_evaluation(state, None, _KIND, _KEY, sealed_hashes(state, hashes))


def take_back(repository: Repository, state: StateId) -> None:
    """Forget what was recorded: `verify` and `checkout` compute it again."""
    repository.forget_evaluation(state, _KIND, _KEY)
