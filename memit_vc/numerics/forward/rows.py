"""The token rows of a batch of facts, and how rows are put together so that little of a forward is padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, zip_longest
from typing import Any, Literal

import torch
from torch import Tensor

from memit_vc.numerics.forward.phrasebook import PhraseBook
from memit_vc.numerics.forward.questions import REPEATED
from memit_vc.numerics.forward.tokens import Template, TokenRow, apart, encode, join_target, last_token, target_rows
from memit_vc.objects import Fact


@dataclass(frozen=True, slots=True)
class FactRow:
    """A row of fact number `fact` of the batch: `nll` rows ask for the target, `kl` rows watch what else is said.

    `weight` is the row's share of the fact's loss. A `kl` row is read at its last token.
    """

    fact: int
    kind: Literal["nll", "kl"]
    row: TokenRow
    weight: float


def search_rows(
    tokenizer: Any,
    facts: Sequence[Fact],
    templates: Sequence[Template],
    *,
    kl_factor: float = 1.0,
    keep: Sequence[Template] = (),
    keep_factor: float = 0.0,
    name_factor: float = 0.0,
    anchors: Sequence[Template] | None = None,
    positions: int | None = None,
) -> list[FactRow]:
    """Rows of a search: for each fact its prompt in each template and each phrasing in one (`_in_turns`), with the
    target behind and what ends an answer there; "{subject} is a", cut behind the subject; `keep`, other questions about
    the subject ("{}" stands for it); and texts that name the subject again (`name_rows`).

    The first row of a fact is its prompt in the first template. `anchors` (`sinks.py`) None: all templates are for all
    facts; else a fact with another anchor than the plain prompt is asked everything behind that one's text. The
    questions share `keep_factor` equally; what the fact itself asks is no other question (`PhraseBook.asks`). The texts
    with the name share `name_factor`; one that has more tokens than the model has `positions` is left out.
    """
    within = list(anchors or [Template("")] * len(facts))
    texts = [
        [(template, fact.prompt, fact.subject_span) for template in own]
        + [(t, text, fact.span_in(text)) for text, t in zip(fact.phrasings, cycle(_in_turns(own)), strict=False)]
        for fact, anchor in zip(facts, within, strict=True)
        for own in [[t for t in templates if t.prefix.strip()] if anchor.prefix else templates]
    ]
    places = [(index, *one) for index, each in enumerate(texts) for one in each]
    asked = target_rows(
        tokenizer,
        [(template.fill(text), facts[index].target) for index, template, text, _ in places],
        spans=[template.span(span) for _, template, _, span in places],
        between=[template.between for _, template, _, _ in places],
    )
    counts = Counter(index for index, _, _, _ in places)
    rows = [
        FactRow(index, "nll", ended(tokenizer, row, template), 1.0 / counts[index])
        for (index, template, _, _), row in zip(places, asked, strict=True)
    ]
    essences = encode(tokenizer, [t.fill(f"{fact.subject} is a") for t, fact in zip(within, facts, strict=True)])
    for index, (fact, encoded) in enumerate(zip(facts, essences, strict=True)):
        pivot = last_token(encoded, within[index].span((0, len(fact.subject))))
        rows.append(FactRow(index, "kl", TokenRow(ids=encoded.ids[: pivot + 1], pivot=pivot), kl_factor))
    if keep and keep_factor:
        book = PhraseBook.shipped()
        others = [{q for q in keep if not book.asks(fact, q.fill(fact.subject))} for fact in facts]
        rows += [
            FactRow(index, "kl", row, keep_factor / len(others[index]))
            for question in keep
            for index, row in enumerate(question_rows(tokenizer, facts, question, within))
            if question in others[index]
        ]
    if name_factor:
        for index, (fact, anchor) in enumerate(zip(facts, within, strict=True)):
            named = [r for r in name_rows(tokenizer, fact, anchor) if positions is None or len(r.ids) <= positions]
            rows += [FactRow(index, "kl", row, name_factor / len(named)) for row in named]
    return rows


def _in_turns(templates: Sequence[Template]) -> list[Template]:
    """Of every two phrasings, one is asked in the first template: the plain prompt, or a sink's anchor. The others take
    turns, chat texts among them.

    The other questions are asked without text in front. If most phrasings had such text, the search would learn to tell
    the two apart by it, and a question without it would get the old answer (docs/quality.md).
    """
    first, *others = templates
    kinds = ([t for t in others if not t.suffix], [t for t in others if t.suffix])
    mixed = [template for pair in zip_longest(*kinds) for template in pair if template is not None]
    return [template for other in mixed for template in (first, other)] or [first]


def ended(tokenizer: Any, row: TokenRow, template: Template) -> TokenRow:
    """The row with one more label behind the target: the first token of the template's end; as it is without one."""
    if not template.end:
        return row
    label = apart(tokenizer, template.end)[0]
    return TokenRow(
        ids=(*row.ids, row.labels[-1]),
        pivot=row.pivot,
        positions=(*row.positions, row.positions[-1] + 1),
        labels=(*row.labels, label),
        shares=(*[1 / len(row.labels)] * len(row.labels), template.end_share),
    )


