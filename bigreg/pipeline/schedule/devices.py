"""What a run is computed on: the same kind of device from its beginning to its end, unless its user says otherwise."""

from __future__ import annotations

from distributed import Client

from ...device import device_name
from ...errors import OutputError, named
from ..store.store import DEVICES, RunStore


class Devices:
    """The kinds of device that may compute a run; the first that does is kept in it.

    change   another kind may go on with it, and is kept too: sums are added in another order there
    """

    def __init__(self, store: RunStore, change: bool) -> None:
        self.store = store
        self.change = change
        self.names: dict[str, str | None] = {}

    def unfit(self, client: Client, workers: list[str], *, gpu: bool) -> dict[str, str]:
        """Of some workers those that may not compute, and why. Raises OutputError where none may."""
        new = [worker for worker in workers if worker not in self.names]
        if not new:
            return {}
        asked = client.run(device_name, gpu, workers=new, on_error="ignore") if gpu else dict.fromkeys(new, "CPU")
        self.names |= asked
        out = {
            worker: "it was given a GPU and PyTorch sees none there" for worker, name in asked.items() if name is None
        }
        before = list(self.store.attributes.get(DEVICES, []))
        now = sorted({name for name in asked.values() if name is not None})
        other = [name for name in now if name not in before]
        if other and before and not self.change:
            if len(other) == len(now):
                flag = named("--allow-device-change", "allow_device_change=True")
                raise OutputError(
                    f"'{self.store.url}' was computed on {' and '.join(before)}, and the workers compute on "
                    f"{' and '.join(other)}, where sums differ in their last digits; use what it began with, or pass "
                    f"{flag}, which the run records"
                )
            out |= {w: f"it computes on {n}, the run on {' and '.join(before)}" for w, n in asked.items() if n in other}
        elif other:
            self.store.update(**{DEVICES: [*before, *other]})
        return out
