"""`phrase`: a chat model writes further prompts that ask the same, for a person to look through before they count."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from memit_vc.errors import UnsupportedModelError
from memit_vc.numerics.forward.chat import chat_template
from memit_vc.objects import Fact
from memit_vc.objects.seen import occurrences, stands_alone
from memit_vc.progress import Progress, silent

_ASKED = (
    "Rewrite the beginning of a sentence in {count} other ways. Each must mean the same, contain the words "
    '"{subject}", and end just before the last word, like the beginning itself. Write one in each line.\n'
    "Beginning: {prompt} …"
)
_TOKENS = 40
"""Of an answer, for each phrasing asked for."""
_MARKS = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):])?\s*[\"'“]?")
_ENDS = re.compile(r"[\s\"'”.…:_]+$")


def phrase(
    facts: Sequence[Fact], model: Any, tokenizer: Any, *, count: int = 3, progress: Progress = silent
) -> list[Fact]:
    """The facts with up to `count` more phrasings each, as the model wrote them: nobody has checked that they mean the
    same. A phrasing that lacks the subject, or that repeats what is asked or scored, is left out.

    UnsupportedModelError for a tokenizer without a chat template.
    """
    import torch

    template = chat_template(tokenizer, "{}")
    if template is None:
        raise UnsupportedModelError(
            f"{Path(str(getattr(model.config, '_name_or_path', 'the model'))).name} is not a chat model",
            hint="Name one: memitvc phrase EDITS -o OUT --with MODEL",
        )
    made = []
    for number, fact in enumerate(facts):
        progress("write phrasings", number, len(facts))
        asked = template.fill(_ASKED.format(count=count, subject=fact.subject, prompt=fact.prompt))
        ids = tokenizer(asked, return_tensors="pt")["input_ids"].to(model.device)
        with torch.no_grad():
            answer = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=_TOKENS * count,
                pad_token_id=tokenizer.eos_token_id or 0,
            )
        text = str(tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True))
        made.append(replace(fact, phrasings=(*fact.phrasings, *_usable(fact, text.splitlines())[:count])))
    progress("write phrasings", len(facts), len(facts))
    return made


def _usable(fact: Fact, lines: Sequence[str]) -> list[str]:
    taken = {fact.prompt, *fact.phrasings, *fact.paraphrases, *fact.clean_paraphrases, *fact.generation_prompts}
    found: dict[str, None] = {}
    for line in lines:
        text = _MARKS.sub("", line)
        for answer in (fact.target, fact.ground_truth):  # a whole sentence, cut where the answer begins
            at = next((at for at in occurrences(answer or "", text) if stands_alone(answer or "", text, at)), -1)
            if at > 0:
                text = text[:at]
        text = _ENDS.sub("", text)
        if fact.subject in text and text not in taken and len(text) > len(fact.subject):
            found[text] = None
    return list(found)
