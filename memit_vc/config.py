"""Where shipped data and the user's cache lie, and the repository's config.toml."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from memit_vc.errors import MemitVCError, StorageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Config", "data_directory", "user_cache"]


_TEXTS = {
    "base": ("source", "revision"),
    "user": ("author",),
    "statistics": ("corpus", "health"),
}


def data_directory(name: str) -> Path:
    """`migrations` or `hparams`: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).parent
    for candidate in (package / "_data" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise MemitVCError(f"memit-vc's own {name}/ directory is missing beside {package}", hint="Reinstall memit-vc.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`.memitvc/config.toml`.

    `base` is what `init` was given (Hub id or absolute directory), `revision` the Hub commit it resolved to (None for a
    directory). `corpus` is the default source of statistics, `health` the text whose perplexity is watched.
    `cache_bytes` is what the hot shards of states that were checked out may take on disk; 0 keeps none, None means
    8 GiB.
    """

    base: str
    revision: str | None = None
    author: str | None = None
    corpus: str | None = None
    health: str | None = None
    cache_bytes: int | None = None

    @classmethod
    def load(cls, path: Path) -> Config:
        try:
            with path.open("rb") as file:
                table = tomllib.load(file)
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}", hint="Check the permissions of the repository.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise MemitVCError(f"{path}: not valid TOML: {error}", hint="Correct the file by hand.") from error
        if "database" in table:
            raise MemitVCError(
                f"{path}: [database] is no longer supported: the database is {path.with_name('meta.db')}",
                hint="Remove it from the file. If a server holds the history, push it to a remote first, with the "
                "version of memit-vc that uses that server, and clone it from there.",
            )
        for section, names in _TEXTS.items():
            found = table.get(section, {})
            wrong = [n for n in names if isinstance(found, dict) and not isinstance(found.get(n, ""), str)]
            if not isinstance(found, dict) or wrong:
                what = f"[{section}] {wrong[0]} is no text" if wrong else f"[{section}] is no table"
                raise MemitVCError(f"{path}: {what}", hint="Correct the file by hand.")
        base = table.get("base", {})
        if not isinstance(base.get("source"), str):
            raise MemitVCError(f"{path}: [base] source is missing", hint="It names the base: a Hub id or a directory.")
        user = table.get("user", {})
        cache = table.get("cache", {})
        limit = cache.get("bytes") if isinstance(cache, dict) else cache
        if limit is not None and (type(limit) is not int or limit < 0):
            raise MemitVCError(f"{path}: [cache] bytes is {limit!r}", hint="A number of bytes; 0 keeps nothing.")
        return cls(
            base=base["source"],
            revision=base.get("revision"),
            author=user.get("author"),
            corpus=table.get("statistics", {}).get("corpus"),
            health=table.get("statistics", {}).get("health"),
            cache_bytes=limit,
        )

    def dump(self) -> bytes:
        """The file's bytes; unset values are left out."""
        import tomli_w

        table: dict[str, dict[str, str | int]] = {"base": {"source": self.base}}
        if self.revision is not None:
            table["base"]["revision"] = self.revision
        if self.author is not None:
            table["user"] = {"author": self.author}
        statistics = {"corpus": self.corpus, "health": self.health}
        chosen: dict[str, str | int] = {name: value for name, value in statistics.items() if value is not None}
        if chosen:
            table["statistics"] = chosen
        if self.cache_bytes is not None:
            table["cache"] = {"bytes": self.cache_bytes}
        return tomli_w.dumps(table).encode()


def user_cache() -> Path:
    """`$XDG_CACHE_HOME/memit-vc`, by default below ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "memit-vc"
