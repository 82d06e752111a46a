"""Jobs end: cancelled, out of time, on a node that dies. Each that did is submitted again, and no other."""

from __future__ import annotations

import getpass
import logging
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from ..errors import ResourceError

log = logging.getLogger("bigreg.cluster")

QUEUE_SECONDS = 15
"""The batch system is asked for its list of jobs at most this often, and only while a job has no worker."""
STOP_SECONDS = 2.0
"""Who waits for jobs looks this often whether somebody has asked the run to stop."""
LONGEST_WAIT = 600
VAIN_ROUNDS = 2
"""After so many rounds of jobs that all ended without a worker, and none before, there is no point in going on."""

QUEUE = {
    "slurm": "squeue -h -u {user} -o %i",
    "lsf": "bjobs -noheader -o jobid",
    "pbs": "qstat -u {user}",
    "sge": "qstat -u {user}",
}
"""What lists the user's jobs that wait or run, a job a line that begins with its number."""


class JobKeeper:
    """Looks after the jobs of a dask-jobqueue cluster.

    A job that waits in the queue may wait for days, so that a worker is missing says nothing: only a job that the batch
    system no longer lists has ended.
    """

    def __init__(self, cluster: Any, kind: str) -> None:
        self.cluster = cluster
        self.kind = kind
        self.came: set[str] = set()
        self.vain = 0
        self.failure: str | None = None
        self._absent: Counter[str] = Counter()
        self._listed = self._retry = 0.0

    def wait_for_a_worker(self, stopped: Callable[[], None] | None = None) -> None:
        """Return when the first worker is there. Raises ResourceError where jobs are refused or all end at once.

        stopped   asked now and then; what it raises ends the waiting
        """
        begin, told, asked = time.monotonic(), False, 0.0
        while not self.cluster.scheduler_info["workers"]:
            if self.failure is not None:
                raise ResourceError(f"cluster.kind '{self.kind}': {self.failure}")
            if not told and time.monotonic() > begin + 20:
                told = True
                log.warning("waiting for jobs (%d queued, %s)", len(self.cluster.workers), self.kind)
            if stopped is not None and time.monotonic() > asked + STOP_SECONDS:
                asked = time.monotonic()
                stopped()
            time.sleep(0.1)

    def look(self) -> None:
        """Forget jobs that have ended and submit what is missing. Called now and then."""
        jobs = dict(self.cluster.workers)
        names = {worker["name"] for worker in list(self.cluster.scheduler_info["workers"].values())}
        alive = {name for name in jobs if names & self._workers_of(name)}
        here = {jobs[name].job_id for name in alive}
        if here - self.came:
            self.came |= here
            self.vain, self._retry = 0, 0.0
        ended = self._ended({name: job for name, job in jobs.items() if name not in alive})
        if ended:
            self._judge([jobs[name] for name in ended], len(jobs))
            self.cluster.sync(self._forget, ended)
        if set(self.cluster.worker_spec) - set(self.cluster.workers) and time.monotonic() >= self._retry:
            self.cluster.scale(len(self.cluster.plan))

    def _workers_of(self, name: str) -> set[str]:
        spec = self.cluster.worker_spec.get(name, {})
        return {name + suffix for suffix in spec["group"]} if "group" in spec else {name}

    def _ended(self, absent: dict[str, Any]) -> list[str]:
        """The jobs that were refused, or that two lists of the queue in a row do not show."""
        refused = [name for name, job in absent.items() if job.refusal is not None]
        submitted = {name: job.job_id for name, job in absent.items() if job.job_id is not None}
        if submitted and time.monotonic() >= self._listed + QUEUE_SECONDS:
            self._listed = time.monotonic()
            queue = self._queue()
            if queue is not None:
                self._absent = Counter({i: self._absent[i] + 1 for i in submitted.values() if i not in queue})
        return refused + [name for name, number in submitted.items() if self._absent[number] >= 2]

    def _queue(self) -> set[str] | None:
        """Numbers of the user's jobs; None where the batch system does not answer, which says nothing of the jobs."""
        command = QUEUE[self.kind].format(user=getpass.getuser()).split()
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return set(re.findall(r"^\s*(\d+)", answer.stdout, re.MULTILINE)) if answer.returncode == 0 else None

    def _judge(self, ended: list[Any], count: int) -> None:
        """Wait longer and longer where jobs end before a worker has come; give up where none ever came."""
        vain = [job for job in ended if job.job_id not in self.came]
        if not vain:
            return
        self.vain += 1
        self._retry = time.monotonic() + min(LONGEST_WAIT, QUEUE_SECONDS * 2**self.vain)
        refusal = next((job.refusal for job in vain if job.refusal is not None), None)
        reason = (
            f"{vain[0].submit_command} refused a job: {refusal}"
            if refusal is not None
            else f"{len(vain)} jobs exited before connecting to the scheduler; read their output "
            f"({vain[0].log_directory or 'where the batch system leaves it; set cluster.log_directory'}), and check "
            "that the nodes have this Python and can reach this machine (cluster.interface)"
        )
        hopeless = self.vain >= VAIN_ROUNDS or (refusal is not None and len(vain) == count)
        if not self.came and hopeless:
            self.failure = reason
        else:
            log.warning("%s; trying again in %d s", reason, self._retry - time.monotonic())

    async def _forget(self, names: list[str]) -> None:
        for name in names:
            job = self.cluster.workers.pop(name, None)
            if job is not None:
                await job.close()
