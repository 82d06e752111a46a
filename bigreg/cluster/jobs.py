"""Workers that are jobs of a batch system: Slurm, LSF, PBS or Grid Engine, through dask-jobqueue.

What these settings leave open is taken from dask-jobqueue's own configuration (~/.config/dask/jobqueue.yaml), where a
site may keep its queue and account.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask
from dask.utils import parse_bytes
from distributed import Client
from distributed.core import Status
from distributed.security import Security

from ..errors import ResourceError
from .escalation import Escalation, escalating
from .existing import security
from .jobs_upkeep import JobKeeper
from .settings import Cluster, seconds_of
from .upkeep import LOST_SECONDS, every
from .workers import ENVIRONMENT, GPU, decoding, extra

START_SECONDS = 300
"""How long a worker may take to start and to find the scheduler: hundreds that import torch at once are slow."""


@contextmanager
def jobs_client(settings: Cluster, stopped: Callable[[], None] | None = None) -> Iterator[Client]:
    """A client of a cluster of jobs, as soon as the first worker is there. At the end all jobs are cancelled.

    stopped   asked now and then while jobs wait in the queue; what it raises ends the waiting
    """
    command = _kind(settings).job_cls.submit_command.split()[0]
    if shutil.which(command) is None:
        raise ResourceError(
            f"cluster.kind '{settings.kind}': {command} is not on the PATH; run bigreg where jobs can be "
            "submitted, or choose another kind"
        )
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": f"{LOST_SECONDS}s"}),
        credentials(settings) as secure,
        job_cluster(settings, secure) as cluster,
        Client(cluster) as client,
    ):
        if settings.adaptive is not None:
            cluster.adapt(minimum=settings.adaptive, maximum=settings.workers)
        else:
            cluster.scale(settings.workers)
        keeper = JobKeeper(cluster, settings.kind)
        with (
            every(LOST_SECONDS, keeper.look),
            escalating(client, Escalation(cluster, settings, _memory_of_job)),
        ):
            keeper.wait_for_a_worker(stopped)
            yield client


def job_cluster(settings: Cluster, secure: Security | None = None) -> Any:
    """The dask-jobqueue cluster, without jobs yet; its `job_script()` is what will be submitted."""
    kind = _kind(settings)
    processes, seconds = settings.processes, _walltime(settings)
    arguments = ["--dashboard-address", "127.0.0.1:0"]
    if seconds is not None:
        # Ends by itself between 3 and 1 margins before the batch system would kill it, and not all at once.
        margin = min(600, seconds // 10)
        arguments += ["--lifetime", f"{seconds - 2 * margin}s", "--lifetime-stagger", f"{margin}s"]
    if settings.has_gpus:
        arguments += ["--resources", f"{GPU}=1"]
    if processes > 1 and settings.gpus is not None:
        arguments += ["--preload-nanny", "bigreg.cluster.one_gpu"]
    exports = ENVIRONMENT | (decoding(settings.cores_per_job // processes) if settings.has_gpus else {})
    folder = settings.log_directory and str(Path(settings.log_directory).expanduser().resolve())
    directives, options = _requests(settings)
    return kind(
        job_cls=type(kind.job_cls.__name__, (_Recorded, kind.job_cls), {}),
        name="bigreg",
        job_name="bigreg",
        cores=processes * settings.in_hand,  # dask-jobqueue makes one thread of each
        processes=processes,
        queue=settings.queue,
        walltime=_written(seconds, settings.kind),
        interface=settings.interface,
        local_directory=settings.local_directory,
        log_directory=folder,
        job_script_prologue=[*(f"export {k}={v}" for k, v in exports.items()), *settings.prologue],
        job_extra_directives=[*directives, *settings.job_extra] or None,
        worker_extra_args=arguments,
        death_timeout=START_SECONDS,
        scheduler_options={"dashboard_address": settings.dashboard},
        security=secure,
        **options,
        **_memory_of_job(settings),
    )


def _kind(settings: Cluster) -> Any:
    return getattr(extra("dask_jobqueue", "jobqueue", settings), f"{settings.kind.upper()}Cluster")


def _requests(settings: Cluster) -> tuple[list[str], dict[str, Any]]:
    """How this batch system is asked for cores, GPUs and an account: directives, and dask-jobqueue's own options."""
    cores, gpus, account = settings.cores_per_job, settings.gpus, settings.account
    match settings.kind:
        case "slurm":
            return [f"--gres=gpu:{gpus}"] if gpus else [], {"job_cpu": cores, "account": account}
        case "lsf":
            return [f'-gpu "num={gpus}"'] if gpus else [], {"ncpus": cores, "project": account}
        case "pbs":
            return [], {"account": account}
        case _:
            return [], {"project": account}


