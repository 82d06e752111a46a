"""The state of a training in one file: tensors as safetensors, the rest as JSON in its header. No pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..errors import ConfigError, CorruptDataError, OutputError

FORMAT = 2


def write(path: Path, state: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
    """Write atomically: after a crash the file is the old or the new one. `about` is JSON."""
    header = {"bigreg": json.dumps({"format": FORMAT, **about})}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    temporary = path.with_name(path.name + ".part")
    try:
        save_file(tensors, temporary, metadata=header)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"'{path}' cannot be written: {error}; check disk space and permissions") from error


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and what was said about them. Raises CorruptDataError where it is no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["bigreg"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CorruptDataError(
            f"'{path}' is not a checkpoint of a training: {error}; remove it to start again"
        ) from error
    if about.get("format") != FORMAT:
        raise ConfigError(
            f"'{path}' has format {about.get('format')}, this bigreg reads {FORMAT}; remove it to start again"
        )
    return state, about


def flatten(
    modules: Mapping[str, nn.Module], optimisers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, torch.Tensor]:
    """All tensors of modules and optimisers under names of their own."""
    out = {f"{name}.{k}": v for name, module in modules.items() for k, v in module.state_dict().items()}
    for name, optimiser in optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            out |= {f"{name}.{index}.{k}": v for k, v in state.items() if isinstance(v, torch.Tensor)}
    return out


def restore(
    tensors: Mapping[str, torch.Tensor],
    modules: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Put back what `flatten` took."""
    for name, module in modules.items():
        own = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        module.load_state_dict(own)
    for name, optimiser in optimisers.items():
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"{name}."):
                index, entry = key.removeprefix(f"{name}.").split(".", 1)
                state.setdefault(int(index), {})[entry] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
