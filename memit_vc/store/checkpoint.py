"""A local Hugging Face checkpoint: which files it has, where each tensor is, what its bytes hash to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from memit_vc.errors import BaseChangedError, IntegrityError, StorageError, UnsupportedModelError
from memit_vc.foreign.data import json_value
from memit_vc.foreign.files import opened, read_file
from memit_vc.foreign.refused import Refused, hint_of
from memit_vc.objects import BaseManifest, TensorRecord
from memit_vc.progress import Progress, silent
from memit_vc.store.files import Stat, file_digest, file_stat, storage_errors
from memit_vc.store.parts import in_parts, part_of
from memit_vc.store.safetensors_file import MAX_HEADER, Entry, FileHeader, read_header

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
RECORD_FILE = "memitvc.json"
"""Beside a checkout's weights: which commit and state it was made of."""
CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
_CHUNK = 1 << 23
_LONGEST_CONFIG = 1 << 20
# what other frameworks and trainers keep beside a model; none of it belongs to an edited copy
_NOT_CARRIED = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".h5", ".msgpack", ".ot", ".npz", ".pkl"),
    *(".onnx", ".onnx_data", ".tflite", ".mlmodel", ".safetensors.index.json", ".bin.index.json"),
    *(ADAPTER_CONFIG, RECORD_FILE, "trainer_state.json"),
)
_CARRIED_DIRECTORIES = ("additional_chat_templates",)


