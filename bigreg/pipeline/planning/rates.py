"""How fast a machine is at what a run does: built in, measured by a calibration, or given by the user."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil

from ... import __version__
from ...config import Config
from ...errors import ConfigError, OutputError


@dataclass(frozen=True)
class Rates:
    """How long one worker (one thread, or one GPU) takes, and what all workers share.

    Of one worker, in seconds per million:
        step        voxels of a patch, for each look of the engine (one more than its steps)
        patch       voxels of a patch: both images brought to mid-space, the result stored
        stitch      control points, once for each patch that holds them
        compose     samples of a block of the half-way maps and what it reads around them
        field       samples of a field of one direction
        check       samples of the round trip
        warp        voxels of the warped image, with its figures
        likeness    voxels on which the images are compared before, after the affine and after all
        downsample  voxels that block means are taken of
        stripes, histograms  voxels that the corrections of an image's intensities are estimated from
        affine      voxels of both small images
    Of one worker, in MB per second before compression, chunks that are in memory already:
        decode_mb_s, encode_mb_s   arrays of the run;  source_mb_s: the given images
    Of one worker that has the storage to itself, in MB per second of stored bytes: read_mb_s, write_mb_s
    Other seconds: report (the page), start (until the workers are there), stage (of the client, a stage),
        schedule (of scheduler and client, a block)
    Numbers: looks (after which a patch stands still, where as many are allowed), stored (stored bytes over bytes before
        compression), streams (transfers that the storage serves at full speed at once)
    machine, device, cores, bigreg, engine   what was measured; `measured` unix seconds, 0 where nothing was
    """

    step: float = 0.1
    patch: float = 0.35
    stitch: float = 0.5
    compose: float = 0.28
    field: float = 0.31
    check: float = 0.1
    warp: float = 0.21
    likeness: float = 1.2
    downsample: float = 0.02
    stripes: float = 0.25
    histograms: float = 0.025
    affine: float = 4.0
    decode_mb_s: float = 700.0
    encode_mb_s: float = 150.0
    source_mb_s: float = 700.0
    read_mb_s: float = 500.0
    write_mb_s: float = 300.0
    report: float = 3.5
    start: float = 4.0
    stage: float = 0.05
    schedule: float = 0.006
    looks: float = 25.0
    stored: float = 0.51
    streams: float = 1.0
    machine: str = "2 cores of a shared x86-64 server at 2.5 GHz"
    device: str = "CPU"
    cores: int = 2
    bigreg: str = ""
    engine: str = "optimise with lncc"
    measured: float = dataclasses.field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        for name in numbers():
            value = getattr(self, name)
            least = name in POSITIVE
            if not math.isfinite(value) or value < 0 or (least and value == 0):
                raise ConfigError(
                    f"rate {name} = {value} must be a finite number {'above' if least else 'of at least'} 0"
                )

    def of(self, what: str, looks: int = 1) -> float:
        """Seconds per million of a kind of work, if the engine may take this many looks."""
        return self.step * min(looks, self.looks) if what == "step" else getattr(self, what)

    # Seconds a byte before compression.
    @property
    def decode_seconds(self) -> float:
        return 1e-6 / self.decode_mb_s

    @property
    def source_decode_seconds(self) -> float:
        return 1e-6 / self.source_mb_s

    @property
    def encode_seconds(self) -> float:
        return 1e-6 / self.encode_mb_s

    @property
    def read_seconds(self) -> float:
        return 1e-6 * self.stored / self.read_mb_s

    @property
    def write_seconds(self) -> float:
        return 1e-6 * self.stored / self.write_mb_s

    @property
    def origin(self) -> str:
        """Where the figures come from, for people."""
        if not self.measured:
            return f"built-in ({self.machine})"
        return f"measured {age(time.time() - self.measured)} on {self.machine} ({self.device}, {self.engine})"

    def changed(self, items: Iterable[str]) -> Rates:
        """A copy with some rates replaced: each item is FILE or KEY=VALUE. Raises ConfigError."""
        rates = self
        for item in items:
            key, sep, value = item.partition("=")
            if not sep:
                rates = Rates.load(item)
                continue
            if key not in numbers():
                raise ConfigError(f"rate {item!r}: unknown rate {key!r}; known are {', '.join(numbers())}")
            try:
                rates = dataclasses.replace(rates, **cast(dict[str, Any], {key: float(value)}))
            except ValueError as error:
                raise ConfigError(f"rate {item!r} is not a number; write for instance step=0.002") from error
        return rates

    def save(self, path: str | Path) -> None:
        """Write as JSON. Raises OutputError where that cannot be."""
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            part = Path(f"{path}.{os.getpid()}")
            part.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
            part.replace(path)
        except OSError as error:
            raise OutputError(f"rates cannot be kept in '{path}': {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> Rates:
        """Read what `save` wrote, or a part of it; what is left out has the built-in rates. Raises ConfigError."""
        try:
            data = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"rates '{path}' cannot be read: {error}; give a JSON file or KEY=VALUE") from error
        known = {f.name: f.type for f in dataclasses.fields(cls)}
        if not isinstance(data, dict) or not set(data) <= set(known):
            wrong = ", ".join(sorted(set(data) - set(known))) if isinstance(data, dict) else type(data).__name__
            raise ConfigError(f"rates '{path}' hold {wrong}, which is not a rate; known are {', '.join(known)}")
        for key, value in data.items():
            right = isinstance(value, str) if known[key] == "str" else type(value) in (int, float)
            if not right:
                raise ConfigError(f"rates '{path}': {key} = {value!r} must be a {known[key]}")
        return cls(**{"machine": str(path), "engine": "", **data})


POSITIVE = ("decode_mb_s", "encode_mb_s", "source_mb_s", "read_mb_s", "write_mb_s", "stored", "streams")


def numbers() -> list[str]:
    """Names of the rates that are numbers to plan with."""
    return [f.name for f in dataclasses.fields(Rates) if f.type == "float" and f.name != "measured"]


def age(seconds: float) -> str:
    """A time that has passed, roughly."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'s' * (count != 1)} ago"
    return "just now"


