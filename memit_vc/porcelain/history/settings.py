"""What a state is solved with, as the provenance of its patches tells: layers, λ and statistics.

A patch that holds other patches' columns (`squash`), or their sum (`squash --compress`), was computed with nothing of
its own. It hands on the settings of its sources, which may be gone when somebody re-solves.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from memit_vc.errors import IntegrityError
from memit_vc.objects import BlobId, JsonValue, short

if TYPE_CHECKING:
    from memit_vc.porcelain.state import LiveState
    from memit_vc.repository import Repository


Settings: TypeAlias = tuple[tuple[int, ...], float, str]
"""(layers, λ, id of the statistics)."""


def settings_of(state: LiveState) -> set[Settings]:
    """Of every batch behind some columns, as far as it is recorded. IntegrityError for a record that is no JSON."""
    return settings_of_record(state.repository, (patch.header.provenance for patch in state.patches.values()))


def settings_of_record(repository: Repository, blobs: Iterable[BlobId | None]) -> set[Settings]:
    """Of provenance blobs; one that is not here tells nothing."""
    found: set[Settings] = set()
    for blob in blobs:
        if blob is None or not repository.blobs.has(blob):
            continue
        try:
            record = json.loads(repository.blobs.read(blob))
            found |= _read(record)
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"provenance {short(blob)} cannot be understood: {error}", hint="Run `memitvc fsck`."
            ) from error
    return found


def settings_json(settings: Collection[Settings]) -> JsonValue:
    """For the provenance of a patch made of other patches; always in the same order."""
    return [
        {"layers": list(layers), "mom2_update_weight": weight, "statistics": identifier}
        for layers, weight, identifier in sorted(settings)
    ]


def _read(record: Mapping[str, Any]) -> set[Settings]:
    if "settings" in record:
        return {
            (tuple(each["layers"]), float(each["mom2_update_weight"]), str(each["statistics"]))
            for each in record["settings"]
        }
    hparams, statistics = record.get("hparams"), record.get("statistics")
    if not isinstance(hparams, Mapping) or not isinstance(statistics, Mapping):
        return set()
    return {(tuple(hparams["layers"]), float(hparams["mom2_update_weight"]), str(statistics["id"]))}
