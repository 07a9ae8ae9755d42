"""Requests in odd forms: taken where they can be read, else refused with what is wrong, where, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from memit_vc import BaseEditor, execute_memit, summary_metrics
from memit_vc.compat.records import facts_of, listed_requests, prepare_requests
from memit_vc.errors import MemitVCError, StorageError, UsageError
from tests.compat.conftest import Case, requests

ONE = {"prompts": "The capital of Norland is", "target_new": "Lisbon", "subject": "Norland"}
TWO = {"prompts": ["The capital of Norland is", "Mira Holt plays the"], "target_new": ["Lisbon", "violin"]}
PROBES = {"prompt": ["The capital of Sarn is", "Sarn is"], "ground_truth": ["Vienna", "an island"]}
BEFORE = {"rewrite_acc": [0.0], "locality": {"n_output": [[5]]}}


class Row:
    """As the row of a table: no dict, but one can be made of it."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def keys(self) -> Iterable[str]:
        return self._fields.keys()

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]


@pytest.fixture
def case(make: Callable[..., Case]) -> Case:
    return make("linear", v_num_grad_steps=2)


@pytest.fixture
def editor(case: Case) -> BaseEditor:
    return BaseEditor.from_hparams(case.hparams, statistics=case.statistics)


def refused(said: str, call: Callable[[], object], kind: type[MemitVCError] = MemitVCError) -> None:
    with pytest.raises(kind, match=said) as caught:
        call()
    assert caught.value.hint


def test_forms_of_a_list_of_requests() -> None:
    plain = requests(2)
    for form in (tuple(plain), iter(plain), {"a": plain[0], "b": plain[1]}.values(), map(Row, plain)):
        assert listed_requests(form) == plain
    assert listed_requests(plain[0]) == plain[:1]
    assert listed_requests(plain)[0] is not plain[0]
    assert [fact.subject for fact in facts_of(listed_requests(iter(plain)))] == ["Norland", "Mira Holt"]


def test_iterators_give_what_lists_give(editor: BaseEditor, case: Case, tmp_path: Path) -> None:
    listed = [{**r, "locality": {"n": PROBES}, "rephrase_prompt": ["Norland:", "In Norland:"]} for r in requests(2)]
    once = [
        {**r, "locality": {"n": {key: iter(texts) for key, texts in PROBES.items()}},
         "rephrase_prompt": iter(r["rephrase_prompt"])} for r in listed
    ]  # fmt: skip
    expected, _, _ = editor.edit(requests=listed)
    found, _, _ = editor.edit_requests(iter(once))
    assert found == expected
    json.dumps(found)
    inputs = {"n": {key: [iter(texts), None] for key, texts in PROBES.items()}}
    first, second = prepare_requests(**TWO, locality_inputs=inputs)
    assert (first["locality"], second["locality"]) == ({"n": PROBES}, {})
    numbered = [{**r, "case_id": i} for i, r in enumerate(requests(2))]
    deltas = execute_memit(
        case.model, case.tok, iter(numbered), case.hparams, f"{tmp_path}/{{}}-{{}}-{{}}.npz", statistics=case.statistics
    )
    assert {adjusted.shape[1] for adjusted, _ in deltas.values()} == {2}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (5, "requests is a int"),
        (True, "requests is a bool"),
        (object(), "requests is a object"),
        ("text", "request 1 is a str, not a dict"),
        (b"ab", "request 1 is a int, not a dict"),
        ([requests(1)[0], None], "request 2 is a NoneType, not a dict"),
        ([requests(1)[0], 3], "request 2 is a int, not a dict"),
        ([["a", "b"]], "request 1 is a list, not a dict"),
        ([{**requests(1)[0], "prompt": None}], 'record 1: "prompt" is missing'),
        ([{**requests(1)[0], "prompt": ""}], 'record 1: "prompt" is empty'),
        ([{**requests(1)[0], "prompt": 3}], 'record 1: "prompt" is the number 3'),
        ([requests(1)[0], {"prompt": "Mira Holt plays the"}], 'record 2: "target_new" is missing'),
        ([{**requests(1)[0], "target_new": " "}], 'record 1: "target_new" is empty'),
        ([{**requests(1)[0], "subject": ["Norland"]}], 'record 1: "subject" is a list'),
    ],
)
def test_what_is_no_request(editor: BaseEditor, case: Case, given: Any, said: str) -> None:
    for call in (
        lambda: editor.edit(requests=given),
        lambda: editor.batch_edit(requests=given),
        lambda: editor.edit_requests(given),
        lambda: execute_memit(case.model, case.tok, given, case.hparams, statistics=case.statistics),
    ):
        refused(said, call)


