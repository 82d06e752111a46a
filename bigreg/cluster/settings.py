"""The section `cluster` of a configuration: which machines work, and how they are asked for."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from ..errors import ConfigError, named

Kind = Literal["local", "cuda", "slurm", "lsf", "pbs", "sge", "kubernetes", "address"]
KINDS: tuple[str, ...] = get_args(Kind)
JOBS = ("slurm", "lsf", "pbs", "sge")
"""The kinds whose workers are jobs of a batch system."""
HERE = ("local", "cuda")
"""The kinds whose workers are processes of this machine."""

MEANT_FOR: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "workers": (*HERE, *JOBS, "kubernetes"),
    "memory_limit": (*HERE, *JOBS, "kubernetes"),
    "threads": (*HERE, *JOBS, "kubernetes"),
    "adaptive": ("local", *JOBS, "kubernetes"),
    "device": ("local",),
    "dashboard": (*HERE, *JOBS),
    "local_directory": (*HERE, *JOBS),
    "cores": (*JOBS, "kubernetes"),
    "escalate": JOBS,
    "gpus": (*JOBS, "kubernetes"),
    "queue": JOBS,
    "account": JOBS,
    "walltime": JOBS,
    "job_extra": JOBS,
    "prologue": JOBS,
    "interface": JOBS,
    "log_directory": JOBS,
    "shared_directory": JOBS,
    "encrypt": JOBS,
    "tls_ca": (*JOBS, "address"),
    "tls_cert": (*JOBS, "address"),
    "tls_key": (*JOBS, "address"),
    "scheduler_address": ("address",),
    "scheduler_file": ("address",),
    "image": ("kubernetes",),
    "namespace": ("kubernetes",),
}
"""For each key the kinds that read it; for any other kind it is refused, as it would do nothing."""

PRIVATE = ("scheduler_address", "job_extra", "prologue")
"""Keys whose values may hold a password: they are never shown in a message and never stored."""

GPU_CORES = 8
"""Cores that are asked for with each GPU where nobody says how many: they decode and encode what it computes."""
SHORTEST_WALLTIME = 300
_CREDENTIAL = re.compile(
    # NAME=value, where the value is written out: not $VARIABLE, $(command) or `command`.
    r"""\b(\w*(?:SECRET|TOKEN|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY)\w*)\s*=\s*["']?[^\s"'$`]""",
    re.IGNORECASE,
)


