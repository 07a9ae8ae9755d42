"""Plain text for second moments: a file, a Hub data set, what memit-vc or every Python carries, or what the model
itself writes.

The text decides what an edit may not disturb. A corpus is therefore part of the statistics' key, by content.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from memit_vc.errors import StorageError, UsageError
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.statistics.corpus_files import SUFFIXES, Source, open_file, parquet_texts, require_parquet
from memit_vc.numerics.statistics.corpus_sampled import sampled_texts, sampling_description
from memit_vc.numerics.statistics.corpus_shipped import shipped_source
from memit_vc.objects.ids import JsonValue
from memit_vc.progress import Progress, silent

FindDataset: TypeAlias = Callable[[str], tuple[Mapping[str, str], Sequence[str], Callable[[str], Path]]]
"""From a data set's name to what it is, its parquet files, and what fetches one of them."""
NAMED: tuple[Literal["shipped", "self", "pydoc"], ...] = ("shipped", "self", "pydoc")
"""Corpora that need neither a file nor a network."""
_HUB = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+){0,2}")
_PASSAGE = 1000
"""Characters of neighbouring paragraphs that are put together: about the length of an encyclopaedia's section."""
_HELD_OUT = 16
"""One passage of Python's documentation in so many is kept for the health probe."""


@dataclass(frozen=True)
class Corpus:
    """A source of text, shuffled with the seed: the first tokens of a large corpus are representative of it.

    `read()` gives the same texts in the same order each time it is called.
    """

    description: Mapping[str, JsonValue]
    read: Callable[[], Iterator[str]]

    def describe(self) -> dict[str, JsonValue]:
        """kind, name, what identifies the content (sha256 or revision) and field: all that the texts depend on."""
        return dict(self.description)

    def __iter__(self) -> Iterator[str]:
        return self.read()


def open_corpus(
    spec: str,
    *,
    field: str | None = None,
    seed: int = 0,
    adapter: ModelAdapter | None = None,
    cache: Path | None = None,
    tokens: int | None = None,
    find_dataset: FindDataset | None = None,
    progress: Progress = silent,
) -> Corpus:
    """The corpus that `spec` names.

    `shipped` (sampled once from a small model; comes with memit-vc) · `pydoc` (the language reference inside every
    CPython) · `self` (sampled from `adapter`'s model; kept in `cache`, a directory, so that a killed run does not
    sample again) · a .txt, .jsonl, .json or .parquet file (./pydoc for a file of that name) ·
    `hub:owner/name[:config][:split]`, or `owner/name` if no such file exists: parquet files of a
    Hub data set, which `find_dataset` knows, fetched as they are needed. `field` is the text's field or column; without
    it the customary names are tried. `tokens` is how many will be taken, if that is known: `progress` says how far
    sampling is.

    UsageError for a spec that cannot be understood, a missing field or an empty corpus; StorageError for a file that is
    missing or unreadable; RemoteError if the Hub fails.
    """
    kind = named_kind(spec)
    if kind == "shipped":
        description, shipped = shipped_source(seed)
        return Corpus(description, lambda: iter(shipped))
    if kind == "pydoc":
        return _python_corpus(seed)
    if kind == "self":
        if adapter is None:
            raise UsageError(
                "corpus 'self' needs a model to sample from",
                hint="Name shipped, pydoc, hub:owner/name or a file instead.",
            )
        model = adapter
        return Corpus(
            sampling_description(model, seed),
            lambda: sampled_texts(model, seed=seed, cache=cache, tokens=tokens, progress=progress),
        )
    if kind == "hub":
        if find_dataset is None:
            raise UsageError(f"corpus {spec!r} needs the Hub", hint="Name shipped, self, pydoc or a file instead.")
        require_parquet()
        return Corpus(*_dataset(*find_dataset(spec.removeprefix("hub:")), field=field, seed=seed))
    return Corpus(*open_file(Path(spec).expanduser(), field=field, seed=seed))


