"""bigreg: invertible registration of volumes that do not fit in memory."""

from importlib.metadata import version
from typing import Any

__version__ = version("bigreg")

_WHERE = {
    "Config": "config",
    "Rates": "pipeline.rates",
    "Run": "pipeline.run",
    "Volume": "volumes",
    "VolumeDescription": "volumes.described",
    "Transform": "pipeline.transform",
    "atlas": "atlases.workflow",
    "chain": "pipeline.chains",
    "convert": "volumes",
    "doctor": "pipeline.doctor",
    "is_run": "pipeline.store",
    "load_config": "config",
    "local_atlas": "atlases.source",
    "open_run": "pipeline.run",
    "open_volume": "volumes",
    "plan": "pipeline.plan",
    "register": "pipeline.run",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    """Import on first use: `bigreg --help` should not wait for torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'bigreg' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_WHERE[name]}", __name__), name)
