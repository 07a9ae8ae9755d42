"""`export --adapter`: a state, or the difference of two, as a PEFT LoRA directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from memit_vc.errors import UnsupportedModelError, UsageError
from memit_vc.numerics.output.lora import CONFIG_FILE, WEIGHTS_FILE, adapter_config, adapter_weights, lora_layer
from memit_vc.objects import CommitId
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository
from memit_vc.store.files import write_atomic
from memit_vc.store.fresh import fresh_directory
from memit_vc.vcs.revisions import split_range


@dataclass(frozen=True)
class AdapterExport:
    """An adapter. `since` is the commit that it is relative to; None for the base. `bytes` are those of its files.

    `ranks` and `errors` go by weight name; an error is ‖D − BA‖ / ‖D‖, 0 unless `max_rank` cut something off.
    """

    directory: Path | None
    commit: CommitId
    since: CommitId | None
    base: str
    ranks: Mapping[str, int]
    errors: Mapping[str, float]
    bytes: int


def export_adapter(
    repository: Repository, revision: str, out: Path, *, max_rank: int | None = None, progress: Progress = silent
) -> AdapterExport:
    """Write `revision` ("REV": its state against the base; "A..B": the state of B against that of A) to `out`.

    UsageError if `out` is not empty, if the two states are the same, or if `max_rank` is below 1.
    """
    with fresh_directory(out) as temporary:
        made, files = adapter_files(repository, revision, max_rank=max_rank, progress=progress)
        for name, data in files.items():
            write_atomic(temporary / name, data)
    return replace(made, directory=out)


def adapter_files(
    repository: Repository, revision: str, *, max_rank: int | None = None, progress: Progress = silent
) -> tuple[AdapterExport, dict[str, bytes]]:
    """The adapter without a directory, and its files' names and bytes. UsageError as for `export_adapter`."""
    if max_rank is not None and max_rank < 1:
        raise UsageError(f"--max-rank is {max_rank}", hint="Give a rank of at least 1.")
    ends = split_range(revision)
    since = None if ends is None else repository.resolve(ends[0])
    commit = repository.resolve(revision if ends is None else ends[1])
    old = LiveState(repository, ()) if since is None else LiveState.at(repository, since)
    change = old.change_to(LiveState.at(repository, commit).columns)
    if not change:
        raise UsageError(
            f"{revision}: nothing to export, its state is the base's"
            if since is None
            else f"{revision}: nothing to export, both ends have the same state",
            hint="Choose another revision: `memitvc log` shows the history, `memitvc facts REV` the facts of a state.",
        )
    added, removed = LiveState(repository, change.adds), LiveState(repository, change.removes)
    weights = LiveState(repository, change.adds | change.removes).touched
    if any(weight.expert is not None for weight in weights):
        raise UnsupportedModelError(
            f"{weights[0].parameter} holds all experts of a layer, and an adapter wraps whole modules",
            hint="Write the model: `memitvc checkout -o DIR`, or `memitvc export --merged DIR`.",
        )
    layers = []
    for number, weight in enumerate(weights, 1):
        layers.append(lora_layer(added.terms(weight), removed.terms(weight), weight, max_rank=max_rank))
        progress("adapter", number, len(weights))
    # a path says nothing to anybody else, and adapters are given away
    on_base = since is None or not repository.state(since)  # else it fits an edited model, which has no name there
    base, at = (repository.config.hub_base, repository.config.revision) if on_base else (None, None)
    config = adapter_config(layers, base=base, revision=at)
    files = {
        CONFIG_FILE: json.dumps(config, indent=2, sort_keys=True).encode() + b"\n",
        WEIGHTS_FILE: adapter_weights(layers),
    }
    made = AdapterExport(
        directory=None,
        commit=commit,
        since=since,
        base=repository.config.base,
        ranks={layer.weight.name: layer.rank for layer in layers},
        errors={layer.weight.name: layer.error for layer in layers},
        bytes=sum(len(data) for data in files.values()),
    )
    return made, files
