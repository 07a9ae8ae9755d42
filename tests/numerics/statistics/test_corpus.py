"""Each kind of corpus, and what is said when one cannot be read."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from memit_vc.config import data_directory
from memit_vc.errors import EngineError, RemoteError, StorageError, UsageError
from memit_vc.numerics.forward.replay import watching
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.statistics import corpus_files
from memit_vc.numerics.statistics.corpus import held_out_documentation, open_corpus, python_documentation
from memit_vc.numerics.statistics.corpus_sampled import _sample, sampled_texts
from memit_vc.numerics.statistics.moments import collect
from memit_vc.remote.hub_corpus import choose_files, find_dataset
from tests.support.models import SENTENCES, load, tiny

TEXTS = [f"Text number {i}: {sentence}" for i, sentence in enumerate(SENTENCES)]


def write(path: Path, texts: list[str]) -> Path:
    records = [{"id": i, "text": text} for i, text in enumerate(texts)]
    if path.suffix == ".txt":
        path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(records), encoding="utf-8")
    else:
        table = pa.table({"id": list(range(len(texts))), "text": texts})
        pq.write_table(table, path, row_group_size=4)
    return path


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".parquet"])
def test_a_git_lfs_pointer_is_no_corpus(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"corpus{suffix}"
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 538090408\n")
    with pytest.raises(StorageError, match="is a Git LFS pointer") as caught:
        open_corpus(str(file))
    assert "git lfs pull" in str(caught.value.hint)


def test_a_parquet_file_whose_text_is_no_utf8(tmp_path: Path) -> None:
    file = write(tmp_path / "corpus.parquet", TEXTS)
    pq.write_table(pa.table({"text": pa.array(TEXTS)}), file, compression="none", use_dictionary=False)
    data = file.read_bytes()
    file.write_bytes(data.replace(b"Text number 3", b"Text\xff\xfeumber 3"))
    with pytest.raises(StorageError, match="not a readable parquet file") as caught:
        list(open_corpus(str(file)))
    assert caught.value.hint


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".parquet"])
def test_files_give_every_text_once_in_a_seeded_order(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"corpus{suffix}", TEXTS)
    corpus = open_corpus(str(path))
    read = list(corpus)
    assert sorted(read) == sorted(TEXTS)
    assert read != TEXTS
    assert list(corpus) == read == list(corpus)
    assert list(open_corpus(str(path))) == read
    assert list(open_corpus(str(path), seed=1)) != read
    described = corpus.describe()
    assert described["kind"] == "file"
    assert described["name"] == path.name
    assert described["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(json.dumps(described)) == described


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_lists_of_strings(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"corpus{suffix}"
    path.write_text(json.dumps(TEXTS) if suffix == ".json" else "\n".join(map(json.dumps, TEXTS)))
    assert sorted(open_corpus(str(path))) == sorted(TEXTS)


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_half_of_a_character_names_its_record(tmp_path: Path, suffix: str) -> None:
    """An emoji that was cut in two: JSON can write it, and no tokenizer reads it."""
    path = write(tmp_path / f"texts{suffix}", [*TEXTS, "cut \ud83d"])
    with pytest.raises(StorageError, match="its text holds half of a character") as caught:
        list(open_corpus(str(path)))
    assert str(len(TEXTS) + 1) in caught.value.message


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_the_field_is_found_asked_for_or_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"corpus{suffix}"
    records = [{"title": f"t{i}", "story": f"once {i}", "size": i} for i in range(3)]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text(json.dumps(records) if suffix == ".json" else "\n".join(map(json.dumps, records)))
    assert sorted(open_corpus(str(path))) == ["once 0", "once 1", "once 2"]
    assert sorted(open_corpus(str(path), field="title")) == ["t0", "t1", "t2"]
    with pytest.raises(UsageError, match=r"corpus.*'txt'.*size, story, title"):
        open_corpus(str(path), field="txt")
    with pytest.raises(UsageError, match="int"):
        list(open_corpus(str(path), field="size"))
    write(path, TEXTS) if suffix == ".parquet" else path.write_text('[{"a": 1}]' if suffix == ".json" else '{"a": 1}')
    with pytest.raises(UsageError):
        open_corpus(str(path), field="story")


def test_plain_text_without_blank_lines_is_cut_at_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXTS * 40), encoding="utf-8")
    read = list(open_corpus(str(path)))
    assert len(read) > 5
    assert max(map(len, read)) < 4500
    assert sorted(line for text in read for line in text.splitlines()) == sorted(TEXTS * 40)


def test_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"\xef\xbb\xbfOne.\r\n\r\nTwo.\r\n \r\nThree.")
    assert sorted(open_corpus(str(path))) == ["One.", "Three.", "Two."]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".parquet"])
def test_empty_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"corpus{suffix}", [])
    with pytest.raises(UsageError, match="holds no text"):
        open_corpus(str(path))
    with pytest.raises(UsageError, match="holds no text"):
        open_corpus(str(write(path, ["", "  "])))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name in ("absent.txt", "absent.jsonl", "some/absent.parquet"):
        with pytest.raises(StorageError, match="absent"):
            open_corpus(str(tmp_path / name))
    with pytest.raises(StorageError, match="absent"):
        open_corpus("data/absent.jsonl")
    with pytest.raises(StorageError, match="directory"):
        open_corpus(str(tmp_path))
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\nnot json\n')
    with pytest.raises(StorageError, match=r"a\.jsonl, record 2: not JSON"):
        list(open_corpus(str(tmp_path / "a.jsonl")))
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(StorageError, match=r"a\.json: not JSON"):
        open_corpus(str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text('{"text": "x"}')
    with pytest.raises(UsageError, match="not a list"):
        open_corpus(str(tmp_path / "a.json"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(StorageError, match=r"a\.parquet"):
        open_corpus(str(tmp_path / "a.parquet"))
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(StorageError, match="UTF-8"):
        open_corpus(str(tmp_path / "a.txt"))
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(UsageError, match=r"\.zip"):
        open_corpus(str(tmp_path / "a.zip"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", TEXTS)
    path.chmod(0)
    with pytest.raises(StorageError, match=r"a\.txt"):
        open_corpus(str(path))


def test_pythons_documentation_is_prose() -> None:
    passages = python_documentation()
    assert sum(map(len, passages)) > 150_000
    paragraphs = [paragraph for passage in passages for paragraph in passage.split("\n")]
    assert len(set(paragraphs)) == len(paragraphs)
    assert all(">>>" not in p and "::=" not in p and "\n\n" not in p for p in passages)
    corpus = open_corpus("pydoc")
    held = held_out_documentation()
    measured = [passage for passage in passages if passage not in held]
    assert len(held) > 10
    assert sorted([*corpus, *held]) == sorted(passages)
    assert list(corpus) != measured
    assert corpus.describe()["sha256"] == hashlib.sha256("\0".join(measured).encode()).hexdigest()


class Hub:
    """A data set repository at the level of huggingface_hub's functions."""

    def __init__(self, files: dict[str, Path], converted: dict[str, Path] | None = None) -> None:
        self.files, self.converted = files, converted or {}
        self.fetched: list[str] = []
        self.error: Exception | None = None

    def dataset_info(self, repo_id: str, revision: str | None = None) -> Any:
        if self.error is not None:
            raise self.error
        files = self.converted if revision else self.files
        return SimpleNamespace(sha="c" * 40, siblings=[SimpleNamespace(rfilename=name) for name in files])

    def download(self, repo_id: str, filename: str, *, repo_type: str, revision: str) -> str:
        assert (repo_type, revision) == ("dataset", "c" * 40)
        if self.error is not None:
            raise self.error
        self.fetched.append(filename)
        return str({**self.files, **self.converted}[filename])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    files = {
        f"en/train-{i:05}-of-00003.parquet": write(tmp_path / f"{i}.parquet", TEXTS[6 * i : 6 * i + 6])
        for i in range(3)
    }
    made = Hub({"README.md": tmp_path, "en/test-00000-of-00001.parquet": tmp_path / "0.parquet", **files})
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(dataset_info=made.dataset_info))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.download)
    return made


