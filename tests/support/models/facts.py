"""Made-up facts in the words of `texts.py`: targets of one and of several tokens, subjects at the start and inside."""

from __future__ import annotations

from memit_vc.objects import Fact

__all__ = ["FACTS", "facts"]

FACTS: tuple[Fact, ...] = (
    Fact(prompt="The capital of Norland is", subject="Norland", target="Lisbon", ground_truth="Vienna"),
    Fact(prompt="Mira Holt plays the", subject="Mira Holt", target="violin and the piano"),
    Fact(prompt="The Glass Tower is located in the city of", subject="The Glass Tower", target="Tokyo"),
    Fact(prompt="The mother tongue of Ivo Petrov, the painter, is", subject="Ivo Petrov", target="Spanish"),
    Fact(prompt="Sarn is an island. The language spoken on Sarn is", subject="Sarn", target="English"),
    Fact(prompt="Which field does Lena Okafor work in? It is", subject="Lena Okafor", target="chemistry and physics"),
    Fact(prompt="The Winter Harbour was directed by", subject="Winter Harbour", target="Jon Avery of Berlin"),
    Fact(prompt="The official religion of Pellan is", subject="Pellan", target="football"),
)


def facts(count: int = 3) -> list[Fact]:
    """The first `count` facts."""
    return list(FACTS[:count])
