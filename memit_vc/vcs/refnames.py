"""What a branch, tag or remote branch may be called."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from memit_vc.errors import UsageError

_KINDS = ("heads", "tags", "remotes")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\]\\@{}]|\.\.|//|\.lock(/|$)")
_UNSEEN = frozenset(("Cc", "Cf", "Zs", "Zl", "Zp"))
"""Categories of Unicode: controls, changes of direction, blanks without width. Two names must not look alike."""
_WORD = re.compile(r"[^\W\d_]+")
_ALPHABETS = frozenset(("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC"))
"""Scripts whose letters look like each other's."""
_TWINS = str.maketrans(
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0455\u0456\u0458\u04bb\u0501\u051b\u051d"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0405\u0406\u0408"
    "\u03b1\u03b9\u03ba\u03bd\u03bf\u03c1\u03c5\u03c7"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
    "a\u0299ekm\u029copctyxsijhdqwABEKMHOPCTYXSIJaikvopuxABEZHIKMNOPTYX",
)
"""Cyrillic and Greek letters, and the Latin ones that they look like."""
_LOOKS_LIKE_ID = re.compile(r"[0-9a-fA-F]{40,64}")


def check_ref_name(name: str) -> None:
    """UsageError unless `name` is heads/…, tags/… or remotes/…, and the rest cannot be taken for a revision."""
    kind, _, rest = name.partition("/")
    if kind not in _KINDS or not rest:
        raise UsageError(f"{name!r} is not a ref: it starts with none of heads/, tags/, remotes/")
    wrong = (
        _FORBIDDEN.search(rest)
        or rest.startswith(("-", ".", "/"))
        or rest.endswith((".", "/"))
        or "/." in rest
        or rest == "HEAD"
        or _LOOKS_LIKE_ID.fullmatch(rest)
        or len(name) > 255
        or any(unicodedata.category(c) in _UNSEEN for c in rest)
    )
    if wrong:
        what = {"heads": "branch", "tags": "tag", "remotes": "remote branch"}[kind]
        raise UsageError(
            f"{rest!r} cannot be the name of a {what}",
            hint="Use letters, digits, '-', '_', '.' and '/': no spaces, no '..', no '~^:?*[@', not a hash, not HEAD.",
        )
    if unicodedata.normalize("NFKC", rest) != rest:
        raise UsageError(
            f"{rest!r} has letters that are written in two ways, so another name could look the same",
            hint=f"Use {unicodedata.normalize('NFKC', rest)!r}.",
        )
    for word in _WORD.findall(rest):
        scripts = sorted({_script(letter) for letter in word} & _ALPHABETS)
        if len(scripts) > 1:
            raise UsageError(
                f"{rest!r} mixes letters of {' and '.join(map(str.title, scripts))} in one word; they look alike",
                hint="Write the word with the letters of one script, or put '-' between them.",
            )


def check_distinct(new: Iterable[str], others: Iterable[str]) -> None:
    """UsageError if a new ref would look like another one that is spelt with other letters."""
    shapes = {other.translate(_TWINS): other for other in others}
    for name in new:
        other = shapes.setdefault(name.translate(_TWINS), name)
        if other != name:
            raise UsageError(
                f"{name!r} looks like {other!r}, and is written with other letters",
                hint="Choose a name that people can tell from it.",
            )


def check_one_meaning(name: str, others: Iterable[str]) -> None:
    """UsageError if this new ref could be taken for another one: "main" would mean a branch and a tag, and a branch
    "heads/main" would be written as the whole name of main is.
    """
    kind, _, rest = name.partition("/")
    if kind != "remotes" and rest.startswith(tuple(f"{each}/" for each in _KINDS)):
        raise UsageError(
            f"{rest!r} begins as the whole name of a ref does",
            hint=f"Choose another name, for example {rest.partition('/')[2]!r}.",
        )
    taken = {f"{other}/{rest}" for other in _KINDS if other != kind}.intersection(others)
    if taken:
        raise UsageError(f"{min(taken)} exists already, and people write both as {rest!r}", hint="Choose another name.")


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]
