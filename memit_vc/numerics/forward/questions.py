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
    "The history of {} began in",
    "{} is located near",
    "The size of {} is",
    "{} was founded by",
    "{} was married to",
    "Critics of {} say that",
    "The best part of {} is",
    "{} is made of",
    "In the year 2000, {}",
    "{} belongs to",
    "The owner of {} is",
    "{} ended in",
    "I first heard of {} from",
    "{} and",
    "The opposite of {} is",
)
"""The search may watch these (`keep_factor`): the more kinds, the more it keeps of what it does not watch."""

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

REPEATED = ("{subject}.", "Question: {prompt}\nAnswer:", "{fact}.")
"""Behind these, the search watches how the subject's name ends (`name_factor`)."""

NAMED = (
    "The name is {}. I repeat: the name is",
    "Search results for {}\n1. All about",
)
"""Behind these, the score `name_acc` expects the subject's name."""

ROWS_VERSION = 2
"""Changes with the texts that a search makes of a fact (`rows.py`), so that neither a cache nor `reproduce` takes one
version's search for another's. 1: one of six phrasings had no text in front. 2: every other one has none.
"""