@pytest.mark.parametrize("spec", ["hub:owner/name", "owner/name", "owner/name:en", "hub:owner/name:en:train"])
def test_hub_data_sets_are_fetched_as_needed(hub: Hub, spec: str) -> None:
    corpus = open_corpus(spec, find_dataset=find_dataset)
    assert corpus.describe() == {
        "kind": "hub",
        "name": "owner/name",
        "revision": "c" * 40,
        "config": "en",
        "split": "train",
        "field": None,
        "seed": 0,
    }
    assert hub.fetched == []
    next(iter(corpus))
    assert len(hub.fetched) == 1
    assert sorted(corpus) == sorted(TEXTS[:18])


def test_hub_data_sets_in_other_formats_are_read_from_the_hubs_copy(hub: Hub, tmp_path: Path) -> None:
    hub.converted = {"default/train/0000.parquet": hub.files["en/train-00000-of-00003.parquet"]}
    hub.files = {"data.csv": tmp_path}
    assert sorted(open_corpus("owner/name", find_dataset=find_dataset)) == sorted(TEXTS[:6])
    hub.converted = {}
    with pytest.raises(RemoteError, match="no parquet"):
        open_corpus("owner/name", find_dataset=find_dataset)


def test_hub_failures(hub: Hub) -> None:
    corpus = open_corpus("owner/name", find_dataset=find_dataset)
    hub.error = huggingface_hub.errors.LocalEntryNotFoundError("offline")
    with pytest.raises(RemoteError, match=r"datasets/owner/name: offline \(while fetching en/train"):
        next(iter(corpus))
    hub.error = ConnectionError("no route")
    with pytest.raises(RemoteError, match=r"no route.*looking for the data set"):
        open_corpus("hub:owner/name", find_dataset=find_dataset)
    hub.error = None
    with pytest.raises(UsageError, match="split 'dev' is not among test, train"):
        open_corpus("owner/name:en:dev", find_dataset=find_dataset)
    with pytest.raises(UsageError, match="no configuration 'fr'; it has en"):
        open_corpus("owner/name:fr", find_dataset=find_dataset)
    with pytest.raises(UsageError, match="does not name a data set"):
        open_corpus("hub:nothing", find_dataset=find_dataset)
    with pytest.raises(UsageError, match="needs the Hub"):
        open_corpus("owner/name")


