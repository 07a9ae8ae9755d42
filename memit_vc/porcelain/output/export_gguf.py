"""`export --gguf`: a state as one file for llama.cpp, Ollama and their kin, from a GGUF of the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from memit_vc.errors import UsageError
from memit_vc.numerics.output.gguf import CONVERT, KINDS, replacements, write_gguf
from memit_vc.objects import CommitId, StateId
from memit_vc.porcelain.base import checked_base
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository
from memit_vc.store.files import check_new_file, write_atomic
from memit_vc.store.gguf_file import read_gguf_header


@dataclass(frozen=True)
class GGUFExport:
    """What was written. `tensors` are those that were replaced, by their names in the file, with their types; all
    others have the bytes that they have in the base's file.
    """

    file: Path
    commit: CommitId
    state: StateId
    tensors: Mapping[str, str]
    bytes: int


def export_gguf(
    repository: Repository,
    revision: str,
    out: Path,
    *,
    base_gguf: Path | None,
    kind: str | None = None,
    progress: Progress = silent,
) -> GGUFExport:
    """Write the model of `revision` to `out`: the bytes of `base_gguf`, but for the edited tensors.

    `kind` is one of KINDS, for every edited tensor; None as for `replacements`. UsageError without `base_gguf`, if
    `out` exists, or if the state is the base's; errors of `replacements` and `write_gguf`, and nothing is left then.
    """
    if find_spec("gguf") is None:
        raise UsageError("export --gguf needs the package gguf", hint="Install it: `pip install 'memit-vc[gguf]'`.")
    if base_gguf is None:
        raise UsageError(
            "--gguf needs a GGUF of the base, in which it replaces the edited tensors",
            hint=f"Give it as --base-gguf FILE. There is none? {CONVERT}",
        )
    if kind is not None and kind not in KINDS:
        raise UsageError(f"--type {kind!r} is not known", hint=f"Choose one of {', '.join(KINDS)}.")
    check_new_file(out)
    commit = repository.resolve(revision)
    state = LiveState.at(repository, commit)
    edited = {weight.name: weight for weight in state.touched}
    if not edited:
        raise UsageError(
            f"{revision}: nothing to export, its state is the base's",
            hint=f"Use {base_gguf} itself: it holds that state.",
        )
    header = read_gguf_header(base_gguf)
    checkpoint = checked_base(repository, progress=progress)
    # also weights that only other states change: the file may hold one of those
    compared = {weight.name: weight for weight in repository.weights()} | edited
    found = replacements(header, checkpoint, list(compared.values()), edited, kind)
    write_atomic(
        out,
        write_gguf(
            header,
            checkpoint,
            found,
            lambda name: state.terms(edited[name]) if name in edited else [],
            state=state.id,
            progress=progress,
        ),
        replace=False,
    )
    return GGUFExport(out, commit, state.id, {each.tensor.name: each.kind for each in found}, out.stat().st_size)