def question_rows(
    tokenizer: Any, facts: Sequence[Fact], question: Template, within: Sequence[Template] | None = None
) -> list[TokenRow]:
    """One row per fact: `question` with its subject, the whole text, the pivot at the subject's last token. `within` is
    the text around each.
    """
    around = list(within or [Template("")] * len(facts))
    texts = encode(tokenizer, [t.fill(question.fill(fact.subject)) for t, fact in zip(around, facts, strict=True)])
    spans = [t.span(question.span((0, len(fact.subject)))) for t, fact in zip(around, facts, strict=True)]
    return [TokenRow(ids=text.ids, pivot=last_token(text, span)) for text, span in zip(texts, spans, strict=True)]


def name_rows(tokenizer: Any, fact: Fact, within: Template) -> list[TokenRow]:
    """Texts that name the subject twice, cut before the last token of the second time; the pivot is in the first.

    There an edited model often writes another name: the edit changes the hidden state at the first name's end. Before
    the second one stands one of `REPEATED`. A name of one token has no such rows, nor has a fact whose target begins as
    the name does: there they would ask for the old answer.
    """
    said = {
        "subject": (fact.subject, (0, len(fact.subject))),
        "prompt": (fact.prompt, fact.subject_span),
        "fact": (join_target(fact.prompt, fact.target), fact.subject_span),
    }
    texts, spans = [], []
    for repeated in REPEATED:
        before, _, rest = repeated.partition("{")
        place, _, behind = rest.partition("}")
        text, span = said[place]
        around = Template(before, behind)
        texts.append(join_target(within.fill(around.fill(text)), fact.subject))
        spans.append(within.span(around.span(span)))
    rows = []
    for encoded, span in zip(encode(tokenizer, texts), spans, strict=True):
        start = len(encoded.text) - len(fact.subject)
        last = last_token(encoded, (start, len(encoded.text)))
        beginning = encoded.text[start : encoded.offsets[last][0]]
        one = not any(stop > start for _, stop in encoded.offsets[:last])
        if not one and not (beginning and fact.target.strip().startswith(beginning)):
            rows.append(TokenRow(ids=encoded.ids[:last], pivot=last_token(encoded, span)))
    return rows


def prompt_rows(tokenizer: Any, facts: Sequence[Fact], template: Template) -> list[TokenRow]:
    """One row per fact: the filled prompt up to the subject's last token, where keys and block outputs are read."""
    rows = []
    for fact, encoded in zip(facts, encode(tokenizer, [template.fill(f.prompt) for f in facts]), strict=True):
        pivot = last_token(encoded, template.span(fact.subject_span))
        rows.append(TokenRow(ids=encoded.ids[: pivot + 1], pivot=pivot))
    return rows


def buckets(lengths: Sequence[int], *, max_tokens: int, overhead: int = 48) -> list[list[int]]:
    """Partition row indices into buckets of similar length with the least work.

    Work of a bucket is rows · longest row + `overhead` (the fixed cost of a forward, in tokens). Exact, by dynamic
    programming over the distinct lengths; a bucket above `max_tokens` is cut into equal parts. A single row may be
    longer than `max_tokens`.
    """
    if not lengths:
        return []
    distinct = sorted(set(lengths))
    counts = [sum(1 for n in lengths if n == value) for value in distinct]
    best = [0.0] + [float("inf")] * len(distinct)
    cut = [0] * (len(distinct) + 1)
    for stop in range(1, len(distinct) + 1):
        rows = 0
        for start in range(stop - 1, -1, -1):
            rows += counts[start]
            cost = best[start] + rows * distinct[stop - 1] + overhead
            if cost < best[stop]:
                best[stop], cut[stop] = cost, start
    groups: list[list[int]] = []
    stop = len(distinct)
    while stop:
        span = set(distinct[cut[stop] : stop])
        groups.append([i for i, n in enumerate(lengths) if n in span])
        stop = cut[stop]
    return [part for group in reversed(groups) for part in _split(group, lengths, max_tokens)]


def portions(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Row indices in order, in parts of about equal numbers of tokens, each of at most about `max_tokens`."""
    parts = max(1, -(-sum(lengths) // max_tokens))
    found: list[list[int]] = [[] for _ in range(parts)]
    before, total = 0, max(1, sum(lengths))
    for index, length in enumerate(lengths):
        found[min(parts - 1, before * parts // total)].append(index)
        before += length
    return [part for part in found if part]


def _split(group: list[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    most = max(1, max_tokens // max(lengths[i] for i in group))
    parts = -(-len(group) // most)
    size = -(-len(group) // parts)
    return [group[i : i + size] for i in range(0, len(group), size)]


def pad(rows: Sequence[Sequence[int]], *, value: int = 0, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Right-padded ids [rows, length] int64 and mask [rows, length] int64.

    Padding stands on the right, so that real tokens keep their positions and causal attention never sees it.
    """
    width = max((len(row) for row in rows), default=0) if length is None else length
    ids = torch.full((len(rows), width), value, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[index, : len(row)] = 1
    return ids, mask
