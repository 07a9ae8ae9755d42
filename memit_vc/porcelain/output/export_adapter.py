"""`export --adapter`: a state, or the difference of two, as a PEFT LoRA directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memit_vc.errors import UsageError
from memit_vc.objects import CommitId
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.store.files import write_atomic
from memit_vc.store.fresh import fresh_directory
from memit_vc.vcs.revisions import split_range

if TYPE_CHECKING:
    from memit_vc.repository import Repository


@dataclass(frozen=True)
class AdapterExport:
    """What was written. `since` is the commit that the adapter is relative to; None where that is the base.

    `ranks` and `errors` go by weight name; an error is ‖D − BA‖ / ‖D‖, 0 unless `max_rank` cut something off.
    """

    directory: Path
    commit: CommitId
    since: CommitId | None
    base: str
    ranks: Mapping[str, int]
    errors: Mapping[str, float]
    bytes: int


def export_adapter(
    repository: Repository,
    revision: str,
    out: Path,
    *,
    max_rank: int | None = None,
    progress: Progress = silent,
) -> AdapterExport:
    """Write `revision` ("REV": its state against the base; "A..B": the state of B against that of A) to `out`.

    UsageError where `out` is not empty, where the two states are the same, or for a `max_rank` below 1.
    """
    with fresh_directory(out) as temporary:
        made, files = adapter_files(repository, revision, max_rank=max_rank, progress=progress)
        size = 0
        for name, data in files.items():
            write_atomic(temporary / name, data)
            size += len(data)
    return AdapterExport(out, made.commit, made.since, made.base, made.ranks, made.errors, size)


def adapter_files(
    repository: Repository, revision: str, *, max_rank: int | None = None, progress: Progress = silent
) -> tuple[AdapterExport, dict[str, bytes]]:
    """The files' names and bytes, for whoever puts them elsewhere than in a directory."""
    from memit_vc.numerics.output.lora import CONFIG_FILE, WEIGHTS_FILE, adapter_config, adapter_weights, lora_layer

    if max_rank is not None and max_rank < 1:
        raise UsageError(f"--max-rank is {max_rank}", hint="A rank is at least 1.")
    ends = split_range(revision)
    since = None if ends is None else repository.resolve(ends[0])
    commit = repository.resolve(revision if ends is None else ends[1])
    old = LiveState(repository, ()) if since is None else LiveState.at(repository, since)
    change = old.change_to(LiveState.at(repository, commit).columns)
    if not change:
        raise UsageError(
            f"{revision}: there is nothing to export, no update separates it from the base"
            if since is None
            else f"{revision}: both ends have the same state",
            hint="`memitvc log` shows the history, `memitvc facts REV` what is in a state.",
        )
    added, removed = LiveState(repository, change.adds), LiveState(repository, change.removes)
    weights = LiveState(repository, change.adds | change.removes).touched
    layers = []
    for number, weight in enumerate(weights, 1):
        layers.append(lora_layer(added.terms(weight), removed.terms(weight), weight, max_rank=max_rank))
        progress("adapter", number, len(weights))
    config = adapter_config(layers, base=repository.config.base, revision=repository.config.revision)
    files = {
        CONFIG_FILE: json.dumps(config, indent=2, sort_keys=True).encode() + b"\n",
        WEIGHTS_FILE: adapter_weights(layers),
    }
    made = AdapterExport(
        directory=Path(),
        commit=commit,
        since=since,
        base=repository.config.base,
        ranks={layer.weight.name: layer.rank for layer in layers},
        errors={layer.weight.name: layer.error for layer in layers},
        bytes=sum(len(data) for data in files.values()),
    )
    return made, files