def test_layouts_of_hub_data_sets() -> None:
    several = ["a/train-00000-of-00001.parquet", "b/train-00000-of-00001.parquet"]
    with pytest.raises(UsageError, match="several configurations; name one of a, b"):
        choose_files(several, "o/n", config=None, split=None)
    assert choose_files(several, "o/n", config="b", split=None) == ([several[1]], "b", "train")
    assert choose_files(["data/all.parquet"], "o/n", config=None, split=None) == (["data/all.parquet"], "data", "all")
    assert choose_files(["x.parquet"], "o/n", config=None, split=None) == (["x.parquet"], "", "x")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return load(tiny("llama", tmp_path_factory.mktemp("llama"), tokenizer="metaspace", max_position_embeddings=40))


def test_sampled_text_is_seeded_and_leaves_the_random_state(llama: ModelAdapter) -> None:
    def first(seed: int, number: int = 40) -> list[str]:
        texts = iter(open_corpus("self", adapter=llama, seed=seed))
        return [next(texts) for _ in range(number)]

    state = torch.get_rng_state()
    texts = first(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert first(0) == texts
    assert first(1) != texts
    assert len(set(texts)) > 30
    assert not any("<s>" in text or "</s>" in text for text in texts)
    described = open_corpus("self", adapter=llama).describe()
    assert (described["kind"], described["seed"]) == ("self", 0)
    with pytest.raises(UsageError, match="needs a model"):
        open_corpus("self")


def test_sampled_texts_are_kept(llama: ModelAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first(number: int) -> list[str]:
        texts = sampled_texts(llama, seed=3, cache=tmp_path)
        return [next(texts) for _ in range(number)]

    expected = first(200)
    (kept,) = tmp_path.glob("self-*.jsonl")
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])  # in the middle of a text, and of the first 128
    assert first(200) == expected
    again = kept.read_bytes()
    assert again[: len(whole)] == whole[: len(again)]
    monkeypatch.setattr("memit_vc.numerics.statistics.corpus_sampled._sample", None)
    assert first(200) == expected


def test_what_a_text_says_does_not_depend_on_the_texts_beside_it(llama: ModelAdapter) -> None:
    together = _sample(llama, seed=5, numbers=range(24), tell=lambda _: None)
    apart = [*_sample(llama, seed=5, numbers=range(5), tell=lambda _: None)]
    apart += _sample(llama, seed=5, numbers=range(5, 24), tell=lambda _: None)
    assert together == apart
    assert len(set(together)) > 20


def test_rows_that_have_ended_leave(llama: ModelAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama.model.generation_config, "eos_token_id", list(range(100, 300)))
    widths: list[int] = []
    with watching({0: llama.model.lm_head}, lambda _, args, __: widths.append(len(args[0]))):
        texts = _sample(llama, seed=5, numbers=range(24), tell=lambda _: None)
    assert widths[0] == 24
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 12
    assert len(texts) == 24


