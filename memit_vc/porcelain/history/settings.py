"""The settings that a state is solved with, read from the provenance of its patches: layers, λ and statistics.

A patch that holds other patches' columns (`squash`), or their sum (`squash --compress`), has no settings of its own. It
hands on those of its sources, which may be gone when someone re-solves.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from memit_vc.errors import IntegrityError
from memit_vc.objects import BlobId, JsonValue, StatisticsId, short

if TYPE_CHECKING:
    from memit_vc.porcelain.state import LiveState
    from memit_vc.repository import Repository


RESOLVED = "re-solve"
"""The algorithm of a patch that was solved from stored constraints."""
PUBLIC = ("shipped", "self", "pydoc")
"""Texts that everybody has, or that the model writes."""
Settings: TypeAlias = tuple[tuple[int, ...], float, str]
"""(layers, λ, id of the statistics)."""


def settings_of(state: LiveState) -> set[Settings]:
    """The recorded settings of every batch behind a state. IntegrityError for a damaged record."""
    return settings_of_record(state.repository, (patch.header.provenance for patch in state.patches.values()))


def settings_of_record(repository: Repository, blobs: Iterable[BlobId | None]) -> set[Settings]:
    """The settings in provenance blobs; one that is not here is passed over."""
    found: set[Settings] = set()
    for blob in blobs:
        if blob is None or not repository.blobs.has(blob):
            continue
        with understood(blob):
            found |= _read(json.loads(repository.blobs.read(blob)))
    return found


@contextmanager
def understood(blob: BlobId) -> Iterator[None]:
    """IntegrityError if the provenance that the block reads is damaged."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise IntegrityError(f"provenance {short(blob)} is damaged: {error}", hint="Run `memitvc fsck`.") from error


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


def public_corpus(repository: Repository, statistics: str) -> str | None:
    """The name of a text that comes with memit-vc, Python or the model; a file's name is nobody else's business."""
    record = repository.statistics().get(StatisticsId(statistics))
    corpus = record.get("corpus") if isinstance(record, Mapping) else None
    kind = corpus.get("kind") if isinstance(corpus, Mapping) else None
    return kind if isinstance(kind, str) and kind in PUBLIC else None


def corpus_of_record(record: Mapping[str, Any]) -> str | None:
    """What a provenance record says of the text, which somebody else may have written; None for another one."""
    statistics = record.get("statistics")
    corpus = statistics.get("corpus") if isinstance(statistics, Mapping) else None
    return corpus if isinstance(corpus, str) and corpus in PUBLIC else None


def corpus_of(repository: Repository, blobs: Iterable[BlobId | None]) -> str | None:
    """The text of the first provenance that names statistics; None if that one is not public."""
    for blob in blobs:
        if blob is not None and repository.blobs.has(blob):
            with understood(blob):
                record = json.loads(repository.blobs.read(blob))
                if isinstance(record, Mapping) and isinstance(record.get("statistics"), Mapping):
                    return corpus_of_record(record)
    return None