class Cluster(BaseModel):
    """Where the workers of a run come from. A worker is a process; `threads` is how many blocks it has in hand.

    One of them is computed at a time; the others are read and written meanwhile. It pays where storage is slower than
    computing, so 2 is the default for a worker with a GPU and 1 for others.

    A GPU is used by a worker that was given one, and by no other process. With kind cuda several share each GPU; jobs
    and pods with `gpus` have one worker per GPU. Kind local computes on the CPU; with `device: cuda` its workers share
    the machine's GPUs.

    Raises ConfigError for a value that makes no sense, or a key that the kind does not have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    # A file may leave it open with null: `load_config` puts `default_kind` in its place.
    kind: Annotated[Kind, WithJsonSchema({"enum": [*KINDS, None]})] = "local"
    workers: int | None = Field(None, ge=1)
    memory_limit: str | None = None
    threads: int | None = Field(None, ge=1, le=8)
    adaptive: int | None = Field(None, ge=1)
    device: Literal["cpu", "cuda"] = "cpu"
    dashboard: str = "127.0.0.1:0"
    local_directory: str | None = None
    cores: int | None = Field(None, ge=1)
    gpus: int | None = Field(None, ge=1)
    escalate: int = Field(2, ge=0, le=4)
    queue: str | None = None
    account: str | None = None
    walltime: Annotated[int | None, WithJsonSchema({"type": ["integer", "string", "null"]})] = None
    job_extra: list[str] = Field(default_factory=list, repr=False)
    prologue: list[str] = Field(default_factory=list, repr=False)
    interface: str | None = None
    log_directory: str | None = None
    shared_directory: str | None = None
    encrypt: bool = True
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    scheduler_address: str | None = Field(None, repr=False)
    scheduler_file: str | None = None
    image: str | None = None
    namespace: str | None = None

    @field_validator("memory_limit")
    @classmethod
    def _is_a_size(cls, value: str | None) -> str | None:
        if value is None:
            return None
        from dask.utils import parse_bytes  # Dask takes longer to import than a wrong option is to take to be told

        try:
            size = parse_bytes(value)
        except ValueError as error:
            raise ConfigError(f"cluster.memory_limit {value!r} is not a size such as 4GB") from error
        if size <= 0:
            raise ConfigError(f"cluster.memory_limit {value!r} must be positive, such as 4GB")
        return value

    @field_validator("walltime", mode="before")
    @classmethod
    def _in_seconds(cls, value: Any) -> int | None:
        return None if value is None else seconds_of(value)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Cluster:
        for key, kinds in MEANT_FOR.items():
            value = getattr(self, key)
            if self.kind not in kinds and value != type(self).model_fields[key].get_default(call_default_factory=True):
                raise ConfigError(
                    f"{_said(key, value)} means nothing to kind '{self.kind}'; leave it out, "
                    f"or choose kind {' or '.join(kinds)}"
                )
        for key, remedy in (("workers", "20"), ("memory_limit", "4GB")):
            if self.kind in (*JOBS, "kubernetes") and getattr(self, key) is None:
                asked = named(f"--{key.replace('_', '-')} ", f"cluster.{key}=")
                raise ConfigError(f"cluster.{key} is missing, which kind '{self.kind}' needs; give {asked}{remedy}")
        if self.adaptive is not None and (self.workers is None or self.adaptive > self.workers):
            raise ConfigError(
                f"cluster.adaptive = {self.adaptive} is the least number of workers and cluster.workers = "
                f"{self.workers} the most; make cluster.workers at least {self.adaptive}"
            )
        self._check_security()
        check = {"address": self._check_address, "kubernetes": self._check_image, "sge": self._check_sge}
        check.get(self.kind, lambda: None)()
        return self

    def _check_security(self) -> None:
        given = {key: getattr(self, key) for key in ("tls_ca", "tls_cert", "tls_key")}
        missing = [key for key, value in given.items() if value is None]
        if 0 < len(missing) < 3:
            raise ConfigError(f"cluster.{missing[0]} is missing; tls_ca, tls_cert and tls_key are given together")
        if not missing and not self.encrypt:
            raise ConfigError("cluster.encrypt = False, yet cluster.tls_cert is given; leave out one of the two")
        for key in ("job_extra", "prologue"):
            found = _CREDENTIAL.search("\n".join(getattr(self, key)))
            if found:
                raise ConfigError(
                    f"cluster.{key} would write the value of {found[1]} into job scripts, which others may read; put "
                    "it into a file that only you can read and have the prologue source that, or write $(cat FILE)"
                )

    def _check_address(self) -> None:
        if (self.scheduler_address is None) == (self.scheduler_file is None):
            raise ConfigError(
                "kind 'address' needs one of cluster.scheduler_address (such as tcp://10.0.0.1:8786) and "
                "cluster.scheduler_file"
            )
        address = self.scheduler_address or ""
        if "@" in address:
            raise ConfigError(
                "cluster.scheduler_address holds a user or password, which Dask does not know; "
                "use a tls:// address with cluster.tls_ca, tls_cert and tls_key"
            )
        if address and "://" not in address:
            raise ConfigError(
                "cluster.scheduler_address has no protocol; write it as tcp://HOST:PORT or tls://HOST:PORT"
            )
        if address.startswith("tls://") and self.tls_cert is None:
            raise ConfigError("cluster.scheduler_address is tls://; give cluster.tls_ca, tls_cert and tls_key as well")

    def _check_image(self) -> None:
        if (self.gpus or 1) > 1:
            raise ConfigError(
                f"cluster.gpus = {self.gpus}, but on Kubernetes a worker is a pod and uses one GPU; use 1"
            )
        if self.image is None:
            raise ConfigError(
                "cluster.image is missing; name a container image that has bigreg in it, "
                f"with {named('--set ', '')}cluster.image=registry/name:tag"
            )

    def _check_sge(self) -> None:
        extra = " ".join(self.job_extra)
        if self.cores_per_job > 1 and "-pe" not in extra:
            raise ConfigError(
                f"{self.cores_per_job} cores per job need a parallel environment, whose name Grid Engine leaves to the "
                f"site; add for instance '-pe smp {self.cores_per_job}' to cluster.job_extra, or set cluster.cores=1"
            )
        if self.gpus is not None and "gpu" not in extra:
            raise ConfigError(
                f"cluster.gpus = {self.gpus}: Grid Engine leaves the name of that resource to the site; "
                f"add for instance '-l gpu={self.gpus}' to cluster.job_extra"
            )

    @property
    def processes(self) -> int:
        """Workers of one job: one a GPU, or one a core where there are none."""
        if self.kind == "kubernetes":
            return 1
        return self.gpus or self.cores or 1

    @property
    def has_gpus(self) -> bool:
        """Whether each worker is given a GPU."""
        return self.kind == "cuda" or self.device == "cuda" or self.gpus is not None

    @property
    def gpu_here(self) -> bool:
        """Whether GPUs of this machine work."""
        return self.kind in HERE and self.has_gpus

    @property
    def in_hand(self) -> int:
        """Threads of a worker: blocks that it has in hand."""
        return self.threads or (2 if self.has_gpus else 1)

    @property
    def cores_per_job(self) -> int:
        """Cores to ask for. A worker computes in one thread; those of a GPU decode and encode in the others."""
        if self.cores is None and self.gpus is not None:
            return self.gpus * GPU_CORES
        return max(self.cores or 1, self.processes)

    def stored(self) -> dict[str, Any]:
        """What a run remembers of its cluster: nothing that could hold a credential.

        Of another machine's cluster only the kind is kept, so a resumed run asks for it again by name.
        """
        if self.kind in HERE:
            return self.model_dump(
                mode="json", include={"kind", "workers", "memory_limit", "threads", "adaptive", "device"}
            )
        return {"kind": self.kind}


def seconds_of(walltime: Any) -> int:
    """Seconds of "04:00:00", "1-12:00:00", "4h" or a number of seconds, which YAML makes of a bare 12:00:00."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", walltime) if isinstance(walltime, str) else None
    try:
        if match:
            days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
            number = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        elif isinstance(walltime, int) and not isinstance(walltime, bool):
            number = walltime
        else:
            from dask.utils import parse_timedelta

            number = round(parse_timedelta(walltime, default=False))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"cluster.walltime {walltime!r} is not a time; write 04:00:00, 1-12:00:00 or 4h") from error
    if number < SHORTEST_WALLTIME:
        raise ConfigError(f"cluster.walltime {walltime!r} leaves a worker no time to work; give it 00:05:00 or more")
    return number


def _said(key: str, value: Any) -> str:
    return f"cluster.{key}" if key in PRIVATE else f"cluster.{key} = {value!r}"
