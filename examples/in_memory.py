"""States of a repository on a model in memory: nothing is written to disk.

    python examples/in_memory.py REPOSITORY [PROMPT]       # a directory in which `memitvc commit` was run

`from_pretrained` loads the model of a revision. `apply_state` puts a revision on a loaded model and takes it off again:
the parameters then have the very tensors that they had before.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import AutoTokenizer

import memit_vc

PROMPT = "The Eiffel Tower is located in the city of"


def answer(model: Any, tokenizer: Any, prompt: str) -> str:
    """The three most likely tokens after the prompt, one after the other."""
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        made = model.generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return str(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def main(repository: str, prompt: str = PROMPT) -> None:
    edited = memit_vc.from_pretrained(repository, "HEAD")
    tokenizer = AutoTokenizer.from_pretrained(edited.name_or_path)
    print(f"HEAD:                {prompt} {answer(edited, tokenizer, prompt)}")

    model = memit_vc.from_pretrained(repository, "HEAD~1")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    print(f"HEAD~1:              {prompt} {answer(model, tokenizer, prompt)}")
    with memit_vc.apply_state(model, repository, "HEAD") as applied:
        print(f"HEAD~1, HEAD on it:  {prompt} {answer(model, tokenizer, prompt)}")
        print(f"{len(applied.parameters)} weights differ; state {applied.state[:10]}")

    same = all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    print(f"HEAD~1 again, bit for bit: {same}")


if __name__ == "__main__":
    main(*sys.argv[1:])
