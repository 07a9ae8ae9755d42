"""EasyEdit's metrics of an edit: teacher-forced token accuracy, with its keys.

Differences to EasyEdit: the target's ids stand behind the prompt's own, as in a generation, all requests are measured
in shared batches, and a target in a script without spaces is joined without one. The numbers mean the same: they are
equal wherever the tokenizer makes no token across the end of the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memit_vc.compat.fluency import ngram_entropy
from memit_vc.compat.records import Request
from memit_vc.errors import UsageError
from memit_vc.foreign.text import quoted
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.scores.likelihood import Continued, continuations

_ACCURACY = ("exact match", "token em", "token_em")
"""EasyEdit's names for one measure: the share of right tokens."""


@dataclass(frozen=True)
class Measurement:
    """What is measured of every request.

    `eval_metric` "exact match" (or "token em") gives `*_acc`, "ppl" gives `*_ppl`; `test_generation` adds the fluency
    of the prompt's continuation.
    """

    eval_metric: str = "exact match"
    test_generation: bool = False

    def __post_init__(self) -> None:
        if self.eval_metric not in (*_ACCURACY, "ppl"):
            raise UsageError(
                f"eval_metric {self.eval_metric!r} is not supported", hint='Use "exact match", "token em" or "ppl".'
            )

    def __call__(
        self, adapter: ModelAdapter, requests: Sequence[Request], hparams: MEMITHyperParams
    ) -> list[dict[str, Any]]:
        """One dict per request, with the weights that the model now holds: rewrite_acc, rephrase_acc, locality
        {`<name>_output`}, portability {`<name>_acc`}, fluency, metric_meta.
        """
        if getattr(hparams, "evaluation_type", None) not in (None, "traditional"):
            raise UsageError(
                f"evaluation_type {hparams.evaluation_type!r} is not supported",  # type: ignore[attr-defined]
                hint="Generate from the returned model to judge its texts: metrics here are teacher-forced.",
            )
        plans = plans_of(requests)
        asked = list(dict.fromkeys(pair for plan in plans for _, _, pairs in plan.questions for pair in pairs))
        answers = dict(zip(asked, continuations(adapter, asked), strict=True))
        results = []
        for plan in plans:
            result = self._result(plan, answers)
            if self.test_generation:
                result["fluency"] = {"ngram_entropy": ngram_entropy(adapter, [plan.prompt], seed=hparams.seed)}
            results.append(result)
        return results

    def _result(self, plan: _Plan, found: Mapping[tuple[str, str], Continued]) -> dict[str, Any]:
        result: dict[str, Any] = {"locality": {}, "portability": {}}
        described = {}
        for kind, name, pairs in plan.questions:
            values = [found[pair] for pair in pairs]
            if kind == "locality":
                result["locality"][f"{name}_output"] = [list(v.predicted) for v in values]
            elif kind == "portability":
                result["portability"][f"{name}_acc"] = [v.matched for v in values]
            else:
                perplexity = self.eval_metric == "ppl"
                if perplexity and not values:
                    continue  # no prompts have no perplexity
                key = f"{kind}_ppl" if perplexity else f"{kind}_acc"
                result[key] = _perplexity(values) if perplexity else [v.matched for v in values]
                described[kind] = _meta(key, *(_PERPLEXITY if perplexity else _TOKENS))
        return {**result, "metric_meta": described}