@dataclass(frozen=True)
class Checkpoint:
    """The safetensors files that transformers would load from `directory`, their headers read and checked."""

    directory: Path
    files: Mapping[str, FileHeader]
    """Weight file -> header, sorted by name."""
    promised: Mapping[str, str] = field(default_factory=dict)
    """Tensor -> SHA-256 that its bytes must have whenever they are read; one that is not here is taken as it is."""

    @classmethod
    def find(cls, directory: Path) -> Checkpoint:
        """Look at a directory as transformers does: `model.safetensors` first, else the index and its shards.

        StorageError if there is nothing to load or a file cannot be read, UnsupportedModelError for a checkpoint
        without safetensors files, with a config that names others, or with a tensor named like a part, IntegrityError
        for an index that its files contradict.
        """
        if not directory.is_dir():
            raise StorageError(f"{directory}: is not a directory", hint="Give a directory with a Hugging Face model.")
        with storage_errors(directory):
            single = (directory / SINGLE_FILE).is_file()
            if not single and not (directory / INDEX_FILE).is_file():
                raise _nothing_to_load(directory)
            if (directory / ADAPTER_CONFIG).exists():
                raise UnsupportedModelError(
                    f"{directory}: has an adapter ({ADAPTER_CONFIG}) beside the weights; transformers would load both",
                    hint="Move the adapter's files elsewhere. `memitvc import --adapter DIR` makes a commit of them.",
                )
            named = _named_weights(directory / CONFIG)
            if named is not None:
                raise UnsupportedModelError(
                    f"{directory / CONFIG}: says that the weights are in {named!r} (transformers_weights); "
                    f"transformers would load these in place of {SINGLE_FILE if single else INDEX_FILE}",
                    hint="Load the model with transformers and save it again with save_pretrained.",
                )
            if single:
                return cls(directory, {SINGLE_FILE: read_header(directory / SINGLE_FILE)})._without_parts()
        index = _read_index(directory / INDEX_FILE)
        files = {name: read_header(directory / name) for name in sorted(set(index.values()))}
        found = cls(directory, files)
        for tensor, file in index.items():
            if tensor not in files[file].tensors:
                raise IntegrityError(
                    f"{directory / INDEX_FILE}: lists {tensor!r} in {file}, which does not contain it",
                    hint="Download the checkpoint again.",
                )
        _ = found.tensors
        return found._without_parts()

    def _without_parts(self) -> Checkpoint:
        for file, header in self.files.items():
            for name in header.tensors:
                if part_of(name)[1] is not None:
                    raise UnsupportedModelError(
                        f"{self.directory / file}: has a tensor {name!r}; memit-vc names the experts of a tensor so",
                        hint="Rename the tensor: no model of transformers has such a name.",
                    )
        return self

    def in_parts(self, names: Collection[str]) -> Checkpoint:
        """The same, with the parts of each tensor in place of the tensor, if `names` has all of its parts."""
        return replace(self, files={file: in_parts(header, names) for file, header in self.files.items()})

    def promising(self, manifest: BaseManifest) -> Checkpoint:
        """The same, with the hashes of a manifest as what its tensors' bytes must be."""
        return replace(self, promised={tensor.name: tensor.sha256 for tensor in manifest.tensors})

    @cached_property
    def tensors(self) -> dict[str, tuple[str, Entry]]:
        """Tensor -> (file, entry), sorted by name. IntegrityError for a tensor that two files hold: which is loaded
        depends on the loader.
        """
        found: dict[str, tuple[str, Entry]] = {}
        for file, header in self.files.items():
            for name, entry in header.tensors.items():
                if name in found:
                    raise IntegrityError(
                        f"{self.directory}: tensor {name!r} is both in {found[name][0]} and in {file}",
                        hint="Save the model again with transformers' save_pretrained.",
                    )
                found[name] = (file, entry)
        return dict(sorted(found.items()))

    @property
    def other_files(self) -> tuple[str, ...]:
        """Files that a copy of the model needs besides its weights: config, tokenizer, templates, custom code."""
        with storage_errors(self.directory):
            paths = list(self.directory.iterdir())
            for name in _CARRIED_DIRECTORIES:
                paths += sorted((self.directory / name).glob("*"))
            kept = [
                path.relative_to(self.directory).as_posix()
                for path in paths
                if path.is_file() and not path.name.startswith(".") and not path.name.endswith(_NOT_CARRIED)
            ]
        return tuple(sorted(kept))

    def file_hashes(self) -> dict[str, str]:
        """SHA-256 of each of `other_files`."""
        with storage_errors(self.directory):
            return {name: file_digest(self.directory / name) for name in self.other_files}

    def manifest(self, progress: Progress = silent) -> BaseManifest:
        """SHA-256 of every tensor's bytes, streamed."""
        records: list[TensorRecord] = []
        total, done = sum(entry.size for _, entry in self.tensors.values()), 0
        progress("hash tensors", 0, total)
        with storage_errors(self.directory), ThreadPoolExecutor(max_workers=2) as pool:
            for file, header in self.files.items():
                digests = pool.map(self._digest, [file] * len(header.tensors), header.tensors)
                for (name, e), sha in zip(header.tensors.items(), digests, strict=True):
                    records.append(TensorRecord(name=name, dtype=e.dtype, shape=e.shape, sha256=sha, file=file))
                    done += e.size
                    progress("hash tensors", done, total)
        return BaseManifest(tensors=tuple(sorted(records, key=lambda record: record.name)))

    def chunks(self, name: str) -> Iterator[bytes]:
        """One tensor's bytes as stored, in pieces of 8 MiB. StorageError for a file that has become shorter.

        BaseChangedError after the last piece if they are not what was promised.
        """
        file, entry = self.tensors[name]
        if name not in self.promised:
            yield from self._chunks(file, name, entry)
            return
        sha = hashlib.sha256()
        for chunk in self._chunks(file, name, entry):
            sha.update(chunk)
            yield chunk
        self.check(name, sha.hexdigest())

    def check(self, name: str, sha256: str) -> None:
        """BaseChangedError if a tensor's bytes, which were read, are not what was promised."""
        if self.promised.get(name, sha256) != sha256:
            raise BaseChangedError(
                f"{self.directory / self.tensors[name][0]}: tensor {name!r} is not the one that init recorded, though "
                "the file's size and date are",
                hint="Put the original file back: this one was damaged on the disk, or while it was read.",
            )

    def fingerprints(self) -> dict[str, Stat]:
        """[size, mtime in ns, inode] of every file, weights and others: enough to see that nothing was touched."""
        with storage_errors(self.directory):
            return {name: file_stat(self.directory / name) for name in sorted([*self.files, *self.other_files])}

    def unchanged(self, recorded: Mapping[str, Sequence[int]]) -> list[str]:
        """The files that are as `fingerprints` recorded them: these need not be read again."""
        return [name for name, stat in self.fingerprints().items() if stat == list(recorded.get(name, ()))]

    def differences(
        self,
        manifest: BaseManifest,
        files: Mapping[str, str],
        *,
        recorded: Mapping[str, Sequence[int]] | None = None,
        progress: Progress = silent,
    ) -> list[str]:
        """What is not as `init` recorded it: tensors of `manifest` and `files` (name -> SHA-256), one sentence each.

        Files that `unchanged(recorded)` names are taken as they are; the others are hashed, so that the same bytes
        with a new date do not count as a difference.
        """
        trusted = set(self.unchanged(recorded or {}))
        tensors, expected = self.tensors, {record.name: record for record in manifest.tensors}
        problems = [f"tensor {name!r} is new" for name in sorted(tensors.keys() - expected.keys())]
        problems += [f"tensor {name!r} is gone" for name in sorted(expected.keys() - tensors.keys())]
        common = sorted(expected.keys() & tensors.keys())
        with storage_errors(self.directory):
            for done, name in enumerate(common, 1):
                file, entry = tensors[name]
                record = expected[name]
                if (entry.dtype, entry.shape) != (record.dtype, record.shape):
                    problems.append(f"tensor {name!r} is {entry.dtype} {list(entry.shape)}")
                elif file not in trusted and self._digest(file, name) != record.sha256:
                    problems.append(f"tensor {name!r} in {file} has other bytes")
                progress("check base", done, len(common))
            for name, sha in sorted(files.items()):
                if not (self.directory / name).is_file():
                    problems.append(f"{name} is gone")
                elif name not in trusted and file_digest(self.directory / name) != sha:
                    problems.append(f"{name} has other bytes")
        return problems

    def _digest(self, file: str, name: str) -> str:
        sha = hashlib.sha256()
        for chunk in self._chunks(file, name, self.files[file].tensors[name]):
            sha.update(chunk)
        return sha.hexdigest()

    def _chunks(self, file: str, name: str, entry: Entry) -> Iterator[bytes]:
        path = self.directory / file
        with storage_errors(path), opened(path) as handle:
            handle.seek(self.files[file].data_start + entry.begin)
            left = entry.size
            while left:
                chunk = handle.read(min(left, _CHUNK))
                if not chunk:
                    raise StorageError(
                        f"{path}: ends inside tensor {name!r}",
                        hint="Run the command again when nothing else writes to the file: it changed meanwhile.",
                    )
                left -= len(chunk)
                yield chunk


