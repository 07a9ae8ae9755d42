"""The places of shipped data and of the user's cache, and the repository's config.toml."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memit_vc.errors import MemitVCError, StorageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


_PLACES = {
    "base": ("base", "source"),
    "revision": ("base", "revision"),
    "author": ("user", "author"),
    "corpus": ("statistics", "corpus"),
    "health": ("statistics", "health"),
    "cache_bytes": ("cache", "bytes"),
    "require": ("policy", "require"),
}
"""Field of `Config` -> table and key of the file."""
_NEARLY = 0.76
"""How alike two names are (`difflib`) if one is taken for a slip: "users" and "user", not "case" and "base"."""


def data_directory(name: str) -> Path:
    """`migrations`, `hparams` or `text`: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).parent
    for candidate in (package / "_data" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise MemitVCError(f"memit-vc's own {name}/ directory is missing beside {package}", hint="Reinstall memit-vc.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`.memitvc/config.toml`.

    `base` is a Hub id with its commit `revision`, or an absolute directory with None. `corpus` is the default source of
    statistics, `health` the text whose perplexity is watched. `cache_bytes` limits the disk space of the hot shards of
    states that were checked out; 0 keeps none, None means 8 GiB. `require` are bounds on scores
    (`porcelain.editing.policy`). `remote` is the table of remotes as the file has it.
    """

    base: str
    revision: str | None = None
    author: str | None = None
    corpus: str | None = None
    health: str | None = None
    cache_bytes: int | None = None
    require: Sequence[str] = ()
    remote: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hub_base(self) -> str | None:
        """The base's name on the Hub; None for a local directory, whose name may be another model's there."""
        return self.base if self.revision is not None else None

    @property
    def remotes(self) -> dict[str, str]:
        """Name → URL. MemitVCError if a remote has no URL: commands that use no remote do not ask."""
        if not isinstance(self.remote, Mapping) or not all(
            isinstance(each, Mapping) and isinstance(each.get("url"), str) for each in self.remote.values()
        ):
            raise MemitVCError(
                "config.toml: [remote] must have tables with a URL", hint='Write [remote.origin] with url = "…".'
            )
        return {name: each["url"] for name, each in self.remote.items()}

    @classmethod
    def load(cls, path: Path) -> Config:
        """MemitVCError for a file that cannot be read, for an unknown key in a table of ours, and for what is likely
        meant for one, so that no bound is left out without a word. Other tables are the user's own.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}", hint="Check the permissions of the repository.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise MemitVCError(f"{path} is not valid TOML: {error}", hint="Correct the file by hand.") from error
        if "database" in table:
            raise MemitVCError(
                f"{path}: [database] is no longer supported: the database is {path.with_name('meta.db')}",
                hint="Remove it from the file. If a server holds the history, first push it to a remote with the "
                "version of memit-vc that uses that server, then clone it from there.",
            )
        values: dict[str, Any] = {}
        for name, (section, key) in _PLACES.items():
            found = table.get(section, {})
            if not isinstance(found, dict):
                raise MemitVCError(f"{path}: [{section}] must be a table", hint="Correct the file by hand.")
            _refuse_unknown(path, section, found)
            values[name] = found.get(key)
            if name == "require":
                texts = values[name] = found.get(key, ())
                if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
                    raise MemitVCError(
                        f"{path}: [policy] require must be a list of strings",
                        hint='Write it like require = ["argmax >= 0.95"].',
                    )
            elif name != "cache_bytes" and not isinstance(found.get(key, ""), str):
                raise MemitVCError(f"{path}: [{section}] {key} must be a string", hint="Correct the file by hand.")
        _refuse_misplaced(path, table)
        if values["base"] is None:
            raise MemitVCError(f"{path}: [base] source is missing", hint="Name the base: a Hub id or a directory.")
        limit = values["cache_bytes"]
        if limit is not None and (type(limit) is not int or limit < 0):
            raise MemitVCError(f"{path}: [cache] bytes is {limit!r}", hint="Give a number of bytes; 0 keeps nothing.")
        return cls(**values, remote=table.get("remote", {}))

    def dump(self, existing: bytes = b"") -> bytes:
        """The file's bytes; unset values are left out.

        Other tables and keys of `existing` stay. Its comments stay too if values are only added.
        """
        import tomli_w

        before = tomllib.loads(existing.decode("utf-8-sig"))
        table = deepcopy(before)
        for name, (section, key) in _PLACES.items():
            _set(table, section, key, list(self.require) or None if name == "require" else getattr(self, name))
        table.pop("remote", None)
        if self.remote:
            table["remote"] = self.remote
        if table == before:
            return existing
        added = {section: _without(part, before.get(section, {})) for section, part in table.items()}
        text = f"{existing.decode().rstrip()}\n\n{tomli_w.dumps({s: part for s, part in added.items() if part})}"
        try:
            same = tomllib.loads(text) == table
        except tomllib.TOMLDecodeError:
            same = False
        return (text.lstrip() if same else tomli_w.dumps(table)).encode()


def _refuse_unknown(path: Path, section: str, found: Mapping[str, Any]) -> None:
    """MemitVCError for a key that a section does not have."""
    keys = sorted(key for named, key in _PLACES.values() if named == section)
    for name in found:
        if name not in keys:
            near = difflib.get_close_matches(name.lower(), keys, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"[{section}] has {', '.join(keys)}."
            raise MemitVCError(f"{path}: [{section}] {name} is not known", hint=hint)


def _refuse_misplaced(path: Path, table: Mapping[str, Any]) -> None:
    """MemitVCError for a table that is nearly called as one of ours, for one of our keys outside all tables, and for
    bounds outside [policy].
    """
    homes = {key: section for section, key in _PLACES.values()}
    sections = sorted({*homes.values(), "remote"})
    for name, found in table.items():
        if name in sections:
            continue
        near = difflib.get_close_matches(name.lower(), sections, n=1, cutoff=_NEARLY)
        if not isinstance(found, Mapping):
            if name in homes:
                raise MemitVCError(f"{path}: {name} is in no table", hint=f"Write it below [{homes[name]}].")
        elif near or "require" in found:
            hint = f"Did you mean [{near[0]}]?" if near else "Bounds are in [policy]."
            raise MemitVCError(f"{path}: [{name}] is not known", hint=hint)


def _set(table: dict[str, Any], section: str, key: str, value: object) -> None:
    """Set a value, or with None take it away, and its section with the last one."""
    if value is not None:
        table.setdefault(section, {})[key] = value
    elif table.get(section, {}).pop(key, None) is not None and not table[section]:
        del table[section]


def _without(part: Any, known: Any) -> dict[str, Any]:
    """The keys of a section that are new."""
    return {key: value for key, value in part.items() if key not in known} if isinstance(part, dict) else {}


def user_cache() -> Path:
    """`$XDG_CACHE_HOME/memit-vc`, by default below ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "memit-vc"
