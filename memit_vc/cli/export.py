from __future__ import annotations

from pathlib import Path

import click

from memit_vc.cli.io import IO, verb
from memit_vc.progress import count, size_text

_PATH = click.Path(path_type=Path)


@verb(
    name="export",
    example="memitvc export --adapter lora\nmemitvc export --gguf edited.gguf --base-gguf base.gguf\n"
    "memitvc export v1.0..HEAD --patch changes.memitvc",
)
@click.argument("revision", default="HEAD", metavar="[REV | A..B]")
@click.option(
    "--adapter", type=_PATH, metavar="DIR", help="Write a PEFT LoRA adapter of the state, or of the difference A..B."
)
@click.option(
    "--max-rank", type=int, metavar="R", help="With --adapter: reduce the adapter to rank R, and print the error."
)
@click.option("--merged", type=_PATH, metavar="DIR", help="Write a plain checkpoint of the model.")
@click.option(
    "--dtype",
    metavar="DTYPE",
    help="With --merged: dtype of all float tensors: float32, bfloat16 or float16. Default: each tensor's own.",
)
@click.option(
    "--max-shard-size", metavar="SIZE", help="With --merged: largest size of a file, such as 2GB (default 5GB)."
)
@click.option(
    "--gguf",
    type=_PATH,
    metavar="FILE",
    help="Write one file for llama.cpp and Ollama; its header names the state (memitvc.state). Needs --base-gguf.",
)
@click.option("--base-gguf", type=_PATH, metavar="FILE", help="With --gguf: a GGUF file of the base, of any type.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["F32", "F16", "BF16", "Q8_0"], case_sensitive=False),
    help="With --gguf: type of the edited tensors. By default, an edited tensor gets the type that it has in the GGUF "
    "file of the base, if this type is F32, F16, BF16 or Q8_0. Otherwise the tensor gets BF16 if its dtype in the "
    "checkpoint is BF16, and F16 if not.",
)
@click.option(
    "--bom", type=_PATH, metavar="FILE", help="Write a bill of materials (CycloneDX): base, patches, facts, licences."
)
@click.option(
    "--patch", type=_PATH, metavar="FILE", help="Write one file with the commit REV or the commits A..B, for `import`."
)
@click.option(
    "--no-constraints",
    is_flag=True,
    help="With --patch: leave out the constraints. While facts of such a file are live in the repository that imports "
    "the file, --resolve is refused there, and `commit` needs `history: false`.",
)
def command(
    io: IO,
    revision: str,
    adapter: Path | None,
    max_rank: int | None,
    merged: Path | None,
    dtype: str | None,
    max_shard_size: str | None,
    gguf: Path | None,
    base_gguf: Path | None,
    kind: str | None,
    bom: Path | None,
    patch: Path | None,
    no_constraints: bool,
) -> None:
    """Write REV (default HEAD) for someone without memit-vc, or without access to this repository.

    Give one of --adapter, --merged, --gguf, --bom and --patch. --adapter, --merged and --gguf write the whole state of
    REV; with A..B, --adapter writes the difference of the two states. --patch writes only the changes of the commit
    REV, or of the commits A..B.
    """
    from memit_vc.store.fresh import refuse_inside_repository

    targets = {"--adapter": adapter, "--merged": merged, "--gguf": gguf, "--bom": bom, "--patch": patch}
    if sum(target is not None for target in targets.values()) != 1:
        raise click.UsageError("give one of --adapter DIR, --merged DIR, --gguf FILE, --bom FILE and --patch FILE")
    misplaced = [
        (option, of)
        for option, given, of in (
            ("--max-rank", max_rank is not None, "--adapter"),
            ("--dtype", dtype is not None, "--merged"),
            ("--max-shard-size", max_shard_size is not None, "--merged"),
            ("--base-gguf", base_gguf is not None, "--gguf"),
            ("--type", kind is not None, "--gguf"),
            ("--no-constraints", no_constraints, "--patch"),
        )
        if given and targets[of] is None
    ]
    if misplaced:
        raise click.UsageError(f"{misplaced[0][0]} goes with {misplaced[0][1]}")
    for target in targets.values():
        if target is not None:
            refuse_inside_repository(target)
    if adapter is not None:
        _adapter(io, revision, adapter, max_rank)
    elif merged is not None:
        _merged(io, revision, merged, dtype, max_shard_size or "5GB")
    elif gguf is not None:
        _gguf(io, revision, gguf, base_gguf, kind)
    elif bom is not None:
        _bom(io, revision, bom)
    elif patch is not None:
        _patch(io, revision, patch, constraints=not no_constraints)


