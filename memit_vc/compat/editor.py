"""EasyEdit's `BaseEditor`, with MEMIT in it. `docs/easyedit.md` says what is the same and what differs on purpose."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from memit_vc.compat.before import checked_path, given_before, write_before
from memit_vc.compat.memit import apply_memit_to_model
from memit_vc.compat.metrics import Measurement, compare, plans_of
from memit_vc.compat.models import check_hparams, load
from memit_vc.compat.records import Request, facts_of, listed_requests, prepare_requests, with_checked_probes
from memit_vc.compat.session import MemorySession, Session
from memit_vc.errors import UsageError
from memit_vc.foreign.text import quoted
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.model.modes import outside_inference_mode
from memit_vc.objects import Fact
from memit_vc.progress import Progress, silent

_LOG = logging.getLogger(__name__)

Outcome = tuple[list[dict[str, Any]], Any, "dict[str, Tensor]"]
"""(metrics, one dict per request; the edited model; the edited weights as they were before the call, by name)."""


class BaseEditor:
    """A model, its tokenizer, and MEMIT. `hparams` is read at each call, so that a script may change it in between.

    With `repo`, the model is that of the repository's HEAD and every edit is a commit there.
    """

    @classmethod
    def from_hparams(
        cls,
        hparams: MEMITHyperParams,
        repo: str | Path | None = None,
        *,
        statistics: Mapping[int, Tensor] | None = None,
        context_templates: Sequence[Sequence[str]] | None = None,
        progress: Progress = silent,
    ) -> BaseEditor:
        """An editor of `hparams.model_name`: a directory, a Hub id, or a (model, tokenizer) pair.

        With `repo` the model is loaded from the repository's base; of a pair, the model is only checked:
        BaseChangedError unless it is the base or a state of it.

        `statistics` and `context_templates` as in `execute_memit`; without them each is found once and kept here.
        """
        return cls(hparams, repo, statistics=statistics, context_templates=context_templates, progress=progress)

    @outside_inference_mode
    def __init__(
        self,
        hparams: MEMITHyperParams,
        repo: str | Path | None = None,
        *,
        statistics: Mapping[int, Tensor] | None = None,
        context_templates: Sequence[Sequence[str]] | None = None,
        progress: Progress = silent,
    ) -> None:
        check_hparams(hparams)
        self.hparams = hparams
        self._given = {"statistics": statistics, "context_templates": context_templates}
        self._session: Session
        if repo is not None:
            from memit_vc.compat.repository_editor import RepositorySession

            if statistics is not None or context_templates is not None:
                raise UsageError(
                    "a repository has its own statistics and templates",
                    hint="Leave out statistics= and context_templates=, or edit without repo=.",
                )
            if not isinstance(repo, str | os.PathLike):
                raise UsageError(f"repo is {quoted(repo)}, not a path", hint="Give the directory of a repository.")
            given = load(hparams)[0] if isinstance(hparams.model_name, tuple | list) else None
            self._session = RepositorySession(Path(repo), hparams, given=given, progress=progress)
        else:
            model, tok = load(hparams)
            self._session = MemorySession(
                model, tok, hparams, statistics=statistics, templates=context_templates, progress=progress
            )

    @property
    def model(self) -> Any:
        """The editor's own model: what `keep_original_weight=False` edits and `True` leaves alone.

        Scripts set it to the model that an edit returned, to keep the edit.
        """
        return self._session.adapter.model

    @model.setter
    def model(self, model: Any) -> None:
        self._session.adopt(model, self.tok, self.hparams)

    @property
    def tok(self) -> Any:
        """Its tokenizer."""
        return self._session.adapter.tokenizer

    @tok.setter
    def tok(self, tok: Any) -> None:
        self._session.adopt(self.model, tok, self.hparams)

    @property
    def device(self) -> Any:
        """Where the model's inputs go."""
        return self._session.adapter.device

    def apply_algo(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        """`apply_memit_to_model`, with the statistics and templates that the editor was given."""
        return apply_memit_to_model(*args, **{**self._given, **kwargs})

    @property
    def model_name(self) -> Any:
        return self.hparams.model_name

    @property
    def alg_name(self) -> str:
        return self.hparams.alg_name

    @outside_inference_mode
    def edit(
        self,
        prompts: str | Sequence[str] | None = None,
        target_new: str | Sequence[str] | None = None,
        ground_truth: str | Sequence[str | None] | None = None,
        target_neg: str | Sequence[str | None] | None = None,
        rephrase_prompts: str | Sequence[Any] | None = None,
        locality_inputs: Mapping[str, Mapping[str, Any]] | None = None,
        portability_inputs: Mapping[str, Mapping[str, Any]] | None = None,
        sequential_edit: bool = False,
        verbose: bool = True,
        *,
        subject: str | Sequence[str | None] | None = None,
        keep_original_weight: bool | None = None,
        requests: Sequence[Request] | None = None,
        **kwargs: Any,
    ) -> Outcome:
        """Edit and measure. `requests` (EasyEdit's dicts) takes the place of the parallel lists.

        `keep_original_weight=True`: all requests are one batch, solved from the weights as they stand; `self.model`
        stays bit-identical, the returned model is a second one that shares every untouched parameter with it. `False`:
        the requests are applied one after the other, in place, and `self.model` is returned. Not given: `False` where
        `sequential_edit` is true, else `True`. Both true: one after the other, on the second model.

        With a repository the call is one commit (`message` is its message), or one per request where `sequential_edit`
        is true; `self.model` follows HEAD unless `keep_original_weight` is true.

        `post` is measured when all requests are in; where they went in one after the other, `post_immediate` is the
        value right after each. On error, an interrupt too, the model is as it was before the call; with a
        repository, commits that were made stay and the model shows HEAD.
        """
        asked = self._requests(
            prompts,
            target_new,
            requests,
            ground_truth=ground_truth,
            target_neg=target_neg,
            rephrase_prompts=rephrase_prompts,
            locality_inputs=locality_inputs,
            portability_inputs=portability_inputs,
            subject=subject,
            loc_prompts=kwargs.pop("loc_prompts", None),
        )
        return self.edit_requests(asked, sequential_edit, verbose, keep_original_weight=keep_original_weight, **kwargs)

    @outside_inference_mode
    def edit_requests(
        self,
        requests: Sequence[Request],
        sequential_edit: bool = False,
        verbose: bool = True,
        *,
        keep_original_weight: bool | None = None,
        **kwargs: Any,
    ) -> Outcome:
        """`edit`, for request dicts."""
        asked = listed_requests(requests)
        in_place = self._in_place(sequential_edit, keep_original_weight)
        size = 1 if sequential_edit or (in_place and not self._session.commits) else len(asked)
        metrics, model, weights, _ = self._run(asked, size, in_place, verbose, kwargs)
        return metrics, model, weights

    @outside_inference_mode
    def batch_edit(
        self,
        prompts: str | Sequence[str] | None = None,
        target_new: str | Sequence[str] | None = None,
        ground_truth: str | Sequence[str | None] | None = None,
        target_neg: str | Sequence[str | None] | None = None,
        rephrase_prompts: str | Sequence[Any] | None = None,
        locality_inputs: Mapping[str, Mapping[str, Any]] | None = None,
        portability_inputs: Mapping[str, Mapping[str, Any]] | None = None,
        sequential_edit: bool = False,
        verbose: bool = True,
        *,
        subject: str | Sequence[str | None] | None = None,
        keep_original_weight: bool | None = None,
        requests: Sequence[Request] | None = None,
        **kwargs: Any,
    ) -> Outcome:
        """`edit` in batches of `hparams.batch_size` requests, one after the other; 1, the default, means all at once.

        In place where `sequential_edit` is true or `keep_original_weight` false, else on a second model. Metrics also
        hold `time`, the seconds of the request's batch, and `case_id` goes on from batch to batch.
        """
        asked = self._requests(
            prompts,
            target_new,
            requests,
            ground_truth=ground_truth,
            target_neg=target_neg,
            rephrase_prompts=rephrase_prompts,
            locality_inputs=locality_inputs,
            portability_inputs=portability_inputs,
            subject=subject,
            loc_prompts=kwargs.pop("loc_prompts", None),
        )
        in_place = self._in_place(sequential_edit, keep_original_weight)
        metrics, model, weights, seconds = self._run(asked, None, in_place, verbose, kwargs)
        return [{**record, "time": taken} for record, taken in zip(metrics, seconds, strict=True)], model, weights

    @outside_inference_mode
    def normal_edit(
        self,
        prompts: str | Sequence[str],
        target_new: str | Sequence[str],
        sequential_edit: bool = False,  # noqa: ARG002 (EasyEdit has it here, and no use for it either)
        *,
        keep_original_weight: bool = False,
        subject: str | Sequence[str | None] | None = None,
    ) -> tuple[None, Any, dict[str, Tensor]]:
        """All requests as one batch and no metrics: (None, edited model, original weights)."""
        requests = prepare_requests(prompts, target_new, subject=subject)
        change = self._session.begin(self.hparams, in_place=not keep_original_weight)
        with change:
            change.apply(facts_of(requests))
        return None, change.adapter.model, change.original

    def _in_place(self, sequential_edit: bool, keep_original_weight: bool | None) -> bool:
        if keep_original_weight is None:
            return sequential_edit or self._session.commits
        return not keep_original_weight

    def _requests(
        self,
        prompts: str | Sequence[str] | None,
        target_new: str | Sequence[str] | None,
        requests: Sequence[Request] | None,
        **columns: Any,
    ) -> list[Request]:
        given = {"prompts": prompts, "target_new": target_new, **columns} if requests is not None else columns
        unread = ("target_neg", "loc_prompts") if requests is None else given
        if unused := sorted(name for name in unread if given[name] is not None):
            _LOG.warning(
                "edit: %s: not used %s", ", ".join(unused), "by MEMIT" if requests is None else "beside requests"
            )
        if requests is not None:
            return listed_requests(requests)
        if prompts is None or target_new is None:
            raise UsageError("edit needs prompts and target_new, or requests", hint="Give both lists, of one length.")
        return prepare_requests(prompts, target_new, **columns)

    def _run(
        self, given: Sequence[Request], size: int | None, in_place: bool, verbose: bool, options: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], Any, dict[str, Tensor], list[float]]:
        """Batches of `size` requests (None: as `batch_size` says) one after the other, measured before, after each (if
        several) and at the end.
        """
        change = self._session.begin(self.hparams, in_place=in_place, message=options.pop("message", None))
        measure, pre, pre_file = self._options(options, len(given))
        facts = facts_of(given)
        both = zip(given, facts, strict=True)
        requests = [_described(request, fact, number) for number, (request, fact) in enumerate(both, 1)]
        plans_of(requests)  # with `pre_edit` nothing is asked before the edit, and a commit would stay
        hparams = self.hparams
        if size is None:
            size = hparams.batch_size if hparams.batch_size > 1 else len(facts)
        batches = [range(i, min(i + size, len(facts))) for i in range(0, len(facts), size)]
        metrics: list[dict[str, Any]] = []
        seconds: list[float] = []
        with change:
            before = measure(change.adapter, requests, hparams) if pre is None else given_before(pre, requests)
            if pre_file is not None and pre is None:
                write_before(pre_file, before)
            for batch in batches:
                start = time.perf_counter()
                change.apply([facts[i] for i in batch])
                seconds += [time.perf_counter() - start] * len(batch)
                part = [requests[i] for i in batch]
                immediate = measure(change.adapter, part, hparams) if len(batches) > 1 else [None] * len(part)
                for index, request, right_after in zip(batch, part, immediate, strict=True):
                    record = {"pre": before[index], "case_id": index, "requested_rewrite": request}
                    if right_after is not None:
                        record["post_immediate"] = compare(right_after, before[index])
                    metrics.append(record)
            after = measure(change.adapter, requests, hparams)
            posts = [compare(post, was) for post, was in zip(after, before, strict=True)]
        level = logging.INFO if verbose else logging.DEBUG
        for index, (record, post) in enumerate(zip(metrics, posts, strict=True)):
            record["post"] = post
            _LOG.log(level, "%d editing: %s -> %s\n%s", index, facts[index].prompt, facts[index].target, record)
        return metrics, change.adapter.model, change.original, seconds

    def _options(self, options: dict[str, Any], n: int) -> tuple[Measurement, Any, Path | None]:
        if not n:
            raise UsageError("there is nothing to edit", hint="Give at least one prompt with its target_new.")
        metric, generate = options.pop("eval_metric", None) or "exact match", options.pop("test_generation", False)
        measure = Measurement(metric, bool(generate))
        pre, pre_file = options.pop("pre_edit", None), options.pop("pre_file", None)
        pre_file = None if pre_file is None else checked_path(pre_file)
        if unused := sorted(key for key, value in options.items() if value is not None):
            _LOG.warning("edit: %s: not an argument of MEMIT, ignored", ", ".join(unused))
        return measure, pre, pre_file


def _described(request: Request, fact: Fact, number: int) -> Request:
    """The request with the subject that was found, for the metrics."""
    return {**with_checked_probes(request, number), "subject": request.get("subject") or fact.subject}
