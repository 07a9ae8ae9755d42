"""Which patch supplies which column of a state, when several hold it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from memit_vc.errors import IntegrityError
from memit_vc.objects import ColumnId, PatchId, short


def select_columns(
    columns: Collection[ColumnId],
    layout: Mapping[PatchId, tuple[ColumnId, ...]],
    dense: Collection[PatchId],
    preferred: Collection[PatchId] = (),
) -> dict[PatchId, tuple[int, ...]]:
    """Cover `columns`, each exactly once: patch → sorted positions, () for a dense patch.

    Patches that are wholly used come first, the largest before the others, so that few files are opened; `preferred`
    patches go before all others. The choice depends on the arguments' contents only. IntegrityError if no patch
    holds a column.
    """
    left = set(columns)
    chosen: dict[PatchId, tuple[int, ...]] = {}

    def take(patch: PatchId) -> None:
        positions = tuple(n for n, column in enumerate(layout[patch]) if column in left)
        chosen[patch] = () if patch in dense else positions
        left.difference_update(layout[patch])

    favoured = [p for p in layout if p in preferred]
    others = [p for p in layout if p not in preferred]
    for group in (favoured, others):
        group.sort(key=lambda patch: (-len(layout[patch]), patch))
        for patch in group:
            if layout[patch] and left.issuperset(layout[patch]):
                take(patch)
        for patch in group:
            if not left.isdisjoint(layout[patch]):
                take(patch)
    if left:
        raise IntegrityError(
            f"no patch in this repository holds column {short(min(left))}"
            + (f" and {len(left) - 1} more" if len(left) > 1 else ""),
            hint="Run `memitvc fsck`; `memitvc pull` can fetch what is missing.",
        )
    return dict(sorted(chosen.items()))
