"""Subjects on which the model parks its attention: the context in which such a fact can be edited.

Many heads look at a token near the beginning of the text if they have nothing to look for: an attention sink (Xiao et
al. 2024, arXiv:2309.17453), with a hidden state many times as large as others (Sun et al. 2024, arXiv:2402.17762). A
tokenizer without BOS lets a prompt begin with its subject, so the sink may be the subject's last token. Its key is then
that of every text's sink: the statistics hold it fast, and an edit that moved it would move every text. Behind other
text the same subject is a token like others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memit_vc.numerics.forward.replay import evaluating, record
from memit_vc.numerics.forward.rows import prompt_rows
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.forward.trees import grouped, laid_out
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.memory import halving
from memit_vc.objects import Fact

PLAIN = Template("")
_TIMES = 2.0
"""A sink's hidden state is at least so many times as long as behind other text: 2.7 to 3.9 times in SmolLM2-135M, where
no other of 296 subjects is longer than 1.2 times.
"""


def anchors(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    templates: Sequence[Template],
    layer: int,
    *,
    max_tokens: int = 4096,
) -> list[Template]:
    """The template in which each fact's z, h and first key are read: the plain prompt, or, where the subject's last
    token is a sink at block `layer`, the first of `templates` with text in front.
    """
    behind = next((template for template in templates if template.prefix.strip()), None)
    if behind is None or not facts:
        return [PLAIN] * len(facts)
    rows = [*prompt_rows(adapter.tokenizer, facts, PLAIN), *prompt_rows(adapter.tokenizer, facts, behind)]

    def read(most: int) -> torch.Tensor:
        norms = torch.zeros(len(rows))
        for group in grouped(adapter, [row.ids for row in rows], max_tokens=most):
            laid = laid_out(adapter, [rows[i].ids for i in group])
            inputs = {**laid.inputs, "use_cache": False}
            hidden = record(adapter, inputs, keep={layer}, calls=range(0)).outputs[layer]
            lines, columns = (at.to(hidden.device) for at in laid.at([rows[i].pivot for i in group]))
            norms[group] = hidden[lines, columns].float().norm(dim=-1).cpu()
        return norms

    with evaluating(adapter.model), torch.no_grad():
        plain, other = halving(max_tokens, read).chunk(2)
    return [behind if sink else PLAIN for sink in (plain > _TIMES * other).tolist()]


def contexts(templates: Sequence[Sequence[Template]], anchor: Template) -> list[list[Template]]:
    """The groups of templates of a fact: all; with another anchor than the plain prompt, those with text in front."""
    if anchor == PLAIN:
        return [list(group) for group in templates]
    kept = ([template for template in group if template.prefix.strip()] for group in templates)
    return [group for group in kept if group]