def named_kind(spec: str) -> Literal["shipped", "self", "pydoc", "hub", "file"]:
    """What `spec` names, without opening it. UsageError for an impossible name of a data set, StorageError for a file
    that is not there.
    """
    for name in NAMED:
        if spec == name:  # also where something of that name lies about
            return name
    if spec.startswith("hub:"):
        if not _HUB.fullmatch(spec.removeprefix("hub:")):
            raise UsageError(
                f"corpus {spec!r} does not name a data set",
                hint="Write hub:owner/name, hub:owner/name:config or …:config:split.",
            )
        return "hub"
    path = Path(spec).expanduser()
    if path.exists():
        return "file"
    if _HUB.fullmatch(spec) and path.suffix.lower() not in SUFFIXES:
        return "hub"
    raise StorageError(
        f"corpus {spec} cannot be read: there is no such file",
        hint=f"Give {', '.join(NAMED)}, hub:owner/name, or a file of type {', '.join(SUFFIXES)}.",
    )


def _dataset(
    named: Mapping[str, str], files: Sequence[str], fetch: Callable[[str], Path], *, field: str | None, seed: int
) -> Source:
    shuffled = list(files)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 (an order, not a secret)

    def read() -> Iterator[str]:
        empty = True
        for file in shuffled:
            for text in parquet_texts(fetch(file), field=field, seed=seed):
                empty = False
                yield text
        if empty:
            name = named["name"]
            raise UsageError(
                f"data set {name}: {named['config'] or 'its files'}/{named['split']} holds no text",
                hint=f"Name another part of it: hub:{name}:CONFIG:SPLIT; or with `memitvc stats --field` its column.",
            )

    return {"kind": "hub", **named, "field": field, "seed": seed}, read


def _python_corpus(seed: int) -> Corpus:
    passages = [passage for index, passage in enumerate(python_documentation()) if index % _HELD_OUT]
    content = hashlib.sha256("\0".join(passages).encode()).hexdigest()
    random.Random(seed).shuffle(passages)  # noqa: S311 (an order, not a secret)
    description: dict[str, JsonValue] = {
        "kind": "pydoc",
        "name": "pydoc_data.topics",
        "sha256": content,
        "field": None,
        "seed": seed,
    }
    return Corpus(description, lambda: iter(passages))


def held_out_documentation() -> list[str]:
    """The passages that the corpus `pydoc` leaves out, for a perplexity that was not fitted to. StorageError."""
    return python_documentation()[::_HELD_OUT]


def python_documentation() -> list[str]:
    """English prose of `pydoc_data.topics`, in passages of about a thousand characters: no code, grammar or markup,
    and no paragraph twice.

    The text differs between Python versions. StorageError if the distribution leaves the module out.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise StorageError(
            "this Python does not include pydoc_data.topics", hint="Name another corpus: `memitvc stats --corpus FILE`."
        ) from error
    seen: set[str] = set()  # some topics hold others whole
    found: list[str] = []
    for name in sorted(topics):
        new = [paragraph for paragraph in dict.fromkeys(_paragraphs(topics[name])) if paragraph not in seen]
        seen.update(new)
        found.extend(_passages(new))
    return found


def _paragraphs(document: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", document):
        lines = [line.strip() for line in block.splitlines()]
        text = " ".join(line for line in lines if line and not re.fullmatch(r"[*=\-~^\"'+|# ]+", line))
        text = re.sub(r"(?<=\w)- (?=\w)", "-", text)
        text = re.sub(r"\*{1,2}(\S(?:[^*]*\S)?)\*{1,2}", r"\1", text)
        text = re.sub(r"^[*•-] +", "", text)
        if _is_prose(text):
            yield text


def _is_prose(text: str) -> bool:
    if len(text.split()) < 8 or any(mark in text for mark in (">>>", "::=", "Traceback", "+---", "====")):
        return False
    if not text[0].isalpha() or text.rstrip('")’')[-1:] not in ".:;?!,":
        return False
    return sum(map(str.isalpha, text)) + text.count(" ") > 0.85 * len(text)


def _passages(paragraphs: Sequence[str]) -> Iterator[str]:
    gathered: list[str] = []
    for paragraph in paragraphs:
        gathered.append(paragraph)
        if sum(map(len, gathered)) >= _PASSAGE:
            yield "\n".join(gathered)
            gathered = []
    if gathered:
        yield "\n".join(gathered)