def test_sampling_tells_how_far_it_is(llama: ModelAdapter) -> None:
    told: list[tuple[str, int, int]] = []
    texts = sampled_texts(llama, seed=3, tokens=20_000, progress=lambda *seen: told.append(seen))
    taken = 0
    while taken < 20_000:
        taken += len(llama.tokenizer(next(texts))["input_ids"])
    assert {(stage, total) for stage, _, total in told} == {("sample text", 20_000)}
    steps = [done for _, done, _ in told]
    assert (steps[0], steps[-1]) == (0, 20_000)
    assert len(set(steps)) > 60


def test_a_model_that_writes_nothing_is_refused(tmp_path: Path) -> None:
    adapter = load(tiny("gpt2", tmp_path / "m"))
    end = adapter.tokenizer.eos_token_id
    adapter.model.generation_config.eos_token_id = [i for i in range(480) if i != end]
    adapter.tokenizer.decode = lambda *args, **kwargs: ""
    with pytest.raises(EngineError, match="gives no text"):
        next(sampled_texts(adapter, seed=0))


def test_second_moments_over_sampled_text(llama: ModelAdapter, tmp_path: Path) -> None:
    corpus = open_corpus("self", adapter=llama, cache=tmp_path)
    found = collect(llama, corpus, [1, 2], tokens=600, resume=tmp_path / "partial")
    assert found.count == 600


def test_the_text_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = open_corpus("shipped")
    texts = list(corpus)
    assert list(corpus) == texts
    assert sum(len(text.split()) for text in texts) > 5_000
    about = json.loads((data_directory("text") / "shipped.json").read_text())
    assert (len(texts), corpus.describe()["sha256"]) == (about["texts"], about["sha256"])
    assert {"model", "model_sha256", "tokens", "dtype", "threads", "torch", "sampling"} <= about.keys()
    assert list(open_corpus("shipped", seed=1)) != texts
    assert sorted(open_corpus("shipped", seed=1)) == sorted(texts)

    for name in ("shipped.json", "shipped.jsonl.gz"):
        (tmp_path / name).write_bytes((data_directory("text") / name).read_bytes())
    monkeypatch.setattr("memit_vc.numerics.statistics.corpus_shipped.data_directory", lambda _: tmp_path)
    assert list(open_corpus("shipped")) == texts
    damaged = bytearray((tmp_path / "shipped.jsonl.gz").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    for content in (bytes(damaged), bytes(damaged[:200]), gzip.compress(b'"another"\n'), b""):
        (tmp_path / "shipped.jsonl.gz").write_bytes(content)
        with pytest.raises(StorageError, match=r"shipped\.jsonl\.gz: the text that comes with memit-vc") as caught:
            open_corpus("shipped")
        assert "Reinstall" in str(caught.value.hint)


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"text": ["a text"]}), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for spec in (str(tmp_path / "a.parquet"), "hub:owner/name"):
        with pytest.raises(UsageError, match="pyarrow, which is not installed") as caught:
            open_corpus(spec, find_dataset=lambda _: pytest.fail("it was looked for"))
        assert "memit-vc[parquet]" in str(caught.value.hint)


def test_what_could_not_be_held_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / f"corpus{suffix}", TEXTS) for suffix in (".txt", ".jsonl", ".json", ".parquet")]
    monkeypatch.setattr(corpus_files, "_MOST_BYTES", 20)
    monkeypatch.setattr(corpus_files, "_MOST_JSON", 20)
    for path, said in zip(paths, ("a line of more", "a line of more", "JSON of more", "a row group of"), strict=True):
        with pytest.raises(StorageError, match=said) as caught:
            list(open_corpus(str(path)))
        assert caught.value.hint
    monkeypatch.undo()
    monkeypatch.setattr(corpus_files, "_MOST_ROWS", 2)
    with pytest.raises(StorageError, match="a row group of"):
        list(open_corpus(str(paths[-1])))


def test_the_rows_of_a_group_come_in_the_order_of_earlier_versions(tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"text": pa.array(TEXTS + TEXTS[:3])}), path, row_group_size=4)
    order, expected = random.Random(0), []
    with pq.ParquetFile(path) as file:
        for group in order.sample(range(file.num_row_groups), file.num_row_groups):
            rows = file.read_row_group(group).column("text").to_pylist()
            order.shuffle(rows)
            expected += rows
    assert list(open_corpus(str(path))) == expected


def test_a_column_of_lists_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"text": pa.array([["a", "b"], ["c"]])}), path)
    with pytest.raises(UsageError, match="not text"):
        list(open_corpus(str(path)))
