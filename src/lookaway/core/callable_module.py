"""Lets `la.anatomy(model)` and `la.policies()` be calls although both names are packages too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["make_callable"]


def make_callable(module_name: str, function: Callable[..., Any]) -> None:
    """Make calling the module `module_name` call `function`.

    A package sets itself as an attribute of its parent when it is imported, so a plain function of the same name would
    be overwritten by whoever imports the package first.
    """

    class CallableModule(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

    CallableModule.__doc__ = function.__doc__
    sys.modules[module_name].__class__ = CallableModule
