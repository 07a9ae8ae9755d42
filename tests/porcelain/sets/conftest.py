from tests.support.algebra.fixtures import repository, world

__all__ = ["repository", "world"]
