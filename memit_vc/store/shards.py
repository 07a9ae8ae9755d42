"""Hot and cold shards of the base: the editable tensors apart, everything else linked.

    base/
      base.json                     what is where; written last
      model-hot.safetensors         the editable tensors, as the base has them
      model-cold-00001-of-00002.safetensors
      files/                        config, tokenizer, templates, custom code

A file of the base that holds no editable tensor is linked as it is; one that holds some is written once without them.

A checkout shares the cold shards (hard links), and its owner may write into them; a disk may change a bit and leave
size and date alone. So a checkout hashes what it takes. The stamps tell a later one, before it begins, what is certain
to have changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memit_vc.errors import BaseChangedError, IntegrityError, StorageError, UnsupportedModelError
from memit_vc.objects import BaseManifest, EditableWeight, JsonValue, canonical_json
from memit_vc.progress import Progress, silent
from memit_vc.store.checkpoint import Checkpoint
from memit_vc.store.files import (
    Stat,
    file_digest,
    file_stat,
    fsync_path,
    publish_directory,
    read_chunks,
    scratch,
    storage_errors,
    write_atomic,
)
from memit_vc.store.jsoncache import recall, remember
from memit_vc.store.links import in_hub_cache, link
from memit_vc.store.parts import Entries, file_layout, in_parts
from memit_vc.store.safetensors_file import read_header
from memit_vc.store.sealed import seal, unseal
from memit_vc.store.temporaries import clear_abandoned

HOT_FILE = "model-hot.safetensors"
FILES = "files"
STAMPS = "stamps.json"
"""Path below the directory -> [size, mtime, inode] that it had when its bytes were last known."""
_RECORD = "base.json"
_FORMAT = 2
_HOT_METADATA = {"format": "pt"}


@dataclass(frozen=True)
class ShardedBase:
    """A built `base/` directory."""

    directory: Path
    hot: Mapping[str, str]
    """Editable tensor -> SHA-256 of its bytes in the base."""
    cold: Mapping[str, tuple[str, ...]]
    """Cold file -> its tensors."""
    headers: Mapping[str, str]
    """Hot and cold file -> SHA-256 of its bytes before the data: the tensors' hashes do not cover them."""
    layout: str
    """Hash of every tensor's name, dtype, shape and place: a cheap sign of another checkpoint."""

    @property
    def id(self) -> str:
        """Tells checkouts of this base, split in this way, from all others."""
        return hashlib.sha256(canonical_json(self._json())).hexdigest()

    @classmethod
    def open(cls, directory: Path) -> ShardedBase:
        """Read what `build_base` wrote. StorageError if it is not there, IntegrityError if it is incomplete."""
        path = directory / _RECORD
        with storage_errors(path):
            raw = path.read_bytes()
        try:
            record = unseal(_RECORD, json.loads(raw))
            if record["format"] != _FORMAT:
                raise ValueError(f"format {record['format']}")
            cold = {file: tuple(names) for file, names in record["cold"].items()}
            base = cls(directory, dict(record["hot"]), cold, dict(record["headers"]), record["layout"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{path}: cannot be understood: {error}", hint=_REBUILD) from error
        for file in (HOT_FILE, *base.cold):
            if not (directory / file).is_file():
                raise IntegrityError(f"{directory / file}: is missing", hint=_REBUILD)
        return base

    @property
    def other_files(self) -> tuple[str, ...]:
        """Paths below `files/`."""
        root = self.directory / FILES
        return tuple(sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()))

    def paths(self) -> list[str]:
        """Every file that a checkout takes bytes from, relative to the directory."""
        return [HOT_FILE, *self.cold, *(f"{FILES}/{name}" for name in self.other_files)]

    def stamp(self) -> None:
        """Remember the files' present stamps: their bytes are known."""
        with contextlib.suppress(OSError):
            remember(self.directory / STAMPS, {file: file_stat(self.directory / file) for file in self.paths()})

    def forget(self, files: Iterable[str]) -> None:
        """Forget the stamps of files whose bytes turned out to be others: they are read before they are believed."""
        gone = set(files)
        stamps = recall(self.directory / STAMPS)
        remember(self.directory / STAMPS, {file: stamp for file, stamp in stamps.items() if file not in gone})

    def stale(self) -> list[str]:
        """The files whose stamp is a new one, or that are gone: their bytes have to be read."""
        stamps = recall(self.directory / STAMPS)
        files = dict.fromkeys([*self.paths(), *stamps])
        return [file for file in files if (now := _stat(self.directory / file)) is None or now != stamps.get(file)]

    def damaged(self, files: Iterable[str], manifest: BaseManifest, others: Mapping[str, str]) -> list[str]:
        """Those of `files` without the bytes that `manifest` (tensors) and `others` (name -> SHA-256) promise.

        A file that `others` does not know is believed.
        """
        damaged = []
        for file in files:
            path = self.directory / file
            if file == HOT_FILE or file in self.cold:
                names = self.hot.keys() if file == HOT_FILE else self.cold[file]
                whole = _holds(path, names, manifest, self.headers.get(file))
            else:
                promised = others.get(file.removeprefix(f"{FILES}/"))
                try:
                    whole = (promised is None and path.is_file()) or file_digest(path) == promised
                except OSError:
                    whole = False
            if not whole:
                damaged.append(file)
        return damaged

    def _json(self) -> dict[str, JsonValue]:
        cold: dict[str, JsonValue] = {file: list(names) for file, names in self.cold.items()}
        shards: dict[str, JsonValue] = {"hot": dict(self.hot), "cold": cold, "headers": dict(self.headers)}
        return {"format": _FORMAT, **shards, "layout": self.layout}


def build_base(
    checkpoint: Checkpoint,
    editable: Collection[str],
    into: Path,
    progress: Progress = silent,
    *,
    manifest: BaseManifest | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> ShardedBase:
    """Split `checkpoint` into hot and cold shards under `into`, unless that is done already.

    Built beside `into` and renamed, so that `into` is whole or not there. What an earlier call built for another
    checkpoint or other tensors is replaced, and so is what was damaged since: `tell` hears of it.
    UnsupportedModelError for an editable tensor that the checkpoint lacks, BaseChangedError for one whose bytes are not
    those of `manifest`; StorageError leaves nothing behind.
    """
    missing = sorted(set(editable) - checkpoint.tensors.keys())
    if missing:
        raise UnsupportedModelError(
            f"{checkpoint.directory}: has no tensor {missing[0]!r}",
            hint="Save it again with save_pretrained: its tensor names differ from those of its model class.",
        )
    layout = _layout(checkpoint)
    expected = {t.name: t.sha256 for t in manifest.tensors if t.name in editable} if manifest is not None else None

    def built_before(tell: Callable[[str], None]) -> ShardedBase | None:
        if not (into / _RECORD).is_file():
            return None
        try:
            built = ShardedBase.open(into)
        except IntegrityError as error:
            tell(f"{error.message}; it is built again from {checkpoint.directory}")
            return None
        if built.layout != layout or built.hot.keys() != set(editable) or expected not in (None, built.hot):
            tell(f"{into}: does not fit {checkpoint.directory}, so it is built again from there")
            return None
        stale = built.stale()
        if stale:
            promised = manifest if manifest is not None else checkpoint.manifest()
            damaged = built.damaged(stale, promised, checkpoint.file_hashes())
            if damaged:
                tell(
                    f"{into / damaged[0]}: was damaged, changed or deleted after it was built, so it is built again "
                    f"from {checkpoint.directory}. Earlier checkouts may share the changed bytes: check them with "
                    "`memitvc verify DIR`"
                )
                return None
            built.stamp()
        return built

    found = built_before(tell)
    if found is not None:
        return found
    clear_abandoned(into)
    with storage_errors(into), scratch(into) as place:
        made = place / "base"
        (made / FILES).mkdir(parents=True)
        base = _split(checkpoint, set(editable), made, layout, progress)
        if expected not in (None, base.hot):
            raise BaseChangedError(
                f"{checkpoint.directory}: its editable tensors are not the ones that `init` recorded",
                hint="Restore the checkpoint, or start a new repository on this one.",
            )
        other = built_before(lambda _: None)
        if other is not None:  # another checkout built it meanwhile, and may be reading it
            return other
        _make_way(into, place / "old")
        publish_directory(made, into)
    return replace(base, directory=into)


_REBUILD = "Delete the directory; the next checkout builds it again from the base checkpoint."


def _split(checkpoint: Checkpoint, editable: set[str], directory: Path, layout: str, progress: Progress) -> ShardedBase:
    files = {
        file: [name for name in header.tensors if name not in editable] for file, header in checkpoint.files.items()
    }
    files = {file: names for file, names in files.items() if names}
    rewritten = [file for file, names in files.items() if len(names) < len(checkpoint.files[file].tensors)]
    total = sum(checkpoint.tensors[name][1].size for name in [*editable, *(n for f in rewritten for n in files[f])])
    meter = _Meter(progress, total)
    hashes: dict[str, str] = {}
    write_atomic(directory / HOT_FILE, _tensor_file(checkpoint, sorted(editable), _HOT_METADATA, meter, hashes))
    cold: dict[str, tuple[str, ...]] = {}
    for number, (file, names) in enumerate(files.items(), 1):
        target = f"model-cold-{number:05}-of-{len(files):05}.safetensors"
        source = checkpoint.directory / file
        if file in rewritten:
            # older checkpoints lack the format, which transformers wants to see
            metadata = {"format": "pt", **checkpoint.files[file].metadata}
            # checkouts share it: who writes into one of theirs should at least be asked to chmod first
            content = _tensor_file(checkpoint, names, metadata, meter, {})
            write_atomic(directory / target, content, mode=0o444)
        else:
            link(source, directory / target, symlink=in_hub_cache(source))
        cold[target] = tuple(sorted(names))
    for name in checkpoint.other_files:
        _copy(checkpoint.directory / name, directory / FILES / name)
    headers = {file: _header_digest(directory / file) for file in (HOT_FILE, *cold)}
    base = ShardedBase(directory, hashes, cold, headers, layout)
    write_atomic(directory / _RECORD, canonical_json(seal(_RECORD, base._json())))
    base.stamp()
    return base


class _Meter:
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, size: int) -> None:
        self._done += size
        self._progress("split base", self._done, self._total)


def _tensor_file(
    checkpoint: Checkpoint, names: Sequence[str], metadata: Mapping[str, str], meter: _Meter, hashes: dict[str, str]
) -> Iterator[bytes]:
    """The bytes of a safetensors file with some tensors of the checkpoint; their SHA-256 go into `hashes`."""
    found = {name: checkpoint.tensors[name][1] for name in names}
    entries = {name: (entry.dtype, entry.shape) for name, entry in found.items()}
    head, order = file_layout(entries, metadata)
    yield head
    for name in order:
        sha = hashlib.sha256()
        for chunk in checkpoint.chunks(name):
            sha.update(chunk)
            meter.add(len(chunk))
            yield chunk
        hashes[name] = sha.hexdigest()


def _copy(source: Path, target: Path) -> None:
    write_atomic(target, read_chunks(source), mode=0o444)


def _layout(checkpoint: Checkpoint) -> str:
    rows: list[JsonValue] = [
        [name, entry.dtype, list(entry.shape), file, entry.begin] for name, (file, entry) in checkpoint.tensors.items()
    ]
    return hashlib.sha256(canonical_json(rows)).hexdigest()


def _make_way(into: Path, old: Path) -> None:
    """Empty the place for the new base: what is there becomes `old`."""
    if into.exists():
        into.rename(old)
        fsync_path(into.parent)


def _stat(path: Path) -> Stat | None:
    try:
        return file_stat(path)
    except OSError:
        return None


def hot_header(weights: Iterable[EditableWeight]) -> bytes:
    """The bytes before the data in the hot shard of any state. They are known, so no file is asked for them."""
    entries: Entries = {
        w.name: (w.dtype, (w.d_out, w.d_in) if w.orientation == "out_in" else (w.d_in, w.d_out)) for w in weights
    }
    return file_layout(entries, _HOT_METADATA)[0]


def _header_digest(path: Path) -> str:
    start = read_header(path).data_start
    with storage_errors(path), path.open("rb") as file:
        return hashlib.sha256(file.read(start)).hexdigest()


def _holds(path: Path, names: Collection[str], manifest: BaseManifest, header: str | None) -> bool:
    """Whether a file has this header, and exactly these tensors with the manifest's dtypes, shapes and bytes."""
    wanted = set(names)
    promised = {t.name: (t.dtype, t.shape, t.sha256) for t in manifest.tensors if t.name in wanted}
    try:
        if _header_digest(path) != header:
            return False
        held = Checkpoint(path.parent, {path.name: in_parts(read_header(path), wanted)}).manifest()
    except (StorageError, IntegrityError):
        return False
    return promised.keys() == wanted and promised == {t.name: (t.dtype, t.shape, t.sha256) for t in held.tensors}