@dataclass(frozen=True)
class _Plan:
    """What is asked of the model for one request: (kind, name, (prompt, continuation) pairs)."""

    prompt: str
    questions: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]

    @classmethod
    def of(cls, request: Request, number: int) -> _Plan:
        target = request["target_new"]
        target = str(target["str"] if isinstance(target, Mapping) else target).strip()
        prompt = str(request["prompt"])
        if prompt.count("{}") == 1 and request.get("subject") and request["subject"] not in prompt:
            prompt = prompt.replace("{}", request["subject"])  # memit's form
        questions: list[tuple[str, str, tuple[tuple[str, str], ...]]] = [("rewrite", "", ((prompt, target),))]
        if request.get("rephrase_prompt") is not None:
            where = f"request {number}: rephrase_prompt"
            rephrased = _texts(request["rephrase_prompt"], where)
            if not all(text.strip() for text in rephrased):
                raise UsageError(f"{where} is an empty text", hint="Give a text, or leave it out.")
            questions.append(("rephrase", "", tuple((text, target) for text in rephrased)))
        for kind in ("locality", "portability"):
            for name, probes in (request.get(kind) or {}).items():
                where = f"request {number}: {kind} {name!r}"
                prompts, answers = (_texts(probes[key], f"{where}: {key}") for key in ("prompt", "ground_truth"))
                if len(prompts) != len(answers):
                    raise UsageError(
                        f"{where} has {len(prompts)} prompts and {len(answers)} answers", hint="Give one for each."
                    )
                for text, answer in zip(prompts, answers, strict=True):
                    if not text.strip() or not answer.strip():
                        raise UsageError(
                            f"{where} has an empty prompt or ground_truth",
                            hint="Give a text for both, or leave the probe out.",
                        )
                questions.append((kind, name, tuple(zip(prompts, answers, strict=True))))
        return cls(prompt, tuple(questions))


def plans_of(requests: Sequence[Request]) -> list[_Plan]:
    """What is asked of the model for each request. UsageError, which names the request, for what cannot be asked."""
    return [_Plan.of(request, number) for number, request in enumerate(requests, 1)]


def compare(post: dict[str, Any], pre: Mapping[str, Any]) -> dict[str, Any]:
    """`post` with `<name>_acc` of every locality probe: the share of predicted tokens that the edit left alone."""
    locality, described = dict(post["locality"]), dict(post["metric_meta"])
    for key, outputs in post["locality"].items():
        name, before = key.removesuffix("_output"), pre["locality"][key]
        if [len(tokens) for tokens in outputs] != [len(tokens) for tokens in before]:
            raise UsageError(
                f"{key} of pre_edit has other tokens than this model's",
                hint="Leave out pre_edit to measure again: it was measured with another tokenizer or other answers.",
            )
        locality[f"{name}_acc"] = [
            sum(a == b for a, b in zip(after, was, strict=True)) / len(after)
            for after, was in zip(outputs, before, strict=True)
        ]
        described[f"locality.{name}"] = _meta(f"locality.{name}_acc", *_UNCHANGED)
    return {**post, "locality": locality, "metric_meta": described}


def _texts(value: Any, where: str) -> list[str]:
    """One text for each entry; of a list of aliases, as KnowEdit has them, the first, which EasyEdit's scripts take."""
    try:
        entries = [value] if isinstance(value, str) else list(value)
    except TypeError:
        raise _no_text(value, where) from None
    return [_text(entry, where) for entry in entries]


def _text(entry: Any, where: str) -> str:
    while isinstance(entry, list | tuple) and entry:
        entry = entry[0]
    if isinstance(entry, int) and not isinstance(entry, bool):
        return str(entry)  # a year
    if not isinstance(entry, str):
        raise _no_text(entry, where)
    return entry


def _no_text(entry: Any, where: str) -> UsageError:
    what = f"{where} holds {quoted(entry)}, which is not a text"
    return UsageError(what, hint="Give a string for each prompt and answer.")


def _perplexity(values: Sequence[Continued]) -> float:
    """Of all tokens together, as EasyEdit's: one number, for several prompts too."""
    tokens = [len(value.predicted) for value in values]
    return math.exp(sum(value.nll * n for value, n in zip(values, tokens, strict=True)) / sum(tokens))


_TOKENS = ("decoder_only_teacher_forcing", "token_accuracy", "lm.decoder_only_teacher_forcing.token_accuracy")
_PERPLEXITY = ("teacher_forcing_ppl", "perplexity", "lm.teacher_forcing.perplexity")
_UNCHANGED = ("pre_post_argmax_token_match", "token_match", "locality.lm.pre_post_argmax_token_match")
"""EasyEdit's words for how a number was found: protocol, scorer, and the numbers that it may be compared with."""


def _meta(key: str, protocol: str, scorer: str, group: str) -> dict[str, str]:
    return {"result_key": key, "protocol": protocol, "scorer": scorer, "comparable_group": group}
