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
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.scores.likelihood import Continued, continuations

_SEMANTICS = {"rewrite": "reliability", "rephrase": "generalization"}


@dataclass(frozen=True)
class Measurement:
    """What is measured of every request.

    `eval_metric` "exact match" (or "token_em") gives `*_acc`, "ppl" gives `*_ppl`; `test_generation` adds the fluency
    of the prompt's continuation.
    """

    eval_metric: str = "exact match"
    test_generation: bool = False

    def __post_init__(self) -> None:
        if self.eval_metric not in ("exact match", "token_em", "ppl"):
            raise UsageError(f"eval_metric {self.eval_metric!r} is not supported", hint='Use "exact match" or "ppl".')

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
        plans = [_Plan.of(request, number) for number, request in enumerate(requests, 1)]
        asked = list(dict.fromkeys(pair for plan in plans for _, _, pairs in plan.questions for pair in pairs))
        answers = dict(zip(asked, continuations(adapter, asked), strict=True))
        results = []
        for plan in plans:
            result = self._result(plan, answers, hparams)
            if self.test_generation:
                result["fluency"] = {"ngram_entropy": ngram_entropy(adapter, [plan.prompt], seed=hparams.seed)}
            results.append(result)
        return results

    def _result(
        self, plan: _Plan, found: Mapping[tuple[str, str], Continued], hparams: MEMITHyperParams
    ) -> dict[str, Any]:
        result: dict[str, Any] = {"locality": {}, "portability": {}}
        described = {}
        for kind, name, pairs in plan.questions:
            values = [found[pair] for pair in pairs]
            if kind == "locality":
                result["locality"][f"{name}_output"] = [list(v.predicted) for v in values]
            elif kind == "portability":
                result["portability"][f"{name}_acc"] = [v.matched for v in values]
            else:
                measure = "ppl" if self.eval_metric == "ppl" else "acc"
                result[f"{kind}_{measure}"] = [math.exp(v.nll) if measure == "ppl" else v.matched for v in values]
                described[kind] = _meta(kind, measure, self.eval_metric, hparams)
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
            rephrased = _texts(request["rephrase_prompt"])
            questions.append(("rephrase", "", tuple((text, target) for text in rephrased)))
        for kind in ("locality", "portability"):
            for name, probes in (request.get(kind) or {}).items():
                prompts, answers = _texts(probes["prompt"]), _texts(probes["ground_truth"])
                for text, answer in zip(prompts, answers, strict=True):
                    if not text.strip() or not answer.strip():
                        raise UsageError(
                            f"request {number}: {kind} {name!r} has an empty prompt or ground_truth",
                            hint="Give a text for both, or leave the probe out.",
                        )
                questions.append((kind, name, tuple(zip(prompts, answers, strict=True))))
        return cls(prompt, tuple(questions))


def compare(post: dict[str, Any], pre: Mapping[str, Any]) -> dict[str, Any]:
    """`post` with `<name>_acc` of every locality probe: the share of predicted tokens that the edit left alone."""
    before = pre.get("locality", {})
    for key in [k for k in post["locality"] if k.endswith("_output")]:
        if key in before:
            post["locality"][key.removesuffix("_output") + "_acc"] = [
                sum(a == b for a, b in zip(after, was, strict=True)) / len(after)
                for after, was in zip(post["locality"][key], before[key], strict=True)
            ]
    return post


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(v) for v in value]


def _meta(kind: str, measure: str, eval_metric: str, hparams: MEMITHyperParams) -> dict[str, Any]:
    perplexity = measure == "ppl"
    protocol = "teacher_forcing_ppl" if perplexity else "decoder_only_teacher_forcing"
    scorer = "perplexity" if perplexity else "token_accuracy"
    return {
        "result_key": f"{kind}_{measure}",
        "semantic": _SEMANTICS[kind],
        "protocol": protocol,
        "scorer": scorer,
        "comparable_group": "lm.teacher_forcing.perplexity" if perplexity else f"lm.{protocol}.{scorer}",
        "alg_name": hparams.alg_name,
        "model_family": "decoder_only",
        "eval_metric": eval_metric,
        "evaluation_type": getattr(hparams, "evaluation_type", None),
        "higher_is_better": not perplexity,
        "legacy_field": not perplexity,
        "score_available": True,
    }
