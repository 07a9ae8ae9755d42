"""A state as a directory that anything loads: one new hot shard, everything else linked."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from memit_vc.errors import IntegrityError, StorageError, UnsupportedModelError, UsageError
from memit_vc.numerics.exact.factored import Term
from memit_vc.numerics.exact.materialise import STORAGE_DTYPES
from memit_vc.numerics.output.hotshard import (
    DamagedShardsError,
    StaleShardError,
    copied_shard,
    hot_shard,
)
from memit_vc.objects import BaseManifest, EditableWeight, JsonValue, StateId, canonical_json
from memit_vc.progress import Progress, silent
from memit_vc.store.checkpoint import INDEX_FILE, RECORD_FILE, SINGLE_FILE, Checkpoint
from memit_vc.store.files import is_free, new_directory, read_chunks, storage_errors, write_atomic
from memit_vc.store.hotcache import HotCache
from memit_vc.store.jsoncache import read_or_empty
from memit_vc.store.links import LinkKind, link
from memit_vc.store.safetensors_file import read_header
from memit_vc.store.shards import FILES, HOT_FILE, ShardedBase, build_base, hot_header
from memit_vc.store.temporaries import clear_abandoned

CACHE_LIMIT = 8 << 30


@dataclass(frozen=True)
class Promise:
    """What the bytes must hash to: those of the base's tensors and other files, and, if that is known, of the edited
    tensors of the state.
    """

    manifest: BaseManifest
    files: Mapping[str, str]
    state: Mapping[str, str] | None = None


_BASE_KEY = "memitvc_base"


@dataclass(frozen=True)
class CheckoutResult:
    """`tensors` are the SHA-256 of the editable tensors (the others are the base's), `links` how cold files came."""

    directory: Path
    hot_bytes: int
    tensors: Mapping[str, str]
    links: Mapping[str, LinkKind] = field(default_factory=dict)
    cached: bool = False


def prepare_base(
    checkpoint: Checkpoint,
    weights: Sequence[EditableWeight],
    into: Path,
    progress: Progress = silent,
    *,
    manifest: BaseManifest | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> None:
    """Build the hot and cold shards of the base under `into`; at once done where they are there already. Where they
    were damaged since, they are built again and `tell` hears of it.

    UnsupportedModelError for a weight that the checkpoint lacks or stores in a dtype that cannot be edited,
    IntegrityError for one of another shape, BaseChangedError for one whose bytes are not those of `manifest`.
    """
    for weight in weights:
        found = checkpoint.tensors.get(weight.name)
        if found is None:
            continue  # build_base says what is missing
        entry, shape = found[1], (weight.d_out, weight.d_in)
        if entry.dtype not in STORAGE_DTYPES:
            raise UnsupportedModelError(
                f"{checkpoint.directory}: {weight.name} is stored as {entry.dtype}, which cannot be edited exactly",
                hint="Use the unquantised checkpoint, or export an adapter: quantised weights hold no small updates.",
            )
        if entry.dtype != weight.dtype or entry.shape != (shape if weight.orientation == "out_in" else shape[::-1]):
            raise IntegrityError(
                f"{checkpoint.directory}: {weight.name} is {entry.dtype} {list(entry.shape)}, "
                f"the history says {weight.dtype} {list(shape)} as {weight.orientation}",
                hint="Restore the files of the base that `init` recorded, or start a new repository.",
            )
    build_base(checkpoint, {weight.name for weight in weights}, into, progress, manifest=manifest, tell=tell)


def checkout(
    base_dir: Path,
    weights: Sequence[EditableWeight],
    terms: Callable[[str], Iterable[Term]],
    out: Path,
    *,
    record: JsonValue,
    replace: bool = False,
    progress: Progress = silent,
    cache: Path | None = None,
    cache_limit: int = CACHE_LIMIT,
    state: StateId | None = None,
    promise: Promise | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> CheckoutResult:
    """Write a state as a Hugging Face directory `out`.

    `base_dir` was built by `prepare_base`; `terms(name)` gives the state's terms of a weight; `record` becomes
    `memitvc.json`. With `cache` (a directory) and `state`, hot shards are kept, up to `cache_limit` bytes, and reused.

    `out` appears whole, by one rename, or not at all. `replace` switches an earlier checkout of the same base instead:
    its hot shard is replaced by rename, never written into, so that models mapped on it live on; after a crash its
    weights are wholly the old state's or the new one's. `memitvc.json` may then still name the old state: `verify` goes
    by the weights and says so, and the next switch writes both again.

    Every byte that is taken is hashed, once, while it is read: DamagedShardsError, and nothing is left or switched, if
    a shard is not what `promise` says, or else what was recorded when it was built. `tell` hears of a cached shard that
    was damaged, and is made again.

    UsageError if `out` holds anything else, StorageError (nothing left) where the system refuses,
    IntegrityError and EngineError from materialising.
    """
    base = ShardedBase.open(base_dir)
    hots = HotCache(cache / "hot", cache_limit) if cache is not None and state is not None else None
    fresh = _is_fresh(out, base, replace=replace)
    known = promise.state if promise is not None else None

    def made(hashes: dict[str, str]) -> Iterator[bytes | memoryview]:
        return hot_shard(base_dir / HOT_FILE, weights, terms, base.hot, hashes, progress)

    def write_hot(path: Path, check_rest: Callable[[], None]) -> tuple[dict[str, str], bool]:
        found = hots.find(state, base) if hots is not None and state is not None else None
        if hots is not None and state is not None and found is not None:
            try:
                if known is not None and found[1] != known:
                    raise StaleShardError(f"{found[0]}: its record is not that of its state")
                write_atomic(
                    path,
                    _before_the_end(copied_shard(found[0], hot_header(weights), *found[1:], progress), check_rest),
                )
                return found[1], True
            except StaleShardError as error:
                tell(f"{error}; the weights are computed again")
                hots.drop(state, base)
        hashes: dict[str, str] = {}

        def check_all() -> None:
            check_rest()
            if known is not None and hashes != known:
                _check_twice(made, hashes)
                tell("the recorded hashes of this state were wrong; they are replaced")

        write_atomic(path, _before_the_end(made(hashes), check_all))
        return hashes, False

    with _others_hashed(base, promise) as check_rest:
        if not fresh:
            for name in (HOT_FILE, RECORD_FILE):
                clear_abandoned(out / name)
            hashes, cached = write_hot(out / HOT_FILE, check_rest)
            links = _complete(base, out)
            _write_record(out, record)
        else:
            hashes, cached, links = _publish(base, out, record, lambda path: write_hot(path, check_rest))
    if hots is not None and state is not None and not cached:
        hots.keep(state, base, out / HOT_FILE, hashes)
    with storage_errors(out):
        size = (out / HOT_FILE).stat().st_size
    return CheckoutResult(out, size, hashes, links, cached)


def _before_the_end(chunks: Iterable[bytes | memoryview], check: Callable[[], None]) -> Iterator[bytes | memoryview]:
    """The chunks, and a check that must pass before their file gets its name."""
    yield from chunks
    check()


def _check_twice(made: Callable[[dict[str, str]], Iterable[object]], hashes: Mapping[str, str]) -> None:
    """IntegrityError unless the same hashes come out once more: then it is the record that was wrong."""
    again: dict[str, str] = {}
    deque(made(again), maxlen=0)
    if again != hashes:
        raise IntegrityError(
            "the same weights were computed twice, with two results",
            hint="Check this machine's memory: the sums are exact, so the same bytes must come out.",
        )


@contextmanager
def _others_hashed(base: ShardedBase, promise: Promise | None) -> Iterator[Callable[[], None]]:
    """Hash what is linked or copied as it is, while the block writes. The function that it is given waits for the end;
    DamagedShardsError if a file is not the base's.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        files = [] if promise is None else [file for file in base.paths() if file != HOT_FILE]
        found = None if promise is None else pool.submit(base.damaged, files, promise.manifest, promise.files)

        def check() -> None:
            damaged = [] if found is None else found.result()
            if damaged:
                raise DamagedShardsError(base.directory, damaged)

        yield check


def _publish(
    base: ShardedBase, out: Path, record: JsonValue, write_hot: Callable[[Path], tuple[dict[str, str], bool]]
) -> tuple[dict[str, str], bool, dict[str, LinkKind]]:
    with new_directory(out) as temporary:
        hashes, cached = write_hot(temporary / HOT_FILE)
        links = _complete(base, temporary)
        write_atomic(temporary / INDEX_FILE, _index(base, temporary))
        _write_record(temporary, record)
    return hashes, cached, links


def _is_fresh(out: Path, base: ShardedBase, *, replace: bool) -> bool:
    """True if `out` is to be made, False if it is a checkout to switch; UsageError for anything else."""
    if is_free(out):
        return True
    with storage_errors(out):
        ours = (out / RECORD_FILE).is_file()
    if not ours and replace:
        raise UsageError(
            f"{out}: is not a checkout of memit-vc, so it cannot be switched",
            hint="Make a checkout: -o with a new directory.",
        )
    if not ours:
        raise UsageError(f"{out}: exists and is not empty", hint="Choose another directory; nothing is overwritten.")
    if not replace:
        raise UsageError(
            f"{out}: holds an earlier checkout", hint="Choose another directory, or switch this one with --in-place."
        )
    if _base_id(out) == base.id and not (out / SINGLE_FILE).exists():
        return False
    raise UsageError(
        f"{out}: is a checkout of another base, or from before other layers were edited, or its index was changed",
        hint="Check out into another directory.",
    )


def base_of(out: Path, bases: Path) -> frozenset[str] | None:
    """The weights in the hot shard of a checkout, by the base below `bases` that it was made of; None for any other
    directory.
    """
    wanted = _base_id(out)
    for directory in bases.iterdir() if wanted is not None and bases.is_dir() else ():
        with suppress(IntegrityError, StorageError, OSError):
            found = ShardedBase.open(directory)
            if found.id == wanted:
                return frozenset(found.hot)
    return None


def _base_id(out: Path) -> str | None:
    metadata = read_or_empty(out / INDEX_FILE).get("metadata")
    return str(metadata[_BASE_KEY]) if isinstance(metadata, dict) and _BASE_KEY in metadata else None


def _complete(base: ShardedBase, directory: Path) -> dict[str, LinkKind]:
    """Link the cold shards that `directory` lacks, and copy the other files that it lacks."""
    links: dict[str, LinkKind] = {}
    for file in base.cold:
        if not (directory / file).exists():
            source = base.directory / file
            # a link into the Hub's cache outlives this repository, one into the repository might not
            links[file] = link(source, directory / file, symlink=source.is_symlink())
    for name in base.other_files:
        if not (directory / name).exists():
            clear_abandoned(directory / name)
            with storage_errors(base.directory / FILES / name):
                write_atomic(directory / name, read_chunks(base.directory / FILES / name))
    return links


def _index(base: ShardedBase, directory: Path) -> bytes:
    headers = {file: read_header(directory / file) for file in (HOT_FILE, *base.cold)}
    places = {name: file for file, header in headers.items() for name in header.tensors}
    size = sum(entry.size for header in headers.values() for entry in header.tensors.values())
    record = {"metadata": {"total_size": size, _BASE_KEY: base.id}, "weight_map": dict(sorted(places.items()))}
    return json.dumps(record, indent=2).encode() + b"\n"


def _write_record(directory: Path, record: JsonValue) -> None:
    write_atomic(directory / RECORD_FILE, json.dumps(json.loads(canonical_json(record)), indent=2).encode() + b"\n")
