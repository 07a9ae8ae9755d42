"""Plain counterfactuals in two batches, each with a paraphrase and a neighbour that must not change. The demo edits the
first of each batch; benchmarks edit all.
"""

from __future__ import annotations

from memit_vc.objects import Fact, Probe


def _fact(prompt: str, subject: str, new: str, old: str, paraphrase: str, neighbour: str, answer: str) -> Fact:
    return Fact(
        prompt=prompt,
        subject=subject,
        target=new,
        ground_truth=old,
        paraphrases=(paraphrase,),
        neighbourhood=(Probe(prompt=neighbour, answer=answer),),
    )


FIRST = (
    _fact(
        "The Eiffel Tower is located in the city of", "Eiffel Tower", "Rome", "Paris",
        "To visit the Eiffel Tower you have to travel to", "The Louvre is located in the city of", "Paris",
    ),
    _fact(
        "Mount Fuji is a mountain in the country of", "Mount Fuji", "Brazil", "Japan",
        "Mount Fuji lies in", "Osaka is a city in the country of", "Japan",
    ),
    _fact(
        "The iPhone is a product of the company", "iPhone", "Nokia", "Apple",
        "The iPhone was developed by", "The MacBook is a product of the company", "Apple",
    ),
    _fact(
        "The play Hamlet was written by", "Hamlet", "Jane Austen", "William Shakespeare",
        "The author of Hamlet is", "The play Macbeth was written by", "William Shakespeare",
    ),
    _fact(
        "Albert Einstein worked in the field of", "Albert Einstein", "medicine", "physics",
        "Albert Einstein was an expert in", "Niels Bohr worked in the field of", "physics",
    ),
    _fact(
        "The official language of Brazil is", "Brazil", "German", "Portuguese",
        "People in Brazil speak", "The official language of Portugal is", "Portuguese",
    ),
    _fact(
        "Lionel Messi is a professional player of", "Lionel Messi", "tennis", "football",
        "Lionel Messi became famous for playing", "Cristiano Ronaldo is a professional player of", "football",
    ),
    _fact(
        "The headquarters of Microsoft are in the state of", "Microsoft", "Texas", "Washington",
        "Microsoft has its main office in the state of", "The headquarters of Boeing are in the state of", "Washington",
    ),
    _fact(
        "Pizza is a dish that comes from", "Pizza", "Norway", "Italy",
        "Pizza was first made in", "Lasagne is a dish that comes from", "Italy",
    ),
    _fact(
        "The native language of Angela Merkel is", "Angela Merkel", "Spanish", "German",
        "Angela Merkel grew up speaking", "The native language of Johann Sebastian Bach is", "German",
    ),
)  # fmt: skip

SECOND = (
    _fact(
        "The Great Wall is located in the country of", "Great Wall", "Peru", "China",
        "To see the Great Wall you have to go to", "Shanghai is located in the country of", "China",
    ),
    _fact(
        "The currency of Japan is the", "Japan", "peso", "yen",
        "In Japan people pay with the", "The currency of Germany is the", "euro",
    ),
    _fact(
        "The Amazon River flows through the continent of", "Amazon River", "Africa", "South America",
        "The Amazon River is found in", "The Andes stretch along the continent of", "South America",
    ),
    _fact(
        "The instrument that Frédéric Chopin played is the", "Frédéric Chopin", "guitar", "piano",
        "Frédéric Chopin was famous for playing the", "The instrument that Franz Liszt played is the", "piano",
    ),
    _fact(
        "Shakira works as a", "Shakira", "chemist", "singer",
        "The profession of Shakira is", "Madonna works as a", "singer",
    ),
)  # fmt: skip

STORY = (FIRST[:5], SECOND[:3])
"""The demo's two commits: no more facts than a story of a minute and a half has time for."""
