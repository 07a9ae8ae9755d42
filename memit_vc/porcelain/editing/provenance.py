"""The provenance of a patch, written and read: everything that `reproduce` needs, and no time."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from memit_vc import __version__
from memit_vc.errors import UsageError, VerificationError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.forward.chat import turns
from memit_vc.numerics.forward.phrasebook import PhraseBook
from memit_vc.numerics.forward.questions import REPEATED, ROWS_VERSION, SEARCHED
from memit_vc.objects import BlobId, JsonValue, StateId, StatisticsId, canonical_json, digest, short
from memit_vc.porcelain.history.settings import RESOLVED, corpus_of_record, public_corpus, understood
from memit_vc.progress import Progress, silent

if TYPE_CHECKING:
    from memit_vc.porcelain.editing.models import LoadedModel
    from memit_vc.porcelain.editing.statistics import Prepared
    from memit_vc.repository import Repository


_MOST_THREADS = 4096
"""More than any machine has cores; torch starts as many as it is told to."""
_MOST_TOKENS = 1 << 20
_PACKAGES = ("torch", "transformers", "safetensors")


def describe(
    loaded: LoadedModel,
    *,
    state: StateId,
    hparams: MEMITHyperParams,
    templates: Sequence[Sequence[str]],
    statistics: Prepared,
    steps: Sequence[int],
    max_tokens: int | None = None,
) -> dict[str, JsonValue]:
    """The provenance record: algorithm, hyperparameters, templates, statistics, versions, device, context state.

    It is published with the patch, whose id depends on it: nothing of this machine is in it but its kind of device.
    """
    if hparams.keep_factor and hparams.keep_questions is None:  # another version of the package may have others
        hparams = hparams.replace(keep_questions=list(SEARCHED))
    return {
        "algorithm": "MEMIT" if not hparams.history else "MEMIT with live history",
        "state": state,
        "hparams": hparams.portable_json(),
        "context_templates": [list(group) for group in templates],
        "chat": chat_turns(loaded, hparams),
        "statistics": {
            "id": statistics.id,
            "tokens": statistics.tokens,
            "ridge": {str(k): v for k, v in statistics.ridges.items()},
            "corpus": public_corpus(loaded.repository, statistics.id),
        },
        "steps": list(steps),
        "max_tokens": max_tokens,
        "texts": shipped_texts() if steps else None,
        **computed_by(loaded),
    }


def shipped_texts() -> str:
    """A digest of all texts of the package that a search may use, and of how it asks them: another version may have
    others."""
    book = PhraseBook.shipped()
    relations: list[JsonValue] = [list(relation) for relation in book.relations]
    answers: list[JsonValue] = [sorted(answers) for answers in book.answers]
    return digest("texts", canonical_json([relations, answers, list(REPEATED), ROWS_VERSION]))


def chat_turns(loaded: LoadedModel, hparams: MEMITHyperParams) -> list[JsonValue]:
    """Of each text with which the search asks in chat: prefix, suffix, what stands before an answer, and behind it."""
    return [list(astuple(turn)) for turn in turns(loaded.adapter.tokenizer)] if hparams.chat else []


def computed_by(loaded: LoadedModel) -> dict[str, JsonValue]:
    """Everything else that moves the last bits of a computation: device, dtype, threads, versions."""
    import torch

    return {
        "device": str(loaded.adapter.device.type),
        "dtype": str(loaded.adapter.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": {
            "memit-vc": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
    }


@dataclass(frozen=True)
class Recorded:
    """A patch's provenance. `hparams` carry the context templates that were in use, `turns` are those of a chat."""

    algorithm: str
    state: StateId
    hparams: MEMITHyperParams
    statistics: StatisticsId
    threads: int | None
    turns: Sequence[JsonValue] = ()
    max_tokens: int | None = None
    """Of a forward of the search; None in records of earlier versions."""
    texts: str | None = None
    """`shipped_texts` of the version that made it; None in records of earlier versions."""
    corpus: str | None = None
    """The name of the text behind the statistics, if everybody may know it."""
    verb: str | None = None
    """The verb that solved it again, if one did: the commit may have come here by another verb."""

    @property
    def resolved(self) -> bool:
        """It came from stored constraints, not from a search for targets."""
        return self.algorithm == RESOLVED

    @classmethod
    def read(cls, repository: Repository, blob: BlobId) -> Recorded | None:
        """None for a record that describes no computation. IntegrityError for a damaged one."""
        with understood(blob):
            record: Mapping[str, Any] = json.loads(repository.blobs.read(blob))
            if "algorithm" not in record or "hparams" not in record:
                return None
            if not isinstance(record["hparams"], Mapping):  # a name or a path would be opened
                raise TypeError("its hparams are not a record")
            hparams = MEMITHyperParams.from_json(record["hparams"], source=f"provenance {short(blob)}")
            if "chat" not in record:  # an older version put its one turn among the context templates
                hparams = hparams.replace(chat=False)
            if record["context_templates"]:
                hparams = hparams.replace(context_templates=record["context_templates"])
            return cls(
                str(record["algorithm"]),
                StateId(record["state"]),
                hparams,
                StatisticsId(record["statistics"]["id"]),
                _count(record.get("threads"), "threads", _MOST_THREADS),
                [*(record.get("chat") or ())],
                _count(record.get("max_tokens"), "tokens", _MOST_TOKENS),
                record.get("texts"),
                corpus_of_record(record),
                record.get("verb"),
            )

    def prepared(self, loaded: LoadedModel, *, exactly: bool, progress: Progress = silent) -> Prepared:
        """Its statistics; if they are not here, those that the repository would compute now.

        With `exactly`, VerificationError if those differ.
        """
        from memit_vc.porcelain.editing.statistics import prepare_statistics, recorded_statistics

        repository = loaded.repository
        found = recorded_statistics(repository, self.statistics, self.hparams, progress=progress)
        if found is not None:
            return found
        try:
            made = prepare_statistics(loaded, self.hparams, progress=progress)
        except UsageError as error:
            raise VerificationError(
                f"statistics {short(self.statistics)} are not here; {error.message}", hint=error.hint
            ) from error
        if exactly and made.id != self.statistics:
            raise VerificationError(
                f"statistics {short(self.statistics)} are not here, and the present corpus gives {short(made.id)}",
                hint="Copy .memitvc/statistics from where the commit was made, or run `memitvc stats` with its corpus"
                + (f": --corpus {self.corpus}" if self.corpus else "."),
            )
        return made


def _count(value: object, what: str, most: int) -> int | None:
    if value is None or (type(value) is int and 1 <= value <= most):
        return value
    raise ValueError(f"its number of {what} is {value!r}")


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads for the length of a block: sums of floats depend on how they are split."""
    import torch

    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
