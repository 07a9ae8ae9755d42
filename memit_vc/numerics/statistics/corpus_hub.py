"""Texts of a Hub data set: parquet files of one pinned revision, fetched one by one as they are needed.

No data set's own loading code is ever run, and nothing is fetched but what the user named.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from memit_vc.errors import RemoteError, UsageError
from memit_vc.numerics.statistics.corpus_files import Source, parquet_texts
from memit_vc.objects.ids import JsonValue

__all__ = ["choose_files", "open_dataset"]

_CONVERTED = "refs/convert/parquet"
"""Where the Hub keeps its own parquet copy of data sets in other formats."""


def open_dataset(spec: str, *, field: str | None, seed: int) -> Source:
    """Description and reader for `owner/name[:config][:split]`. RemoteError, UsageError."""
    name, *rest = spec.split(":")
    config, split = [*rest, "", ""][:2]
    revision, files = _parquet_files(name)
    chosen, config, split = choose_files(files, name, config=config or None, split=split or None)
    random.Random(seed).shuffle(chosen)  # noqa: S311 (an order, not a secret)
    described: dict[str, JsonValue] = {
        "kind": "hub",
        "name": name,
        "revision": revision,
        "config": config,
        "split": split,
        "field": field,
        "seed": seed,
    }

    def read() -> Iterator[str]:
        empty = True
        for file in chosen:
            for text in parquet_texts(_download(name, file, revision), field=field, seed=seed):
                empty = False
                yield text
        if empty:
            raise UsageError(
                f"data set {name}: {config or 'its files'}/{split} holds no text",
                hint=f"Name another part of it: hub:{name}:CONFIG:SPLIT; or with `memitvc stats --field` its column.",
            )

    return described, read


def choose_files(
    files: Sequence[str], name: str, *, config: str | None, split: str | None
) -> tuple[list[str], str, str]:
    """The files of one configuration and split, sorted, with the names chosen.

    Layouts: `config/split-00000-of-00002.parquet`, `config/split/0000.parquet`, `data/split-….parquet`. Without a
    config there must be only one; without a split it is `train`, or the only one. UsageError lists what there is.
    """
    known: dict[str, dict[str, list[str]]] = {}
    for file in sorted(files):
        path = PurePosixPath(file)
        parts = path.parts[:-1]
        stem = path.stem.split("-")[0]
        if stem.isdigit() and parts:
            stem, parts = parts[-1], parts[:-1]
        known.setdefault("/".join(parts), {}).setdefault(stem.removeprefix("partial-"), []).append(file)
    configs = [c for c in known if config is None or c == config or c.endswith(f"/{config}")]
    if len(configs) != 1:
        problem = "has no configuration" if config is not None else "has several configurations; name one of"
        listed = ", ".join(sorted(c or "(none)" for c in known)[:20])
        wanted = f" {config!r}; it has" if config is not None else ""
        raise UsageError(f"data set {name} {problem}{wanted} {listed}", hint=f"Write hub:{name}:CONFIG.")
    splits = known[configs[0]]
    wanted_split = split or ("train" if "train" in splits else next(iter(splits)) if len(splits) == 1 else None)
    if wanted_split is None or wanted_split not in splits:
        raise UsageError(
            f"data set {name}: split {split or 'train'!r} is not among {', '.join(sorted(splits))}",
            hint=f"Write hub:{name}:{configs[0] or 'default'}:SPLIT.",
        )
    return list(splits[wanted_split]), configs[0], wanted_split


def _parquet_files(name: str) -> tuple[str, list[str]]:
    """The commit that is read, and its parquet files."""
    found: list[str] = []
    for revision in (None, _CONVERTED):
        try:
            info = _dataset_info(name, revision)
        except RemoteError:
            if revision is not None:
                break
            raise
        found = [s.rfilename for s in info.siblings or () if s.rfilename.endswith(".parquet")]
        if found:
            return str(info.sha), found
    raise RemoteError(
        f"data set {name} has no parquet files", hint="Download its text and name the file: `--corpus texts.jsonl`."
    )


def _dataset_info(name: str, revision: str | None) -> Any:
    import huggingface_hub

    return _asked(name, lambda: huggingface_hub.HfApi().dataset_info(name, revision=revision))


def _download(name: str, file: str, revision: str) -> Path:
    import huggingface_hub

    path = _asked(
        f"{name}/{file}",
        lambda: huggingface_hub.hf_hub_download(name, file, repo_type="dataset", revision=revision),
    )
    return Path(path)


def _asked(what: str, call: Any) -> Any:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return call()
    except HFValidationError as error:
        raise UsageError(
            f"{what!r} is not a name of a data set on the Hub: {error}", hint="Write hub:owner/name."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise RemoteError(
            f"data set {what}: the Hub did not give it: {error}",
            hint="Check the name, the network and your access; or use a local file, `pydoc` or `self` as corpus.",
        ) from error
    except Exception as error:  # the HTTP client's own errors: which package they come from depends on the release
        if type(error).__module__.partition(".")[0] not in (
            "httpx",
            "httpx2",
            "httpcore",
            "requests",
            "huggingface_hub",
        ):
            raise
        raise RemoteError(f"data set {what}: the Hub cannot be reached: {error}", hint="Check the network.") from error