def _read_index(path: Path) -> dict[str, str]:
    hint = "Download the checkpoint again."
    with storage_errors(path):
        try:
            record: Any = json_value(read_file(path, most=MAX_HEADER))
        except Refused as error:
            raise IntegrityError(f"{path}: {error}", hint=hint_of(error, hint)) from error
        except ValueError as error:
            raise IntegrityError(f"{path}: is not JSON: {error}", hint=hint) from error
    index = record.get("weight_map") if isinstance(record, dict) else None
    if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
        raise IntegrityError(f"{path}: has no weight_map of tensors to files", hint=hint)
    for file in sorted(set(index.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise IntegrityError(
                f"{path}: names {file!r}, which is not a safetensors file in the same directory", hint=hint
            )
        if not (path.parent / file).is_file():
            raise StorageError(f"{path.parent / file}: is missing, though {path.name} lists it", hint=hint)
    return index


def _nothing_to_load(directory: Path) -> StorageError | UnsupportedModelError:
    if (directory / ADAPTER_CONFIG).is_file():
        return UnsupportedModelError(
            f"{directory}: is an adapter{_of_base(directory / ADAPTER_CONFIG)}, not a model",
            hint="Give its base. Or merge the two with PEFT: model.merge_and_unload().save_pretrained(new), and the "
            "tokenizer likewise.",
        )
    found = sorted(path.name for path in directory.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".gguf"))
    if found:
        return UnsupportedModelError(
            f"{directory}: has {found[0]} but no safetensors files; memit-vc reads safetensors only",
            hint="Convert it once with transformers: AutoModelForCausalLM.from_pretrained(old).save_pretrained(new), "
            "and the tokenizer likewise.",
        )
    return StorageError(
        f"{directory}: has neither {SINGLE_FILE} nor {INDEX_FILE}", hint="Give a directory with a Hugging Face model."
    )


def _named_weights(config: Path) -> object:
    """What transformers would load before any other file; None if the config does not say, or cannot be read there
    either. Read as transformers does it, so that no config means one thing here and another there.
    """
    try:
        record: Any = json.loads(read_file(config, most=_LONGEST_CONFIG))
    except (FileNotFoundError, ValueError, RecursionError) as error:
        if isinstance(error, Refused):
            raise UnsupportedModelError(f"{config}: {error}", hint="Give the config of the model alone.") from error
        return None
    return record.get("transformers_weights") if isinstance(record, dict) else None


def _of_base(config: Path) -> str:
    """ " of NAME" as PEFT's config has it, or nothing."""
    try:
        record: Any = json_value(read_file(config, most=_LONGEST_CONFIG))
        name = record["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return f" of {name}" if isinstance(name, str) and name else ""


def stored_name_of(parameter: str, base_model: str, tensors: Collection[str]) -> str | None:
    """The checkpoint's name of a model's parameter; None if it has none, or several could be it. Checkpoints are
    written with or without the prefix of the base model (`base_model`).
    """
    bare = parameter.removeprefix(f"{base_model}.")
    for name in (parameter, bare, f"{base_model}.{parameter}"):
        if name in tensors:
            return name
    # a multimodal wrapper puts something in front of it: unambiguous if only one tensor ends so
    ends = [name for name in tensors if name.endswith(f".{bare}")]
    return ends[0] if len(ends) == 1 else None
