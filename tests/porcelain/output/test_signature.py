"""Signatures: they hold for the same tensors in other files, and for nothing else."""

from __future__ import annotations

import io
import shutil
from getpass import GetPassWarning
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from memit_vc.cli.main import main
from memit_vc.errors import MemitVCError, UsageError, VerificationError
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.export_merged import export_merged
from memit_vc.porcelain.output.signature import sign, verify_signature
from memit_vc.store.checkpoint import Checkpoint
from tests.support.opened import Opened


def keys(directory: Path, name: str = "key", *, password: bytes | None = None) -> tuple[Path, Path]:
    """A private and a public key."""
    private, public = directory / f"{name}.pem", directory / f"{name}.pub"
    made = ec.generate_private_key(ec.SECP256R1())
    locked = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
    private.write_bytes(made.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, locked))
    public.write_bytes(made.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.unlink()  # it may be a link into the repository
    path.write_bytes(data)


def test_a_signature_survives_other_shards_and_no_flipped_bit(opened: Opened, tmp_path: Path) -> None:
    repository = opened("llama")
    private, public = keys(tmp_path)
    made = sign(repository, "HEAD", tmp_path / "signature", key=private)
    assert (made.commit, made.tensors) == (repository.resolve("HEAD"), len(repository.base().tensors))
    one = checkout(repository, "HEAD", tmp_path / "one").directory
    other = export_merged(repository, "HEAD", tmp_path / "other", max_shard_size="30KB").directory
    assert len(Checkpoint.find(other).files) > len(Checkpoint.find(one).files)
    for directory in (one, other):
        found = verify_signature(directory, made.directory, key=public)
        assert (found.commit, found.state, found.tensors) == (made.commit, made.state, made.tensors)

    for directory in (one, other):
        file = sorted(Checkpoint.find(directory).files)[-1]
        flip(directory / file, -1)
        with pytest.raises(VerificationError, match=r"1 tensor .* alone"):
            verify_signature(directory, made.directory, key=public)


def test_what_was_not_signed_is_refused(opened: Opened, tmp_path: Path) -> None:
    repository = opened("llama")
    private, public = keys(tmp_path)
    _, stranger = keys(tmp_path, "stranger")
    signature = sign(repository, "HEAD", tmp_path / "signature", key=private).directory
    model = checkout(repository, "HEAD", tmp_path / "model").directory
    older = checkout(repository, "HEAD~1", tmp_path / "older").directory
    with pytest.raises(VerificationError, match="is not the model that was signed"):
        verify_signature(older, signature, key=public)
    with pytest.raises(VerificationError, match="was not signed with the private key"):
        verify_signature(model, signature, key=stranger)
    for name in ("statement.json", "model.sig"):
        changed = tmp_path / f"changed-{name}"
        shutil.copytree(signature, changed)
        flip(changed / name, len((changed / name).read_bytes()) // 2)
        with pytest.raises(VerificationError, match="was changed since"):
            verify_signature(model, changed, key=public)
    for missing in ((model, tmp_path / "none", public), (model, signature, tmp_path / "none")):
        with pytest.raises(MemitVCError):
            verify_signature(missing[0], missing[1], key=missing[2])
    (signature / "README.md").write_text("beside it")
    assert verify_signature(model, signature, key=public).commit == repository.resolve("HEAD")


def test_a_key_that_cannot_verify_is_not_called_a_forgery(opened: Opened, tmp_path: Path) -> None:
    repository = opened("llama")
    private, _ = keys(tmp_path)
    signature = sign(repository, "HEAD", tmp_path / "signature", key=private).directory
    model = checkout(repository, "HEAD", tmp_path / "model").directory
    public = pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo
    others = {
        "ed25519": (ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*public), "a key of another kind"),
        "secp256k1": (ec.generate_private_key(ec.SECP256K1()).public_key().public_bytes(*public), "Unsupported key"),
        "private": (private.read_bytes(), "Are you sure this is a public key"),
        "text": (b"key", "Unable to load PEM file"),
    }
    for name, (data, reason) in others.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=f"{name}: cannot verify: .*{reason}") as caught:
            verify_signature(model, signature, key=tmp_path / name)
        assert "P-256, P-384 or P-521" in (caught.value.hint or "")


def test_a_key_that_cannot_sign_leaves_nothing(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    repository = opened("llama")
    secret = tmp_path.name
    locked, public = keys(tmp_path, "locked", password=secret.encode())
    of_rsa = tmp_path / "rsa.pem"
    of_rsa.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()
        )
    )
    said = {public: "P-521", locked: "--ask-password", of_rsa: "P-521", tmp_path / "none": "P-521"}
    for key, hint in said.items():
        with pytest.raises(UsageError, match="cannot sign") as caught:
            sign(repository, "HEAD", tmp_path / "signature", key=key)
        assert hint in (caught.value.hint or "")
        assert "object has no attribute" not in str(caught.value)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    asked = ["sign", "--key", str(locked), "-o", str(tmp_path / "signature"), "--ask-password"]
    with pytest.warns(GetPassWarning):
        assert main(["-C", str(repository.directory), *asked]) == 2
    assert "no password was given" in capfd.readouterr().err
    assert not list(tmp_path.glob("signature*"))
    assert sign(repository, "HEAD", tmp_path / "signature", key=locked, password=secret).tensors
