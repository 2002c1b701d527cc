"""Floor 1: the only place that knows names inside models. `la.anatomy(model)` calls `anatomy_of`."""

from ..core.callable_module import make_callable
from .base import Anatomy
from .find import anatomy_of

__all__ = ["Anatomy", "anatomy_of"]

make_callable(__name__, anatomy_of)
