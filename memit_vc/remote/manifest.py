"""memitvc.json: what a remote publishes. Written canonically, read with suspicion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from memit_vc.errors import IntegrityError, RemoteError, UsageError
from memit_vc.foreign.data import json_value
from memit_vc.foreign.refused import Refused, hint_of
from memit_vc.objects import BaseId, CommitId, JsonValue, canonical_json, is_sha256
from memit_vc.remote.strict_json import DISTRUST
from memit_vc.vcs.refnames import check_ref_name

REMOTE_FORMAT = 1
MANIFEST, BASE, HPARAMS = "memitvc.json", "base.json", "hparams.yaml"
CARD = "README.md"
PICTURES = ("memitvc-history.svg", "memitvc-scores.svg")
"""The pictures that the model card shows: the history, and the scores."""
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
MAX_MANIFEST = 1 << 24
"""Bytes: some hundred thousand refs."""
MAX_RECORD = 1 << 26
"""Bytes of a commit's record: a batch of ten thousand facts with their probes and scores has some 40 MB."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_HUB_COMMIT = re.compile(r"[0-9a-f]{40}")


def commit_path(commit: str) -> str:
    """Where a commit is in the tree of a remote."""
    return f"commits/{commit}.json"


def unfinished_path(revision: str) -> str:
    """A marker in a bucket: the files for readers of this revision are not all there yet."""
    return f".memitvc-unfinished/{revision}"


def object_path(blob: str) -> str:
    """Where an object is in the tree of a remote."""
    return f"objects/{blob[:2]}/{blob[2:]}"


@dataclass(frozen=True)
class RemoteManifest:
    """`refs` maps heads/… and tags/… to commits; `default` is the branch that `clone` switches to.

    `source` and `revision` say where the base came from: a Hub id at a commit; both None for a local directory.
    """

    base: BaseId
    source: str | None
    revision: str | None
    default: str
    refs: Mapping[str, CommitId]

    def encode(self) -> bytes:
        refs: dict[str, JsonValue] = dict(self.refs)
        return canonical_json(
            {
                "format": REMOTE_FORMAT,
                "base": {"id": self.base, "source": self.source, "revision": self.revision},
                "default": self.default,
                "refs": refs,
            }
        )

    @classmethod
    def decode(cls, data: bytes, where: str) -> RemoteManifest:
        """IntegrityError for anything that `encode` does not write; RemoteError for a format of the future."""
        bad = IntegrityError(f"{where}: {MANIFEST} is damaged", hint=DISTRUST)
        try:
            record = json_value(data)
            version = record["format"]
            if type(version) is not int:
                raise bad
            if version != REMOTE_FORMAT:
                raise RemoteError(
                    f"{where}: has format {version}, this memit-vc reads {REMOTE_FORMAT}",
                    hint="Upgrade memit-vc.",
                )
            base, refs, default = record["base"], record["refs"], record["default"]
            texts = [default, *refs, *(base[name] for name in ("source", "revision") if base[name] is not None)]
            if not all(isinstance(text, str) for text in texts) or not all(
                map(is_sha256, [base["id"], *refs.values()])
            ):
                raise bad
            for name in refs:
                check_ref_name(name)
                if name.startswith("remotes/"):
                    raise bad
            if f"heads/{default}" not in refs:
                raise bad
            # the source is fetched when nothing else is known: it must be a Hub id at a commit, never a path
            source, revision = base["source"], base["revision"]
            if (source is None) != (revision is None):
                raise bad
            if source is not None and not (_HUB_ID.fullmatch(source) and _HUB_COMMIT.fullmatch(revision)):
                raise bad
            made = cls(BaseId(base["id"]), base["source"], base["revision"], default, refs)
            if made.encode() != data:
                raise bad
        except Refused as error:
            raise IntegrityError(f"{where}: {MANIFEST} {error}", hint=hint_of(error, DISTRUST)) from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, UsageError) as error:
            raise bad from error
        return made