def _memory_of_job(settings: Cluster) -> dict[str, Any]:
    """The options of a job that its memory is in."""
    assert settings.memory_limit is not None, "settings of this kind have one"
    memory = parse_bytes(settings.memory_limit) * settings.processes
    if settings.kind != "pbs":
        return {"memory": memory}
    cores, gpus = settings.cores_per_job, settings.gpus
    chunk = f"select=1:ncpus={cores}:mem={-(-memory // 2**20)}MB" + (f":ngpus={gpus}" if gpus else "")
    # A site whose PBS speaks otherwise (nodes=1:ppn=8) says so in jobqueue.yaml.
    return {"memory": memory, "resource_spec": dask.config.get("jobqueue.pbs.resource-spec", None) or chunk}


def _walltime(settings: Cluster) -> int | None:
    if settings.walltime is not None:
        return settings.walltime
    site = dask.config.get(f"jobqueue.{settings.kind}.walltime", None)
    if site is None:
        return None
    return seconds_of(f"{site}:00" if str(site).count(":") == 1 else site)


def _written(seconds: int | None, kind: str) -> str | None:
    if seconds is None:
        return None
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hours:02d}:{minutes:02d}" + (f":{seconds:02d}" if kind != "lsf" else "")


@contextmanager
def credentials(settings: Cluster) -> Iterator[Security | None]:
    """TLS by the given files, or by some made for this run alone, in a folder that only the user can read.

    A scheduler without it runs whatever anyone on the network sends it, as this user.
    """
    if settings.tls_cert is not None or not settings.encrypt:
        yield security(settings)
        return
    extra("cryptography", "jobqueue", settings)
    made = Security.temporary()
    parent = Path(settings.shared_directory or "~").expanduser().resolve() / ".bigreg"
    with ExitStack() as stack:
        try:
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = Path(stack.enter_context(TemporaryDirectory(dir=parent, prefix="tls-")))  # of mode 700
            files = {}
            for part, text in (("ca", made.tls_ca_file), ("cert", made.tls_worker_cert), ("key", made.tls_worker_key)):
                (folder / f"{part}.pem").touch(mode=0o600)
                (folder / f"{part}.pem").write_text(text)
                files[f"tls_{part}"] = str(folder / f"{part}.pem")
        except OSError as error:
            raise ResourceError(
                f"'{parent}' cannot take the run's TLS credentials ({error.strerror}); set "
                "cluster.shared_directory to a folder that you can write and that the nodes see"
            ) from error
        yield security(settings.model_copy(update=files))


class _Recorded:
    """A job that remembers why it was refused: an error raised in the event loop would reach nobody."""

    refusal: str | None = None

    async def start(self) -> None:
        try:
            await super().start()  # type: ignore[misc]  # of the job class that it is mixed into
        except (OSError, RuntimeError, ValueError) as error:
            self.refusal = str(error).rpartition("stderr:\n")[2].strip() or str(error)
            self.status = Status.running

    async def close(self) -> None:
        await super().close()  # type: ignore[misc]  # of the job class that it is mixed into
        self.status = Status.closed
