"""Preloaded by the nannies of a job with several GPUs: each worker process sees one of them."""

from __future__ import annotations

import os

from distributed import Nanny


def dask_setup(nanny: Nanny) -> None:
    """Give the worker "NAME-2" the third of the GPUs that the batch system gave the job."""
    number = int(str(nanny.name).rpartition("-")[2])
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    nanny.env["CUDA_VISIBLE_DEVICES"] = given.split(",")[number] if given else str(number)
