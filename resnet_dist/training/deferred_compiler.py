"""torch's compiler is not imported where nobody compiles: it takes as long to import as all the rest of torch.

torch's optimizers import it (`torch._dynamo`) only to tell it where a graph that is being compiled breaks, and to keep
some of their functions from being compiled.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


class _Deferred(ModuleType):
    """Stands for the compiler until more is wanted of it than these two functions; then it is imported."""

    @staticmethod
    def graph_break(*_: object) -> None:
        """What it is where nothing is being compiled."""

    @staticmethod
    def disable(function: Callable[..., Any], *_: object, **__: object) -> Callable[..., Any]:
        """What it does where nothing is being compiled."""
        return function

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(NAME) is self:
            if name.startswith("__"):  # the import system and `inspect` ask for what a module need not have
                raise AttributeError(name)
            del sys.modules[NAME]
            compiler = importlib.import_module(NAME)
            for part, module in vars(self).items():
                if isinstance(module, ModuleType):  # imported before it, by its own name
                    setattr(compiler, part, module)
        return getattr(sys.modules[NAME], name)


def defer_compiler() -> None:
    """Put the import of torch's compiler off until somebody compiles, in this process."""
    if NAME not in sys.modules and (spec := importlib.util.find_spec(NAME)):
        deferred = _Deferred(NAME)
        deferred.__path__ = list(spec.submodule_search_locations or ())
        sys.modules[NAME] = deferred