def _adapter(io: IO, revision: str, out: Path, max_rank: int | None) -> None:
    from memit_vc.porcelain.output.export_adapter import export_adapter

    with io.repository() as repository, io.progress() as progress:
        made = export_adapter(repository, revision, out, max_rank=max_rank, progress=progress)
    ranks = sorted(set(made.ranks.values()))

    def render() -> None:
        rank = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        io.line(
            f"{made.directory}: LoRA of rank {rank} for {count(len(made.ranks), 'weight')}, {size_text(made.bytes)}"
        )
        for name, error in made.errors.items():
            if error:
                click.echo(f"  {name}: cut to rank {made.ranks[name]}, relative error {error:.2e}")

    io.emit(made, render)
    if made.since is not None:
        io.note(f"it holds the difference to {made.since[:10]}: load it on a model of that commit, not on the base")


def _merged(io: IO, revision: str, out: Path, dtype: str | None, max_shard_size: str) -> None:
    from memit_vc.porcelain.output.export_merged import export_merged

    with io.repository() as repository, io.progress() as progress:
        made = export_merged(repository, revision, out, dtype=dtype, max_shard_size=max_shard_size, progress=progress)

    def render() -> None:
        io.line(f"{made.directory}: state {made.state[:10]} of commit {made.commit[:10]}")
        files = sum(name.endswith(".safetensors") for name in made.files)
        click.echo(f"{count(files, 'file')} of weights, {size_text(made.bytes)}")

    io.emit(made, render)


def _gguf(io: IO, revision: str, out: Path, base: Path | None, kind: str | None) -> None:
    from memit_vc.porcelain.output.export_gguf import export_gguf

    with io.repository() as repository, io.progress() as progress:
        made = export_gguf(repository, revision, out, base_gguf=base, kind=kind, progress=progress)

    def render() -> None:
        io.line(f"{made.file}: state {made.state[:10]} of commit {made.commit[:10]}, {size_text(made.bytes)}")
        replaced = count(len(made.tensors), "tensor")
        kinds = ", ".join(sorted(set(made.tensors.values())))
        io.line(f"{replaced} replaced ({kinds}), all other tensors are those of {base}")

    io.emit(made, render)


def _bom(io: IO, revision: str, out: Path) -> None:
    from memit_vc.porcelain.sharing.bom import export_bom

    with io.repository() as repository:
        made = export_bom(repository, revision, out)

    def render() -> None:
        held = (count(made.commits, "commit"), count(made.patches, "patch", "es"), count(made.facts, "fact"))
        io.line(f"{made.file}: the base, {', '.join(held)}")

    io.emit(made, render)


def _patch(io: IO, revision: str, out: Path, *, constraints: bool) -> None:
    from memit_vc.porcelain.sharing.export_patch import export_patch

    with io.repository() as repository, io.progress() as progress:
        made = export_patch(repository, revision, out, constraints=constraints, progress=progress)

    def render() -> None:
        held = (count(len(made.commits), "commit"), count(made.patches, "patch", "es"), count(made.facts, "fact"))
        io.line(f"{made.file}: {', '.join(held)}, {size_text(made.bytes)}")

    io.emit(made, render)
