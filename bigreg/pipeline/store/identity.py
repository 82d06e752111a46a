"""What a run was begun with is what it goes on with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ...config import Config
from ...errors import InputError, OutputError
from .store import RunStore


def same_run(
    store: RunStore,
    config: Config,
    identities: dict,
    start: dict | None,
    resume: bool,
    landmarks: dict | None = None,
    masks: dict | None = None,
) -> None:
    """Raise OutputError unless the store holds this very run and may be gone on with."""
    try:
        there = store.attributes
    except InputError as error:
        raise OutputError(f"'{store.url}' exists already and is not a bigreg run; choose another output") from error
    if not resume:
        raise OutputError(f"'{store.url}' exists already; choose another output, or resume it")
    before, now = Config.model_validate(there["config"]).result_part(), config.result_part()
    if before != now:
        keys = list(differences(before, now))
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise OutputError(
            f"'{store.url}' is a run with another configuration: {'; '.join(keys[:3])}{more}. Choose another output, "
            f"or `bigreg resume {store.url}` with its own configuration"
        )
    for which, identity in identities.items():
        if there["identities"][which] != identity:
            raise OutputError(
                f"'{store.url}' is a run of another {which} image ({there['identities'][which]['path']}); "
                "choose another output"
            )
    for which, mask in (masks or {}).items():
        if there.get("masks", {}).get(which) != mask:
            raise OutputError(f"'{store.url}' is a run with another {which} mask; choose another output")
    if there.get("start") != start:
        raise OutputError(f"'{store.url}' is a run from another start; choose another output")
    if there.get("landmarks") != landmarks:
        raise OutputError(f"'{store.url}' is a run with other landmarks; choose another output")


def differences(before: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """What differs between two configurations, one key each: "blocks.core is 96 there and 64 now"."""
    for key in [*before, *(k for k in now if k not in before)]:
        one, other = before.get(key), now.get(key)
        if one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differences(one, other, f"{within}{key}.")
        else:
            yield f"{within}{key} is {json.dumps(one)} there and {json.dumps(other)} now"


def same_engines(began: Mapping[str, str], now: Mapping[str, str], url: str) -> None:
    """Raise OutputError where engines are no longer those that a run began with."""
    for place, identity in now.items():
        if began.get(place) != identity:
            raise OutputError(
                f"'{url}' began with another {place} (identity {str(began.get(place))[:12]}, now {identity[:12]}): its "
                "weights were changed; put them back, or choose another output"
            )
