"""What a branch, tag or remote branch may be called."""

from __future__ import annotations

import re
import unicodedata

from memit_vc.errors import UsageError

_KINDS = ("heads", "tags", "remotes")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\]\\@{}]|\.\.|//|\.lock(/|$)")
_UNSEEN = frozenset(("Cc", "Cf", "Zs", "Zl", "Zp"))
"""Categories of Unicode: controls, changes of direction, blanks without width. Two names must not look alike."""
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
