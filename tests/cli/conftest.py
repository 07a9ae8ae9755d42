from tests.support.remotes import world

__all__ = ["world"]
