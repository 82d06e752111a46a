"""A cluster that somebody else has started."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client, Worker
from distributed.security import Security

from ..errors import ConfigError, ResourceError
from .settings import Cluster

log = logging.getLogger("bigreg.cluster")

CONNECT_SECONDS = 30


@contextmanager
def address_client(settings: Cluster) -> Iterator[Client]:
    """A client of a running scheduler, found by its address or its scheduler file. It is left running afterwards."""
    where = {"address": settings.scheduler_address}
    said = "cluster.scheduler_address"
    if settings.scheduler_file is not None:
        said = f"cluster.scheduler_file '{settings.scheduler_file}'"
        path = Path(settings.scheduler_file).expanduser()
        if not path.is_file():
            raise ConfigError(f"{said} does not exist; start a scheduler with dask scheduler --scheduler-file {path}")
        where = {"scheduler_file": str(path)}
    try:
        opened = Client(**where, security=security(settings), timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, RuntimeError, ValueError, TypeError) as error:  # a wrong protocol is one of the latter
        raise ResourceError(
            f"no scheduler answers at {said} ({type(error).__name__}); check that it runs, that its port can be "
            "reached from here, and whether it wants TLS (cluster.tls_ca, tls_cert, tls_key)"
        ) from error
    with opened:
        paused = [f for f in opened.run(_pause_at, on_error="ignore").values() if f]
        if paused:
            log.warning(
                "%d workers of the scheduler at %s pause at %.0f %% of their memory, and wait for ever where a "
                "block needs that; start them with DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False",
                len(paused), said, 100 * min(paused),
            )  # fmt: skip
        yield opened


def _pause_at(dask_worker: Worker) -> float | None:
    """The part of its memory at which a worker pauses; None where it does not, or has no limit."""
    manager = dask_worker.memory_manager
    return (manager.memory_pause_fraction or None) if manager.memory_limit else None


def workers_there(settings: Cluster) -> list[dict[str, Any]]:
    """What a running scheduler says of each of its workers: those that are starting are given CONNECT_SECONDS.

    Raises ResourceError where none is there by then.
    """
    with address_client(settings) as client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise ResourceError(
                "the scheduler of cluster kind 'address' has no workers; start some first with dask worker"
            ) from error
        return list(client.scheduler_info(n_workers=-1)["workers"].values())


def security(settings: Cluster) -> Security | None:
    """TLS by the files that are named, for every role. Raises ConfigError where one cannot be read."""
    if settings.tls_cert is None:
        return None
    paths = {}
    for key in ("tls_ca", "tls_cert", "tls_key"):
        paths[key] = Path(getattr(settings, key)).expanduser().resolve()
        if not paths[key].is_file():
            raise ConfigError(f"cluster.{key} = '{getattr(settings, key)}' is not a file; give a PEM file")
    roles = {
        f"tls_{role}_{part}": str(paths[f"tls_{part}"])
        for role in ("client", "scheduler", "worker")
        for part in ("cert", "key")
    }
    return Security(require_encryption=True, tls_ca_file=str(paths["tls_ca"]), **roles)
