"""`bigreg.doctor`: the short look of `choosing`, and what a registration of its preset would cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..config import load_config
from .choosing.diagnosis import ROUNDS, Diagnosis
from .choosing.look import look
from .context.beginning import beginning
from .context.inputs import chosen_channels, with_labels
from .planning.plan import make_plan
from .planning.rates import known_rates
from .store.inputs import as_pair, require_one_plane


def doctor(fixed: Any, moving: Any, *, overrides: Sequence[str] = (), cluster: Any = None) -> Diagnosis:
    """Inspect two images for some seconds, and suggest how to register them; of several channels, all.

    fixed, moving   images as `register` takes them
    overrides       KEY=VALUE that the registration will get too; they take precedence over the suggestion
    cluster         where the run would work, as `load_config` takes it, for the cost

    Raises what `register` raises before its work: InputError, ConfigError.
    """
    begun = time.perf_counter()
    base = load_config(ROUNDS, cluster=cluster, overrides=list(overrides))
    base, volumes = chosen_channels(base, as_pair(fixed, moving, base.channels))
    require_one_plane(*volumes.values())
    planned: dict[str, Any] = {**volumes, **with_labels(base, volumes)[1]}
    seen = look(volumes, list(overrides), cluster)
    found = seen.diagnosis
    config = load_config(found.preset or ROUNDS, cluster=cluster, overrides=[*found.settings, *overrides])
    config, given = beginning(config, volumes)
    plan = make_plan(seen.frames, planned, config, *known_rates(config), given)
    cost = {
        "seconds": plan.seconds, "workers": plan.workers, "disk_bytes": int(plan.disk * plan.rates.stored),
        "memory_per_worker_bytes": plan.memory_per_worker,
    }  # fmt: skip
    return replace(found, cost=cost, seconds=time.perf_counter() - begun)
