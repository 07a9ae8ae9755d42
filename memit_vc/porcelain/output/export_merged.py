"""`export --merged`: a state as a plain checkpoint that holds nothing of memit-vc."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memit_vc.errors import UsageError
from memit_vc.foreign.data import json_value
from memit_vc.foreign.files import read_file
from memit_vc.numerics.output.merged import write_merged
from memit_vc.objects import CommitId, StateId
from memit_vc.porcelain.base import MAX_CONFIG, checked_base
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository
from memit_vc.store.files import read_chunks, write_atomic
from memit_vc.store.fresh import fresh_directory

_CONFIG = "config.json"
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class MergedExport:
    """What was written; `files` are the weight files and their index, `bytes` their size."""

    directory: Path
    commit: CommitId
    state: StateId
    files: tuple[str, ...]
    bytes: int


def export_merged(
    repository: Repository,
    revision: str,
    out: Path,
    *,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
    progress: Progress = silent,
) -> MergedExport:
    """Write the model of `revision` to `out` as `save_pretrained` would: every byte copied, nothing linked.

    `dtype` is float32, bfloat16 or float16; None keeps the checkpoint's own, and the weights are those of `checkout`
    bit for bit. UsageError if `out` is not empty; errors of `write_merged`.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype!r} is not known", hint=f"Choose one of {', '.join(DTYPES)}.")
    _check_size(max_shard_size)
    commit = repository.resolve(revision)
    state = LiveState.at(repository, commit)
    weights = {weight.name: weight for weight in state.touched}
    with fresh_directory(out) as temporary:
        checkpoint = checked_base(repository, progress=progress)
        files = write_merged(
            checkpoint,
            list(weights.values()),
            lambda name: state.terms(weights[name]),
            temporary,
            dtype=None if dtype is None else DTYPES[dtype],
            max_shard_size=max_shard_size,
            progress=progress,
        )
        for name in checkpoint.other_files:
            source = checkpoint.directory / name
            write_atomic(
                temporary / name, _retyped(source, dtype) if name == _CONFIG and dtype else read_chunks(source)
            )
        size = sum((temporary / name).stat().st_size for name in files)
    return MergedExport(out, commit, state.id, tuple(files), size)


def _check_size(text: str) -> None:
    """UsageError for a text that is not a positive number and a unit; `write_merged` knows the units."""
    number = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*[A-Za-z]*", text.strip(), re.ASCII)
    if number is None or not 0 < float(number[1]) < 1e12:
        raise UsageError(f"--max-shard-size {text} is not a file size", hint="Write, for instance, 5GB.")


def _retyped(config: Path, dtype: str) -> bytes:
    """The bytes of a config.json that names the new dtype; older files call it torch_dtype."""
    record: dict[str, Any] = json_value(read_file(config, most=MAX_CONFIG))
    named = [key for key in ("dtype", "torch_dtype") if key in record] or ["dtype"]
    return json.dumps({**record, **dict.fromkeys(named, dtype)}, indent=2).encode() + b"\n"
