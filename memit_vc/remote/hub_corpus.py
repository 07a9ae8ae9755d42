"""A Hub data set as text: parquet files of one pinned revision, fetched one by one when they are needed.

No data set's own loading code is ever run, and only files of the data set that the user named are fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from memit_vc.errors import RemoteError, UsageError
from memit_vc.remote.hub_errors import hub_errors

_CONVERTED = "refs/convert/parquet"
"""Where the Hub keeps its own parquet copy of data sets in other formats."""


def find_dataset(spec: str) -> tuple[dict[str, str], list[str], Callable[[str], Path]]:
    """What `owner/name[:config][:split]` is at present (name, revision, config, split), its files, and a function that
    fetches one of them. RemoteError, UsageError.
    """
    name, *rest = spec.split(":")
    config, split = [*rest, "", ""][:2]
    revision, files = _parquet_files(name)
    chosen, config, split = choose_files(files, name, config=config or None, split=split or None)

    def fetch(file: str) -> Path:
        from huggingface_hub import constants, hf_hub_download

        with hub_errors(_url(name), f"fetching {file}", target=Path(constants.HF_HUB_CACHE)):
            return Path(hf_hub_download(name, file, repo_type="dataset", revision=revision))

    return {"name": name, "revision": revision, "config": config, "split": split}, chosen, fetch


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
    from huggingface_hub import HfApi

    for revision in (None, _CONVERTED):
        try:
            with hub_errors(_url(name), "looking for the data set"):
                info = HfApi().dataset_info(name, revision=revision)
        except RemoteError:
            if revision is None:
                raise
            break
        found = [s.rfilename for s in info.siblings or () if s.rfilename.endswith(".parquet")]
        if found:
            return str(info.sha), found
    raise RemoteError(
        f"data set {name} has no parquet files", hint="Download its text and name the file: `--corpus texts.jsonl`."
    )


def _url(name: str) -> str:
    return f"hf://datasets/{name}"
