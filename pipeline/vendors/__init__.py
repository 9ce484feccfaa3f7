"""One file for each vendor: adding a file here adds the vendor."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from pipeline.vendors.base import Adapter


def vendor_names() -> list[str]:
    """The names of all vendor files; `_<vendor>_...` is part of that vendor, too long for one file."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base" and not module.name.startswith("_"))


def adapter_class(vendor: str) -> type[Adapter]:
    """The adapter of a vendor by the name of its file. Raises ConfigurationError naming the known ones."""
    if vendor not in vendor_names():
        raise ConfigurationError(f"unknown vendor {vendor!r}; known are {', '.join(vendor_names())}")
    adapter: type[Adapter] = importlib.import_module(f"pipeline.vendors.{vendor}").Adapter
    return adapter


def has_verb(vendor: str, verb: str) -> bool:
    """Whether the file of a known vendor has a verb of its own: `tell`, `hear`, `poll` or any other of `Adapter`."""
    from pipeline.vendors.base import Adapter

    own, inherited = getattr(adapter_class(vendor), verb), getattr(Adapter, verb)
    return getattr(own, "__func__", own) is not getattr(inherited, "__func__", inherited)
