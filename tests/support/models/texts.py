"""Plain English that the tiny tokenizers are trained on, and that second moments are measured over."""

from __future__ import annotations

__all__ = ["SENTENCES"]

SENTENCES: tuple[str, ...] = (
    "The capital of the small country lies on the river, and its market opens at six every morning.",
    "She plays the violin and the piano, and she has taught both instruments for twenty years.",
    "The tower in the old city was built by an engineer who was born in the north of France.",
    "He studied medicine at the university of Edinburgh before he became a writer in London.",
    "The language spoken on the island is close to Spanish, though few people can read it today.",
    "A report in the newspaper said that the company will open a new factory in Germany next year.",
    "Rain fell on the mountains for three days, and the bridge over the water had to be closed.",
    "The official religion of the kingdom was changed twice in the seventeenth century.",
    "My father is a professional football player; his position on the team is goalkeeper.",
    "What does the author of the book want to say about the war between the two cities?",
    "The film was directed by a young woman from Poland and produced by a studio in Rome.",
    "Because the museum is located in the centre of town, most visitors come by train or on foot.",
    "You can find the headquarters of the bank in Berlin, Paris, Madrid, Lisbon, Vienna and Tokyo.",
    "Therefore the mother tongue of the painter is Italian, but she writes her letters in English.",
    "I think that the recipe needs more butter, a little salt and a handful of green leaves.",
    "The band released its first record in 1987, and the second followed only in 2003.",
    "Scientists work in the field of physics, chemistry and biology; some of them know astronomy.",
    "The ship left the harbour of Lima at noon with sugar, coffee, wool and copper on board.",
    "The king of the northern people was known as the iron hand, and his twin brother as the fox.",
    "It is written in the contract that the house belongs to the family until the year 2040.",
    "Nobody knows which of the four doors leads to the garden behind the glass walls of the palace.",
    "The university received money from the state to build a library for students of law and history.",
)