def test_no_requests_at_all(editor: BaseEditor, case: Case) -> None:
    refused("requests is a NoneType", lambda: editor.edit_requests(None))  # type: ignore[arg-type]
    refused("needs prompts and target_new", lambda: editor.edit(requests=None))
    refused("nothing to edit", lambda: editor.edit(requests=[]))
    refused("no records", lambda: execute_memit(case.model, case.tok, [], case.hparams, statistics=case.statistics))


@pytest.mark.parametrize("kind", ["locality", "portability"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a"], "request 1: KIND is a list, not a dict"),
        ("a", "request 1: KIND is a str, not a dict"),
        (torch.zeros(2), "request 1: KIND is a Tensor, not a dict"),
        ({"n": None}, r"request 1: KIND\['n'\] lacks prompt or ground_truth"),
        ({"n": ["a"]}, r"request 1: KIND\['n'\] lacks prompt or ground_truth"),
        ({"n": {"prompt": "a"}}, r"request 1: KIND\['n'\] lacks prompt or ground_truth"),
        ({"n": {"prompt": "a", "ground_truth": None}}, "request 1: KIND 'n': ground_truth holds None"),
        ({"n": {"prompt": 4, "ground_truth": "b"}}, "request 1: KIND 'n': prompt holds 4"),
        ({"n": {"prompt": ["a"], "ground_truth": ["b", "c"]}}, "KIND 'n' has 1 prompts and 2 answers"),
    ],
)
def test_probes_that_cannot_be_asked(
    editor: BaseEditor, monkeypatch: pytest.MonkeyPatch, kind: str, given: Any, said: str
) -> None:
    """Before anything is edited: with a repository a commit would stay."""
    import memit_vc.compat.session as session

    monkeypatch.setattr(session, "compute_edit", lambda *_, **__: pytest.fail("an edit began"))
    asked = [{**requests(1)[0], kind: given}]
    refused(said.replace("KIND", kind), lambda: editor.edit(requests=asked), UsageError)
    refused(
        said.replace("KIND", kind), lambda: editor.edit(requests=asked, pre_edit=[{"rewrite_acc": [0.0]}]), UsageError
    )


