"""Other questions about a subject: what an edit should leave as it was. "{}" stands for the subject.

Two disjoint sets, so that a score never asks what a search was trained on. They fit people, places, works and firms
alike: a question that makes no sense for a subject still has an answer of the model's, and that should stay.
"""

from __future__ import annotations

SEARCHED = (
    "{} was created by",
    "{} died in",
    "The age of {} is",
    "{} is often compared to",
    "The full name of {} is",
    "{} has won",
    "The colour of {} is",
    "A friend of {} is",
)
"""The search for z may watch these (`keep_factor`)."""

SCORED = (
    "{} is best known for",
    "{} was born in",
    "The father of {} was",
    "{} was first seen in",
    "The price of {} is",
    "{} is similar to",
    "People who love {} also love",
    "The name {} comes from",
)
"""The scores `same_subject` and `hijacked` ask these."""
