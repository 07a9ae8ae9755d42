"""`stats`: second moments of the edited layers, computed once, kept, and factored for the λ in use."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from memit_vc.config import user_cache
from memit_vc.errors import EngineError, IntegrityError, UsageError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.model.memory import memory_errors
from memit_vc.numerics.statistics.cache import StatisticsCache, StatisticsKey
from memit_vc.numerics.statistics.corpus import NAMED, named_kind, open_corpus
from memit_vc.numerics.statistics.corpus_files import WITH_FIELDS
from memit_vc.numerics.statistics.factors import BlockFactor, Factor
from memit_vc.numerics.statistics.import_npz import Asked, find_statistics, imported_corpus, read_statistics
from memit_vc.numerics.statistics.moments import Moments, collect
from memit_vc.objects import JsonValue, StatisticsId, canonical_json, digest
from memit_vc.porcelain.editing.measure import measure_base
from memit_vc.porcelain.editing.models import LoadedModel, model_of
from memit_vc.porcelain.setup import DEFAULT_CORPUS, TOKENS_PER_INPUT
from memit_vc.progress import Progress, silent
from memit_vc.remote.hub_corpus import find_dataset
from memit_vc.repository import Repository
from memit_vc.store.files import storage_errors, write_atomic
from memit_vc.store.sealed import seal, unseal

_CHOSEN = "chosen.json"
_GONE_HINT = "Compute them again: `memitvc stats --corpus TEXT`, or `--import FILES`, with what they came from."


@dataclass(frozen=True)
class Prepared:
    """Statistics that are ready to solve with. `ridges` are absolute; 0 if λC was positive definite. `ridged` counts
    the experts that got one, 0 in a dense layer.
    """

    id: StatisticsId
    tokens: int
    """Read: what stands behind the moments."""
    asked: int
    """Asked for: more than `tokens` if the text has no more."""
    layers: tuple[int, ...]
    factor: Callable[[int], Factor | BlockFactor]
    ridges: Mapping[int, float]
    ridged: Mapping[int, int]
    computed: bool
    """They were computed now, not found."""


def prepare_statistics(
    loaded: LoadedModel,
    hparams: MEMITHyperParams,
    *,
    corpus: str | None = None,
    tokens: int | None = None,
    field: str | None = None,
    source: str | None = None,
    choose: bool = False,
    progress: Progress = silent,
) -> Prepared:
    """Find or compute the second moment of every layer of `hparams.layers`, and factor λC of each.

    `corpus` is as for `open_corpus` (default: that of the last `stats`, also where other tokens or layers are asked
    for; else config.toml's, else text sampled from the model); `tokens` defaults to 10 · d_in. One pass for all layers;
    a killed run goes on where it was. `source` imports EasyEdit's or memit's files instead. With `choose`, and always
    for imported ones, these statistics are the default of later commits. UsageError if the default ones were imported,
    and cannot serve.
    """
    if corpus is not None and not corpus.strip():
        raise UsageError("the name of the text is empty", hint="Name a text, or leave --corpus out.")
    repository = loaded.repository
    cache = StatisticsCache(repository.root / "statistics")
    key: StatisticsKey | None = None
    chosen: _Chosen | None = None
    computed, new = source is not None, False
    if source is not None:
        _refuse_beside_import(corpus=corpus, tokens=tokens, field=field)
        key, moments = _imported(loaded, hparams, Path(source))
        new = not cache.ready(key)
        cache.store(key, moments)
    elif corpus is None:
        chosen = _chosen(repository)
    if chosen is not None and tokens is None and field is None and set(hparams.layers) <= set(chosen.key.layers):
        key = chosen.key
    if key is None or not cache.ready(key):
        layers: Sequence[int] = hparams.layers
        if key is not None:  # gone: the same once more
            layers, tokens = key.layers, key.tokens
        if chosen is not None:
            corpus, field = chosen.text(layers, tokens, field, gone=cache.directory(key) if key else None)
        key, computed = _computed(loaded, layers, cache, corpus, tokens, field, progress, chosen, gone=key)
    try:
        ready = _factored(cache, key, hparams, computed, progress)  # before they are chosen: some cannot be used
    except EngineError:
        if new:
            rmtree(cache.directory(key), ignore_errors=True)
        raise
    if (choose and (chosen is None or chosen.key.id != key.id)) or source is not None:
        text = None if source is not None else corpus or repository.config.corpus or DEFAULT_CORPUS
        _choose(repository, key, hparams.layers, text, field)
    if key.id not in repository.statistics():
        repository.put_statistics(key.id, key.to_json())
    return ready


def recorded_statistics(
    repository: Repository,
    id: StatisticsId,  # noqa: A002
    hparams: MEMITHyperParams,
    *,
    progress: Progress = silent,
) -> Prepared | None:
    """The statistics of a commit, factored for λ and the layers of `hparams`; None if they are not here."""
    record = repository.statistics().get(id)
    if not isinstance(record, Mapping):
        return None
    cache, key = StatisticsCache(repository.root / "statistics"), StatisticsKey.from_json(record)
    if not (set(hparams.layers) <= set(key.layers) and cache.ready(key)):
        return None
    return _factored(cache, key, hparams, False, progress)


def _factored(
    cache: StatisticsCache, key: StatisticsKey, hparams: MEMITHyperParams, computed: bool, progress: Progress
) -> Prepared:
    """Factor λC of every layer and keep it; a solve reads it layer by layer."""
    weight = hparams.mom2_update_weight
    ridges, ridged = dict[int, float](), dict[int, int]()
    for done, layer in enumerate(hparams.layers):
        progress("factor λC", done, len(hparams.layers))
        ridges[layer], ridged[layer] = cache.ridge(key, layer, weight)
    progress("factor λC", len(hparams.layers), len(hparams.layers))

    def factor(layer: int) -> Factor | BlockFactor:
        return cache.factor(key, layer, weight)

    return Prepared(key.id, cache.count(key), key.tokens, tuple(hparams.layers), factor, ridges, ridged, computed)


def compute_statistics(
    repository: Repository,
    *,
    hparams: str | None = None,
    corpus: str | None = None,
    tokens: int | None = None,
    field: str | None = None,
    source: str | None = None,
    progress: Progress = silent,
) -> Prepared:
    """The `stats` command: load the base, prepare, and make these the statistics that commits use.

    Also measures the base's perplexity, which the first commit needs.
    """
    repository.database.check_writable()
    values = repository.hparams(hparams)
    loaded = model_of(repository, None, hparams=values, progress=progress).named_by(values)
    made = prepare_statistics(
        loaded, values, corpus=corpus, tokens=tokens, field=field, source=source, choose=True, progress=progress
    )
    measure_base(repository, loaded.adapter)
    return made


def _computed(
    loaded: LoadedModel,
    layers: Sequence[int],
    cache: StatisticsCache,
    corpus: str | None,
    tokens: int | None,
    field: str | None,
    progress: Progress,
    chosen: _Chosen | None,
    *,
    gone: StatisticsKey | None,
) -> tuple[StatisticsKey, bool]:
    """The statistics of a corpus, computed unless they are there. IntegrityError if they should be of the `chosen`
    text, or those that are `gone`, and are not: a commit must not quietly come from another text.
    """
    repository, adapter = loaded.repository, loaded.adapter
    spec = corpus or repository.config.corpus or DEFAULT_CORPUS
    if field is not None:
        _refuse_field(spec, field)
    sampled = _sampled(repository) if spec == "self" else None
    wanted = tokens or TOKENS_PER_INPUT * max(adapter.dimensions(layer)[1] for layer in layers)
    texts = open_corpus(
        spec,
        field=field,
        adapter=adapter,
        cache=sampled,
        tokens=wanted,
        find_dataset=find_dataset,
        progress=progress,
    )
    names = {layer: loaded.keyed_name(layer) for layer in layers}
    key = StatisticsKey.of(adapter, base=repository.base_id, names=names, corpus=texts.describe(), tokens=wanted)
    if gone is not None and gone.id != key.id:
        raise IntegrityError(_gone(cache.directory(gone)), hint=_GONE_HINT)
    if chosen is not None and field == chosen.field and not _same_text(key.corpus, chosen.key.corpus):
        raise IntegrityError(
            f"{spec} is another text than it was at the last `memitvc stats`",
            hint=f"To use it as it is now: memitvc stats --corpus {spec}",
        )
    if cache.ready(key):
        return key, False
    with memory_errors():
        moments = collect(
            adapter,
            texts,
            layers,
            tokens=wanted,
            max_length=key.max_length,
            resume=cache.partial(key),
            progress=progress,
        )
    cache.store(key, moments)
    return key, True


def _refuse_beside_import(**given: object) -> None:
    unused = [f"--{name}" for name, value in given.items() if value is not None]
    if unused:
        raise UsageError(
            f"--import takes second moments as they are: {', '.join(unused)} would not be used",
            hint="Leave out either --import or the others.",
        )


def _refuse_field(spec: str, field: str) -> None:
    """UsageError for a field of a text that has none."""
    kind = named_kind(spec)
    if kind in NAMED or (kind == "file" and Path(spec).suffix.lower() not in WITH_FIELDS):
        raise UsageError(
            f"--field {field} would not be used: {spec} is plain text",
            hint="Leave --field out, or name a corpus of type " + ", ".join(WITH_FIELDS) + ".",
        )


def _sampled(repository: Repository) -> Path | None:
    """The directory of text that the base wrote, shared by all repositories on it; None without a home directory.

    Its name depends on the weights and on the files beside them: tokenizer, end marks and configuration.
    """
    files: dict[str, JsonValue] = {
        name: sha for name, sha in repository.base_files().items() if name.endswith((".json", ".txt", ".model"))
    }
    try:
        return user_cache() / "sampled" / digest("sampled", canonical_json([repository.base_id, files]))[:16]
    except RuntimeError:
        return None


def _imported(loaded: LoadedModel, hparams: MEMITHyperParams, source: Path) -> tuple[StatisticsKey, Moments]:
    name, adapter = loaded.repository.config.base, loaded.adapter
    asked = Asked.by(hparams)
    files = find_statistics(source, model_name=name, adapter=adapter, layers=hparams.layers, asked=asked)
    moments = read_statistics(files, adapter)
    names = {layer: loaded.weights[layer].name for layer in hparams.layers}
    key = StatisticsKey.of(
        adapter, base=loaded.repository.base_id, names=names, corpus=imported_corpus(files), tokens=moments.count
    )
    return key, moments


@dataclass(frozen=True)
class _Chosen:
    """The statistics that `stats` chose, and the text that they came from; None: files, whose text is not here."""

    key: StatisticsKey
    corpus: str | None
    field: str | None

    def text(
        self, layers: Sequence[int], tokens: int | None, field: str | None, *, gone: Path | None
    ) -> tuple[str, str | None]:
        """Corpus and field for other statistics of this text. UsageError if it is not known."""
        if self.corpus is not None:
            return self.corpus, field or self.field
        if gone is not None:
            raise IntegrityError(_gone(gone), hint=_GONE_HINT)
        imported = self.key.corpus.get("kind") == "imported"
        why = "were imported from files" if imported else "are of an older version"
        missing = sorted(set(layers) - set(self.key.layers))
        asked = {"--tokens": tokens, "--field": field}
        wanted = " and ".join(name for name, value in asked.items() if value is not None) or f"layers {missing}"
        raise UsageError(
            f"the statistics in use {why}, so their text is not known: {wanted} cannot be had",
            hint="First name a text, `memitvc stats --corpus TEXT`, or import files of these layers (--import FILES).",
        )


def _gone(directory: Path) -> str:
    return f"the statistics that were chosen, {directory}, are damaged or gone"


def _choose(
    repository: Repository, key: StatisticsKey, layers: Sequence[int], corpus: str | None, field: str | None
) -> None:
    """Make these statistics, of this text, the default of later commits."""
    if corpus is not None:  # a later command may run in another directory
        kind = named_kind(corpus)
        if kind == "file":
            corpus = str(Path(corpus).expanduser().resolve())
        elif kind == "hub":
            corpus = "hub:" + corpus.removeprefix("hub:")
    record = seal(_CHOSEN, {"key": key.to_json(), "layers": list(layers), "corpus": corpus, "field": field})
    write_atomic(repository.root / "statistics" / _CHOSEN, canonical_json(record))


def _chosen(repository: Repository) -> _Chosen | None:
    """What `_choose` wrote. IntegrityError if it is damaged: the default would be others."""
    path = repository.root / "statistics" / _CHOSEN
    try:
        with storage_errors(path):
            if not path.exists():
                return None
            record = unseal(_CHOSEN, json.loads(path.read_bytes()))
        key = StatisticsKey.from_json(record["key"])
        corpus = record["corpus"] if "corpus" in record else _named(key)
        found = _Chosen(key, corpus, record.get("field"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"{path}: cannot be read: {error}",
            hint="Choose the statistics again: `memitvc stats --corpus TEXT`, or `--import FILES`.",
        ) from error
    return found if key.base == repository.base_id else None


def _same_text(one: Mapping[str, JsonValue], other: Mapping[str, JsonValue]) -> bool:
    """Whether two descriptions are of one text, whatever it is called."""
    return {**one, "name": None} == {**other, "name": None}


def _named(key: StatisticsKey) -> str | None:
    """The text of a record of an older version, which did not name it: known if it is one of `NAMED`."""
    kind = str(key.corpus.get("kind"))
    return kind if kind in NAMED else None
