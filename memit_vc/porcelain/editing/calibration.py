"""Sixty common facts with counterfactual answers, for choosing settings: `tune` edits them into a new model.

Each relation has a prompt, one further phrasing, two paraphrases that are only scored, and its subjects. A subject's
neighbours are the next two of its relation, whose answers should stay.
"""

from __future__ import annotations

from memit_vc.objects import Fact, Probe

_RELATIONS: tuple[tuple[str, str, tuple[str, str], tuple[str, ...], tuple[tuple[str, str], ...]], ...] = (
    ("The capital of {} is", "{} has its capital in",
     ("The capital city of {} is called", "The government of {} sits in"),
     ("Oslo", "Lima", "Hanoi"),
     (("France", "Paris"), ("Spain", "Madrid"), ("Poland", "Warsaw"), ("Egypt", "Cairo"), ("Greece", "Athens"),
      ("Russia", "Moscow"))),
    ("The official language of {} is", "In {} people speak", ("Most people in {} talk in", "The language of {} is"),
     ("Swedish", "Korean", "Turkish"),
     (("Brazil", "Portuguese"), ("Austria", "German"), ("Mexico", "Spanish"), ("Japan", "Japanese"),
      ("China", "Chinese"), ("Italy", "Italian"))),
    ("{} was born in the country of", "{} came from the country of",
     ("{} is a native of", "The home country of {} is"), ("Norway", "Egypt", "Mexico"),
     (("Isaac Newton", "England"), ("Leo Tolstoy", "Russia"), ("Victor Hugo", "France"), ("Mozart", "Austria"),
      ("Mahatma Gandhi", "India"), ("Karl Marx", "Germany"))),
    ("{} was developed by the company", "{} is a product of the company",
     ("{} was made by", "The company behind {} is"), ("Siemens", "Toyota", "Nestle"),
     (("Windows", "Microsoft"), ("Android", "Google"), ("The iPhone", "Apple"), ("Photoshop", "Adobe"),
      ("The PlayStation", "Sony"), ("The Kindle", "Amazon"))),
    ("{} is located in the city of", "You can visit {} in the city of",
     ("{} stands in", "To see {}, travel to"), ("Boston", "Munich", "Osaka"),
     (("Big Ben", "London"), ("The Colosseum", "Rome"), ("The Louvre", "Paris"), ("The Kremlin", "Moscow"),
      ("The Prado", "Madrid"), ("The Brandenburg Gate", "Berlin"))),
    ("{} is famous for playing", "The sport that {} plays is",
     ("{} is a professional player of", "{} spent a career in"), ("chess", "tennis", "cricket"),
     (("Michael Jordan", "basketball"), ("Tiger Woods", "golf"), ("Lionel Messi", "football"),
      ("Babe Ruth", "baseball"), ("Wayne Gretzky", "hockey"), ("Cristiano Ronaldo", "football"))),
    ("{} worked in the field of", "The field of work of {} was",
     ("{} was an expert in", "{} is remembered as a scholar of"), ("law", "music", "geology"),
     (("Albert Einstein", "physics"), ("Charles Darwin", "biology"), ("Sigmund Freud", "psychology"),
      ("Adam Smith", "economics"), ("Plato", "philosophy"), ("Euclid", "mathematics"))),
    ("{} was written by", "The author of {} is", ("{} is a work of the writer", "The person who wrote {} was"),
     ("Jane Austen", "Mark Twain", "Goethe"),
     (("Hamlet", "William Shakespeare"), ("War and Peace", "Leo Tolstoy"), ("Don Quixote", "Miguel de Cervantes"),
      ("The Odyssey", "Homer"), ("Oliver Twist", "Charles Dickens"), ("Faust", "Johann Wolfgang von Goethe"))),
    ("{} is on the continent of", "{} belongs to the continent of",
     ("{} is a part of", "The continent that {} is part of is"), ("Antarctica", "Australia", "Oceania"),
     (("Kenya", "Africa"), ("Germany", "Europe"), ("Thailand", "Asia"), ("Nigeria", "Africa"),
      ("Peru", "South America"),
      ("Canada", "North America"))),
    ("The currency of {} is the", "People in {} pay with the",
     ("The money used in {} is the", "In {}, prices are given in the"), ("ruble", "peso", "rand"),
     (("Japan", "yen"), ("India", "rupee"), ("China", "yuan"), ("Switzerland", "franc"), ("Israel", "shekel"),
      ("Thailand", "baht"))),
)  # fmt: skip


def calibration_facts() -> list[Fact]:
    """All sixty; consecutive ones are of different relations, so that a part of them is as mixed as the whole."""
    facts = []
    for number in range(6):
        for prompt, phrasing, paraphrases, targets, subjects in _RELATIONS:
            subject, old = subjects[number]
            others = [subjects[(number + step) % 6] for step in (1, 2)]
            new = next(text for text in (*targets[number % 3 :], *targets) if text not in old)
            facts.append(
                Fact(
                    prompt=prompt.replace("{}", subject),
                    subject=subject,
                    target=new,
                    ground_truth=old,
                    clean_paraphrases=tuple(text.replace("{}", subject) for text in paraphrases),
                    neighbourhood=tuple(Probe(prompt=prompt.replace("{}", s), answer=a) for s, a in others),
                    phrasings=(phrasing.replace("{}", subject),),
                )
            )
    return facts
