"""Models that transformers loads, and its errors in our words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from memit_vc.errors import MemitVCError, UnsupportedModelError
from memit_vc.numerics.model.memory import is_out_of_memory


def load_pretrained(source: str | os.PathLike[str], **options: Any) -> tuple[Any, Any]:
    """(model, tokenizer) of a directory or a Hub id, from safetensors only, without remote code.

    `options` go to AutoModelForCausalLM. UnsupportedModelError if transformers cannot load it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with loading_errors(
        f"{str(source)!r} cannot be loaded", hint="Name a model with safetensors files: a directory, or its Hub id."
    ):
        model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=False, use_safetensors=True, **options)
        return model, AutoTokenizer.from_pretrained(source, trust_remote_code=False)


@contextmanager
def loading_errors(what: str, *, hint: str) -> Iterator[None]:
    """UnsupportedModelError for an error in the block: of a file that it cannot read, a parser inside of transformers
    may raise anything. A lack of memory and our own errors go through.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemitVCError) or is_out_of_memory(error):
            raise
        first = str(error).strip().split("\n", 1)[0]
        raise UnsupportedModelError(f"{what}: {first}", hint=hint) from error