# ---------------------------------------------------------------------------------------------------- the cache


def engine_name(config: Config) -> str:
    """What of an engine decides its speed."""
    names = []
    for name in config.engine:
        options = config.engine_options.get(name, {})
        names.append(f"{name} with {options['similarity']}" if "similarity" in options else name)
    return ", then ".join(names)


def this_machine(config: Config) -> dict[str, str | int]:
    """What a calibration holds for: another machine, device or version needs its own."""
    device = "CPU"
    if config.cluster.gpu_here:
        import torch

        device = torch.cuda.get_device_name()
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1
    return {"machine": f"{platform.node()}, {_processor()}", "device": device, "cores": cores, "bigreg": __version__}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cache_folder() -> Path:
    """bigreg's folder in the user's cache."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bigreg"


def cache_file(config: Config) -> Path:
    """Where the calibration of this machine with a configuration's engine is kept."""
    parts = [platform.node(), config.engine, config.engine_options, *(["GPU"] if config.cluster.gpu_here else [])]
    key = json.dumps(parts, sort_keys=True, default=str)
    return cache_folder() / f"rates-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"


def known_rates(config: Config) -> tuple[Rates, str]:
    """The calibration of this machine, if there is one that holds, else the built-in rates; and a remark.

    A calibration of another version of bigreg or from before the machine changed is not used, and the remark says so.
    """
    path = cache_file(config)
    if not path.exists():
        return Rates(), "`bigreg plan ... --calibrate` measures this machine"
    try:
        rates = Rates.load(path)
    except ConfigError as error:
        return Rates(), f"the calibration is not used ({error}); `bigreg plan ... --calibrate` measures again"
    for name, now in this_machine(config).items():
        if getattr(rates, name) != now:
            was = getattr(rates, name)
            return (
                Rates(),
                f"the calibration is out of date ({name} was {was}, is {now}); `bigreg plan ... --calibrate` "
                "measures again",
            )
    return rates, ""
