"""bigreg: invertible registration of volumes that do not fit in memory."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what _WHERE imports on first use, for type checkers
    from .atlases.source import local_atlas
    from .atlases.workflow import atlas
    from .config import Config, load_config
    from .pipeline.chains import chain
    from .pipeline.doctor import doctor
    from .pipeline.pieces import Pieces, pieces
    from .pipeline.planning.plan import plan
    from .pipeline.planning.rates import Rates
    from .pipeline.results.transform import Transform
    from .pipeline.run import Run, open_run, register
    from .pipeline.store.store import is_run
    from .volumes import Volume, convert, open_volume
    from .volumes.described import VolumeDescription

__version__ = version("bigreg")

_WHERE = {
    "Config": "config",
    "Pieces": "pipeline.pieces",
    "Rates": "pipeline.planning.rates",
    "Run": "pipeline.run",
    "Transform": "pipeline.results.transform",
    "Volume": "volumes",
    "VolumeDescription": "volumes.described",
    "atlas": "atlases.workflow",
    "chain": "pipeline.chains",
    "convert": "volumes",
    "doctor": "pipeline.doctor",
    "is_run": "pipeline.store.store",
    "load_config": "config",
    "local_atlas": "atlases.source",
    "open_run": "pipeline.run",
    "open_volume": "volumes",
    "pieces": "pipeline.pieces",
    "plan": "pipeline.planning.plan",
    "register": "pipeline.run",
}
__all__ = [
    "Config",
    "Pieces",
    "Rates",
    "Run",
    "Transform",
    "Volume",
    "VolumeDescription",
    "__version__",
    "atlas",
    "chain",
    "convert",
    "doctor",
    "is_run",
    "load_config",
    "local_atlas",
    "open_run",
    "open_volume",
    "pieces",
    "plan",
    "register",
]


def __getattr__(name: str) -> Any:
    """Import on first use: `bigreg --help` should not wait for torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'bigreg' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
