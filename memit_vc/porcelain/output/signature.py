"""`sign` and `verify --signature`: who vouches for a model, whatever files it lies in.

What is signed is a statement: the commit, and name, type, shape and SHA-256 of every tensor. It stands in a directory
beside a signature that `model_signing` makes and verifies. Files are not signed, so a model in other shards keeps
its signature; config and tokenizer are not covered.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memit_vc.errors import UsageError, VerificationError
from memit_vc.foreign.data import json_value
from memit_vc.foreign.files import read_file
from memit_vc.objects import CommitId, JsonValue, StateId, canonical_json, is_sha256
from memit_vc.porcelain.output.verify import edited_hashes
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, count, silent
from memit_vc.store.checkpoint import Checkpoint
from memit_vc.store.files import storage_errors, write_atomic
from memit_vc.store.fresh import fresh_directory

if TYPE_CHECKING:
    from memit_vc.objects import BaseManifest
    from memit_vc.repository import Repository

STATEMENT, SIGNATURE = "statement.json", "model.sig"
_FORMAT = 1
_LONGEST = 1 << 26
_CURVES = "of an elliptic curve (P-256, P-384 or P-521)"


@dataclass(frozen=True)
class Signed:
    """A signed statement: the directory that it lies in or the model that it fits, what it names, how many tensors."""

    directory: Path
    commit: CommitId
    state: StateId
    tensors: int


def sign(repository: Repository, revision: str, out: Path, *, key: Path, password: str | None = None) -> Signed:
    """Sign the state of `revision` with a private key (PEM, elliptic curve) and write statement and signature to `out`.

    The tensors' hashes are those that `checkout` writes; no model is needed. UsageError for a key that cannot be used,
    if `out` is not empty, or if the package model-signing is missing. No network.
    """
    signing, _ = _model_signing()
    commit = repository.resolve(revision)
    state = LiveState.at(repository, commit)
    rows = _rows(repository.base(), edited_hashes(repository, commit, state.id))
    record: JsonValue = {
        "format": _FORMAT,
        "base": repository.base_id,
        "commit": commit,
        "state": state.id,
        "tensors": rows,
    }
    with fresh_directory(out) as temporary:
        write_atomic(temporary / STATEMENT, canonical_json(record))
        try:
            # it says that it takes a text, and hands on what it is given to one that takes bytes
            secret = None if password is None else password.encode()
            config = signing.Config().use_elliptic_key_signer(private_key=key, password=secret)
            config.sign(temporary, temporary / SIGNATURE)
        except Exception as error:  # OSError, ValueError, TypeError and cryptography's own, by the kind of the key
            raise UsageError(
                f"{key}: cannot sign: {_reason(error)}",
                hint="Run it with --ask-password."
                if "Password was not given" in str(error)
                else f"Give a private key {_CURVES} in PEM, for instance of "
                "`openssl ecparam -name prime256v1 -genkey -noout -out key.pem`.",
            ) from error
    return Signed(out, commit, state.id, len(rows))


def verify_signature(directory: Path, signature: Path, *, key: Path, progress: Progress = silent) -> Signed:
    """Prove that the model in `directory` is, tensor by tensor, what the holder of the private key to `key` signed.

    VerificationError if the statement was not signed so, or if a tensor is not the one that it names; UsageError if
    `key` is no such key; StorageError if something cannot be read. Neither a repository nor the network is needed.
    """
    _, verifying = _model_signing()
    with storage_errors(key):
        read_file(key, most=_LONGEST)
    with storage_errors(signature):
        parts = {name: read_file(signature / name, most=_LONGEST) for name in (STATEMENT, SIGNATURE)}
    with tempfile.TemporaryDirectory() as name:
        # what is verified is then what is read, and other files beside it do not matter
        place = Path(name, "signed")
        place.mkdir()
        (place / STATEMENT).write_bytes(parts[STATEMENT])
        (Path(name) / SIGNATURE).write_bytes(parts[SIGNATURE])
        try:
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
        except Exception as error:
            raise UsageError(
                f"{key}: cannot verify: {_reason(error)}",
                hint=f"Give a public key {_CURVES} in PEM, for instance of "
                "`openssl ec -in key.pem -pubout -out key.pub`.",
            ) from error
        try:
            verifier.verify(place, Path(name) / SIGNATURE)
        except Exception as error:
            raise VerificationError(
                f"{signature}: was not signed with the private key to {key}, or was changed since: {_reason(error)}",
                hint="Ask the author for the signature and the public key, over a way that you trust.",
            ) from error
    signed, record = _understood(parts[STATEMENT], signature / STATEMENT)
    said = {row[0]: row for row in record}
    there = {row[0]: row for row in _rows(Checkpoint.find(directory).in_parts(said).manifest(progress), {})}
    differing = sorted(name for name in there.keys() | said.keys() if there.get(name) != said.get(name))
    if differing:
        raise VerificationError(
            f"{directory}: is not the model that was signed: {count(len(differing), 'tensor')} missing, added or of "
            f"other bytes, {differing[0]} {'alone' if len(differing) == 1 else 'first'}",
            hint="Fetch the model again; its signature is whole.",
        )
    return Signed(directory, *signed, len(there))


def _rows(manifest: BaseManifest, edited: Mapping[str, str]) -> list[Any]:
    return [[t.name, t.dtype, list(t.shape), edited.get(t.name, t.sha256)] for t in manifest.tensors]


def _understood(data: bytes, path: Path) -> tuple[tuple[CommitId, StateId], list[Any]]:
    """The ids and the rows of a statement whose signature is right. VerificationError for one of another format."""
    try:
        record = json_value(data)
        commit, state, rows = record["commit"], record["state"], record["tensors"]
        if record["format"] != _FORMAT or not (is_sha256(commit) and is_sha256(state)):
            raise ValueError("it is of another format")
        if not all(isinstance(row, list) and len(row) == 4 and isinstance(row[0], str) for row in rows):
            raise ValueError("a tensor has other fields than name, type, shape and hash")
    except (ValueError, LookupError, TypeError) as error:
        raise VerificationError(
            f"{path}: is signed, but no statement of memit-vc: {error}", hint="Upgrade memit-vc, or ask its author."
        ) from error
    return (CommitId(commit), StateId(state)), rows


def _model_signing() -> tuple[Any, Any]:
    try:
        from model_signing import signing, verifying
    except ImportError as error:
        raise UsageError(
            f"signatures need the package model-signing: {error}", hint="Install it: pip install 'memit-vc[signing]'"
        ) from error
    return signing, verifying


def _reason(error: Exception) -> str:
    if isinstance(error, AttributeError):  # model_signing takes each key for one of an elliptic curve
        return "it is a key of another kind"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
