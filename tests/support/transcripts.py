"""Transcripts in the documents against what is printed: a line that is only `…` stands for lines that were cut."""

from __future__ import annotations

import re

__all__ = ["CUTS", "absent", "normal"]

CUTS = ("…", "...")


def normal(line: str) -> str:
    """What two runs have in common: no ids, numbers, directories or widths of columns."""
    line = re.sub(r"(?<!\w)(?:\.{0,2}|~)?/[\w./-]+", "PATH", line)
    line = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,64}\b|\b[a-f]{10}\b", "ID", line)
    line = re.sub(r"[-+]?\d[\d,.]*", "N", line)
    return re.sub(r"[\s─━]+", " ", line).strip()


def absent(transcript: str, printed: str) -> list[str]:
    """The first uncut part of a transcript that was not printed so, one line after the other, after the parts before
    it; [] where all of it was. Blank lines count for nothing.
    """
    said = [line for line in map(normal, printed.splitlines()) if line]
    at = 0
    for part in _parts(transcript):
        wanted = [normal(line) for line in part]
        found = next((i for i in range(at, len(said)) if said[i : i + len(wanted)] == wanted), None)
        if found is None:
            return part
        at = found + len(wanted)
    return []


def _parts(transcript: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for line in transcript.splitlines():
        if line.strip() in CUTS:
            parts.append([])
        elif line.strip(" ─━"):
            parts[-1].append(line)
    return [part for part in parts if part]
