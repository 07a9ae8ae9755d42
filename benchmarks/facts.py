"""Facts to measure with: an edit file of the user's, else the demo's and more of their kind, all counterfactual."""

from __future__ import annotations

from pathlib import Path

from memit_vc.cli.demo_facts import FIRST, SECOND
from memit_vc.edits import read_edits
from memit_vc.objects import Fact

__all__ = ["some_facts"]

_RELATIONS: tuple[tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]], ...] = (
    (
        "The capital of {} is",
        ("Oslo", "Lima", "Cairo", "Dublin", "Hanoi"),
        (
            ("France", "Paris"), ("Spain", "Madrid"), ("Poland", "Warsaw"), ("Austria", "Vienna"), ("Greece", "Athens"),
            ("Portugal", "Lisbon"), ("Finland", "Helsinki"), ("Hungary", "Budapest"), ("Cuba", "Havana"),
            ("Kenya", "Nairobi"), ("Turkey", "Ankara"), ("Iran", "Tehran"), ("Russia", "Moscow"),
            ("Sweden", "Stockholm"), ("Denmark", "Copenhagen"), ("Belgium", "Brussels"),
            ("Iceland", "Reykjavik"), ("Serbia", "Belgrade"),
            ("Thailand", "Bangkok"), ("Nepal", "Kathmandu"), ("Ghana", "Accra"), ("Senegal", "Dakar"),
            ("Chile", "Santiago"), ("Canada", "Ottawa"), ("Australia", "Canberra"),
        ),
    ),
    (
        "{} was born in the country of",
        ("Mexico", "Norway", "Egypt", "Vietnam", "Ireland"),
        (
            ("Isaac Newton", "England"), ("Charles Darwin", "England"), ("Victor Hugo", "France"),
            ("Marie Curie", "Poland"), ("Pablo Picasso", "Spain"), ("Mozart", "Austria"), ("Dante Alighieri", "Italy"),
            ("Galileo Galilei", "Italy"), ("Immanuel Kant", "Germany"), ("Karl Marx", "Germany"),
            ("Leo Tolstoy", "Russia"), ("Anton Chekhov", "Russia"), ("Mahatma Gandhi", "India"), ("Confucius", "China"),
            ("Pelé", "Brazil"), ("Diego Maradona", "Argentina"), ("Nikola Tesla", "Serbia"), ("Franz Kafka", "Austria"),
            ("Rembrandt", "Netherlands"), ("Erasmus", "Netherlands"), ("Hans Christian Andersen", "Denmark"),
            ("Jean Sibelius", "Finland"), ("Alfred Nobel", "Sweden"), ("Haruki Murakami", "Japan"),
            ("Nelson Mandela", "South Africa"),
        ),
    ),
    (
        "{} was developed by the company",
        ("Siemens", "Toyota", "Philips", "Nestlé", "Samsung"),
        (
            ("Windows", "Microsoft"), ("Excel", "Microsoft"), ("Xbox", "Microsoft"), ("Android", "Google"),
            ("Gmail", "Google"), ("Chrome", "Google"), ("YouTube", "Google"), ("Photoshop", "Adobe"),
            ("Acrobat", "Adobe"), ("The iPad", "Apple"), ("Safari", "Apple"), ("iTunes", "Apple"), ("Java", "Sun"),
            ("Pentium", "Intel"), ("PlayStation", "Sony"), ("The Walkman", "Sony"), ("Super Mario", "Nintendo"),
            ("The Game Boy", "Nintendo"), ("Alexa", "Amazon"), ("The Kindle", "Amazon"), ("Instagram", "Facebook"),
            ("Messenger", "Facebook"), ("The Corolla", "Toyota"), ("The Mustang", "Ford"), ("Sonic", "Sega"),
        ),
    ),
    (
        "{} is located in the city of",
        ("Boston", "Munich", "Toronto", "Seville", "Osaka"),
        (
            ("The Louvre", "Paris"), ("Notre-Dame", "Paris"), ("Big Ben", "London"), ("Tower Bridge", "London"),
            ("Buckingham Palace", "London"), ("The Colosseum", "Rome"), ("The Pantheon", "Rome"),
            ("The Kremlin", "Moscow"), ("The Prado", "Madrid"),
            ("The Sagrada Familia", "Barcelona"), ("The Acropolis", "Athens"),
            ("The Brandenburg Gate", "Berlin"), ("The Reichstag", "Berlin"), ("The Hermitage", "St Petersburg"),
            ("Central Park", "New York"), ("Times Square", "New York"), ("The White House", "Washington"),
            ("The Hagia Sophia", "Istanbul"), ("The Forbidden City", "Beijing"), ("The Space Needle", "Seattle"),
            ("Alcatraz", "San Francisco"), ("The Rijksmuseum", "Amsterdam"), ("The Charles Bridge", "Prague"),
            ("The Little Mermaid", "Copenhagen"), ("The Atomium", "Brussels"),
        ),
    ),
)  # fmt: skip


def some_facts(count: int, edits: Path | None = None) -> list[Fact]:
    """`count` facts on different questions; ValueError where there are not so many."""
    facts = list(read_edits(str(edits)).facts) if edits is not None else [*FIRST, *SECOND, *_made()]
    if len(facts) < count:
        raise ValueError(f"there are {len(facts)} facts, not {count}: give a larger file with --edits")
    return facts[:count]


def _made() -> list[Fact]:
    return [
        Fact(prompt=prompt.format(subject), subject=subject, target=new, ground_truth=old)
        for number in range(25)
        for prompt, targets, known in _RELATIONS
        for subject, old in [known[number]]
        for new in [targets[number % len(targets)] if targets[number % len(targets)] != old else targets[0]]
    ]