def test_no_probes(editor: BaseEditor) -> None:
    """As EasyEdit has it: an empty value of any kind is none."""
    for empty in (None, {}, [], ""):
        metrics, _, _ = editor.edit(requests=[{**requests(1)[0], "locality": empty, "portability": empty}])
        assert metrics[0]["post"]["locality"] == metrics[0]["post"]["portability"] == {}
    metrics, _, _ = editor.edit(requests=[{**requests(1)[0], "rephrase_prompt": []}], eval_metric="ppl")
    assert "rephrase_ppl" not in metrics[0]["post"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompts": 3}, "prompts is a int"),
        ({"prompts": torch.tensor(2.0)}, "prompts is a Tensor"),
        ({"prompts": {"a": 1}}, "prompts is a dict"),
        ({"prompts": ["The capital of Norland is", None]}, 'record 2: "prompt" is missing'),
        ({"target_new": ["Lisbon", 3]}, 'record 2: "target_new" is the number 3'),
        ({"target_new": iter(["Lisbon"])}, "target_new has length 1, prompts 2"),
        ({"subject": ["Norland", 3]}, 'record 2: "subject" is the number 3'),
        ({"rephrase_prompts": [None, 3]}, "request 2: rephrase_prompt holds 3, which is not a text"),
        ({"rephrase_prompts": torch.zeros(2)}, "request 1: rephrase_prompt holds tensor"),
        ({"rephrase_prompts": ["Find Norland", " "]}, "request 2: rephrase_prompt is an empty text"),
        ({"locality_inputs": ["a"]}, "locality_inputs is a list, not a dict"),
        ({"portability_inputs": 3}, "portability_inputs is a int, not a dict"),
        ({"locality_inputs": {"n": {"prompt": ["a", "b"], "ground_truth": ["c", 3]}}},
         r"locality_inputs\['n'\]\['ground_truth'\], entry 2, is a int"),
        ({"pre_edit": 3}, "pre_edit is a int"),
        ({"pre_edit": [None, None]}, "entry 1 of pre_edit has neither"),
        ({"pre_edit": [{**BEFORE, "locality": {"n_output": [3]}}, BEFORE], "locality_inputs": {
            "n": {"prompt": ["a", None], "ground_truth": ["b", None]}}}, "entry 1 of pre_edit has no n_output"),
        ({"pre_file": 3}, "pre_file is 3, not a path"),
        ({"pre_file": ""}, "pre_file is '', not a path"),
        ({"pre_file": "a\0b"}, r"pre_file is 'a\\x00b', not a path"),
    ],
)  # fmt: skip
def test_lists_that_do_not_fit(editor: BaseEditor, case: Case, given: dict[str, Any], said: str) -> None:
    before = case.bytes()
    refused(said, lambda: editor.edit(**{**TWO, **given}, keep_original_weight=False))
    assert case.unchanged(before)


def test_a_file_of_measurements_that_cannot_be_written(editor: BaseEditor, tmp_path: Path) -> None:
    refused("no-such", lambda: editor.edit(**ONE, pre_file=tmp_path / "no-such" / "file"), StorageError)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"statistics": [1]}, "statistics is a list, not a dict"),
        ({"statistics": {1: "x", 2: "x"}}, r"statistics\[1\] is a str, not a tensor"),
        ({"statistics": {"a": 1, 5: 2}}, "statistics has no layer 1"),
        ({"context_templates": 3}, "context_templates is not a nested list"),
        ({"context_templates": [3]}, "context_templates is not a nested list"),
        ({"context_templates": [[3]]}, "context_templates is not a nested list"),
        ({"cache_template": "\0{}{}{}"}, "holds a NUL"),
        ({"cache_template": "{0.x}"}, "cannot be filled in"),
        ({"hparams": {}}, "hparams is a dict"),
        ({"hparams": None}, "hparams is a NoneType"),
    ],
)
def test_other_odd_arguments(case: Case, given: dict[str, Any], said: str) -> None:
    numbered = [{**r, "case_id": i} for i, r in enumerate(requests(2))]
    plain = {"hparams": case.hparams, "statistics": case.statistics}
    refused(said, lambda: execute_memit(case.model, case.tok, numbered, **{**plain, **given}))


def test_an_odd_editor(editor: BaseEditor, case: Case) -> None:
    refused("repo is 3, not a path", lambda: BaseEditor.from_hparams(case.hparams, repo=3))  # type: ignore[arg-type]
    editor.hparams.batch_size = None  # type: ignore[assignment]
    refused("batch_size is None", lambda: editor.batch_edit(**ONE))


@pytest.mark.parametrize("given", [None, 3, [3], [None], [{"pre": 3}], [{"post": {"rewrite_acc": "x"}}]])
def test_a_summary_of_no_metrics(given: Any) -> None:
    refused("all_metrics (is a|holds)", lambda: summary_metrics(given), UsageError)
