"""Import of timm: in a command only the family of the backbone that a model file names, else all of it.

All of timm is a hundred families of models. With them, and with torchvision, which timm needs to trace models and to
read pictures, comes torch.compile's machinery; together they take longer to import than PyTorch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

__all__ = ["import_families_only", "timm_with"]

_lock = RLock()
_families_only = False


def import_families_only() -> None:
    """Let this process import timm by families; for a command, whose process nobody else imports into.

    The rest of timm is imported when it is used, and so is torchvision.
    """
    global _families_only
    _families_only = True


def timm_with(name: str) -> ModuleType:
    """Return timm, with the model of this name registered if timm has it."""
    with _lock:
        loaded = sys.modules.get("timm")
        if _families_only and (loaded is None or isinstance(loaded, _Deferred)):
            _import_family(name.partition(".")[0], first=loaded is None)
        return importlib.import_module("timm")


class _Deferred(ModuleType):
    """A package whose ``__init__.py`` runs once a name is used that it does not have."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name)
        _complete(self)
        return getattr(self, name)


def _complete(module: ModuleType) -> None:
    with _lock:
        if isinstance(module, _Deferred):
            module.__class__ = ModuleType  # type: ignore[assignment]
            assert module.__spec__ is not None
            assert module.__spec__.loader is not None
            module.__spec__.loader.exec_module(module)


def _import_family(name: str, *, first: bool) -> None:
    """Import the module of timm that defines a model, if one does; ``first``: nothing of timm is imported yet."""
    try:
        with _without_torchvision():
            if first:
                _defer_timm()
            for family in _families_of(name):
                importlib.import_module(f"timm.models.{family}")
    except Exception:  # a version of timm whose parts cannot be imported alone
        if not first:
            _complete(sys.modules["timm"])
        else:
            for part in [module for module in sys.modules if module.partition(".")[0] == "timm"]:
                del sys.modules[part]


def _families_of(name: str) -> list[str]:
    """Return the modules of ``timm.models`` that define a function of this name; all of timm if there is none."""
    (folder,) = sys.modules["timm.models"].__path__
    line = f"\ndef {name}(".encode()
    families = [path.stem for path in sorted(Path(folder).glob("[!_]*.py")) if line in path.read_bytes()]
    if not families:
        raise LookupError(name)
    return families


def _defer(name: str) -> ModuleType:
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(name)
    module = module_from_spec(spec)
    module.__class__ = _Deferred
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module


def _defer_timm() -> None:
    """Defer the packages of timm, all but what its families and :mod:`ccnet3d.models.backbone` use of them."""
    timm, _, data = _defer("timm"), _defer("timm.models"), _defer("timm.data")
    constants = vars(importlib.import_module("timm.data.constants"))
    vars(data).update({name: value for name, value in constants.items() if name.isupper()})
    vars(timm)["__version__"] = importlib.import_module("timm.version").__version__
    vars(timm)["create_model"] = importlib.import_module("timm.models._factory").create_model
    vars(timm)["is_model"] = importlib.import_module("timm.models._registry").is_model


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Let timm import one class of torchvision and two functions on call; nor does it find the client of the hub."""
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torchvision"}
    hub = "huggingface_hub" in sys.modules
    try:
        if not before:
            _defer("torchvision")
            _defer("torchvision.ops")
            tracing = ModuleType("torchvision.models.feature_extraction")
            for function in ("create_feature_extractor", "get_graph_node_names"):
                setattr(tracing, function, _on_call(tracing.__name__, function))
            sys.modules[tracing.__name__] = tracing
        if not hub:
            # Its import fails.
            sys.modules["huggingface_hub"] = None  # type: ignore[assignment]
        yield
    finally:
        if not hub:
            del sys.modules["huggingface_hub"]
        if not before:
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]


def _on_call(module: str, name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args, **kwargs)

    return call
