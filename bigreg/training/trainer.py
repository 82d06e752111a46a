"""The loop: patches, network, losses, steps; checkpoints, validation and figures on the way; weights at the end."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..errors import ConfigError, DivergedError, OutputError
from ..networks import Network, Prediction
from . import checkpoint
from .adversarial import Adversary, adversarial_losses
from .batch import Batch, make_batch
from .begin import network_of
from .config import Schedule, Training
from .loader import Loader
from .log import Board, Table, plot
from .losses import evaluate
from .patches import Purpose, Sampler, stream
from .processes import Processes, joined
from .scene import Scene
from .sources import Opened
from .synthetic import margin
from .validation import Validation, doubled

Progress = Callable[[int, int, str], None]
"""Called after each step with the steps done, the steps wanted, and a word on how it goes."""

CHECKPOINT = "checkpoint.safetensors"


def learning_rate(schedule: Schedule, step: int) -> float:
    """The rate of a step, from 0: a linear warm-up, then constant or half a cosine down to a hundredth."""
    if step < schedule.warmup:
        return schedule.rate * (step + 1) / schedule.warmup
    if schedule.decay == "constant":
        return schedule.rate
    part = (step - schedule.warmup) / max(schedule.steps - schedule.warmup, 1)
    return schedule.rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * part)))


class Learner:
    """Network, its average and the discriminators, with their optimisers: what a step changes."""

    def __init__(self, config: Training, processes: Processes) -> None:
        self.config, self.device = config, processes.device
        # Never on a CPU: without instructions for bfloat16 its convolutions are slow there, and gradients of the same
        # patch differ from call to call, now and then by an infinity (torch 2.13).
        self.half = config.schedule.amp and self.device.type == "cuda"
        seed = int(stream(config.seed, Purpose.WEIGHTS).integers(2**62))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network, self.origin = network_of(config)
            self.network = network.to(self.device)
            self.adversaries = [Adversary(loss, processes) for loss in adversarial_losses(config.losses)]
        factors: dict[str, int] = {config.network.name: self.network.factor}
        factors |= {f"its discriminators of {a.kind}s": a.judges.factor for a in self.adversaries}
        for what, factor in factors.items():
            if any(n % factor for n in config.data.shape):
                raise ConfigError(
                    f"data.patch {config.data.shape} must be multiples of {factor} voxels for {what}; change it, or "
                    "the settings (each layer that halves the patch doubles that number)"
                )
        self.average = copy.deepcopy(self.network) if config.schedule.ema is not None else None
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.schedule.rate)
        self.shared = processes.shared(self.network)
        self.identity = any(loss.name == "identity" for loss in config.losses)

    @property
    def best(self) -> Network:
        """The network to validate and to keep: the average where there is one."""
        return self.network if self.average is None else self.average

    def modules(self) -> dict[str, nn.Module]:
        found: dict[str, nn.Module | None] = {"network": self.network, "average": self.average}
        found |= {f"discriminators_{a.kind}": a.judges for a in self.adversaries}
        return {name: module for name, module in found.items() if module is not None}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"optimiser": self.optimiser} | {f"optimiser_{a.kind}": a.optimiser for a in self.adversaries}

    def precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    def scene(self, batch: Batch) -> Scene:
        """The batch as the network brings it together, and where a loss asks for it each image with itself."""
        fixed, moving, told = batch.fixed, batch.moving, batch.regularisation
        if self.identity:  # in one call, which is what processes that share gradients are made for
            fixed, moving = torch.cat([fixed, fixed, moving]), torch.cat([moving, fixed, moving])
            told = None if told is None else told.repeat(3)
        with self.precision():
            maps = _float(self.shared(fixed, moving, *(() if told is None else (told,))))
        if not self.identity:
            return Scene(batch, maps)
        pairs = Prediction(**{name: value[: len(batch)] for name, value in vars(maps).items()})
        return Scene(batch, pairs, Prediction(**{name: value[len(batch) :] for name, value in vars(maps).items()}))

    def step(self, number: int, batch: Batch, streams: list[np.random.Generator]) -> dict[str, torch.Tensor]:
        """One step of all optimisers; the figures of the batch. Raises DivergedError."""
        schedule = self.config.schedule
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(schedule, number)
        scene = self.scene(batch)
        loss, figures = evaluate(self.config.losses, scene)
        for adversary in self.adversaries:
            pull = adversary.pull(scene, self.precision())
            loss = loss + adversary.settings.weight * pull
            figures[f"adversarial {adversary.kind}"] = pull.detach()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        bound = math.inf if schedule.clip is None else schedule.clip
        gradient = torch.nn.utils.clip_grad_norm_(self.network.parameters(), bound)
        value, slope = torch.stack([loss.detach(), gradient.detach()]).tolist()
        if not math.isfinite(value + slope):
            raise DivergedError(
                f"step {number}: the loss is {value:g} and its gradient {slope:g}; "
                "make schedule.rate or the weights of the losses smaller, or set schedule.clip"
            )
        self.optimiser.step()
        for adversary in self.adversaries:
            learned = adversary.learn(scene, self.config.deformation, streams, self.precision())
            figures[f"discriminators {adversary.kind}"] = learned
        self._follow(number)
        return {"loss": loss.detach(), **figures, "gradient": gradient.detach()}

    @torch.no_grad()
    def _follow(self, number: int) -> None:
        """The running average of the weights; short at first, so that it forgets the random start."""
        share = self.config.schedule.ema
        if self.average is None or share is None:
            return
        decay = min(share, (1 + number) / (10 + number))
        for mean, value in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1.0 - decay)
            else:
                mean.copy_(value)


def _float(prediction: Prediction) -> Prediction:
    return Prediction(**{name: value.float() for name, value in vars(prediction).items()})


def train(
    config: Training, *, progress: Progress | None = None, say: Callable[[str], None] | None = None
) -> Path | None:
    """Train a network as configured and return the path of its weights; goes on where an earlier call stopped.

    Among several processes started by torchrun this is one of them; but the first they return None, and are silent.
    Raises ConfigError where the folder holds a training of another configuration, DivergedError where it diverges.
    """
    with joined(config.device) as processes:
        return _train(config, processes, progress or (lambda *_: None), say or (lambda _: None))


def _train(config: Training, processes: Processes, progress: Progress, say: Callable[[str], None]) -> Path | None:
    folder, steps = config.output.folder, config.schedule.steps
    learner = Learner(config, processes)
    begun = _resume(config, learner)
    if processes.first:
        _prepare(folder, config)
        if config.schedule.amp and not learner.half:
            say("schedule.amp: bfloat16 is for GPUs; this training is in float32")
        if begun:
            say(f"resumes after step {begun} of {steps}")
    processes.wait()
    sources = [Opened(s, config.data.intensity, i) for i, s in enumerate(config.data.sources)]
    part = "train" if config.validation.sources is None else "all"
    edge = margin(config.deformation)
    sampler = Sampler(sources, config.data, margin=edge, part=part)
    book = _Book(config, learner, sources, begun, say) if processes.first else None
    batch = config.schedule.batch
    with Loader(
        sampler, seed=config.seed, first=processes.rank * batch, count=batch, steps=steps, readers=config.readers
    ) as loader:
        for step in range(begun, steps):
            begin = time.perf_counter()
            patches, keys = loader.take(step), loader.keys(step)
            pair = make_batch(
                patches, [stream(config.seed, Purpose.CHANGE, *key) for key in keys],
                deformation=config.deformation, augment=config.augment, device=processes.device,
                regularisation=learner.network.regularisation,
            )  # fmt: skip
            figures = learner.step(step, pair, [stream(config.seed, Purpose.FLOW, *key) for key in keys])
            values = processes.mean(torch.stack([v.float() for v in figures.values()])).tolist()
            if book is not None:
                row = dict(zip(figures, values, strict=True))
                row |= {"rate": learning_rate(config.schedule, step), "seconds": time.perf_counter() - begin}
                book.after(step + 1, row)
                progress(step + 1, steps, f"loss {row['loss']:.4f}{book.held_out}")
    path = folder / f"{config.output.name}.safetensors"
    if book is not None:
        book.finish(path)
    processes.wait()
    return path if processes.first else None


def _prepare(folder: Path, config: Training) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config.model_dump(mode="json"), indent=1))
    except OSError as error:
        raise OutputError(f"output.folder '{folder}' cannot be written: {error}") from error


def _resume(config: Training, learner: Learner) -> int:
    """Take up the checkpoint of the folder, if there is one; the number of steps that are done."""
    path = config.output.folder / CHECKPOINT
    if not path.exists():
        return 0
    tensors, about = checkpoint.read(path)
    now = config.result_part()
    other = sorted(k for k in now if now[k] != about["config"].get(k))
    if other:
        raise ConfigError(
            f"'{config.output.folder}' holds a training with another {', '.join(other)}; "
            "choose another output.folder, or remove that one"
        )
    checkpoint.restore(tensors, learner.modules(), learner.optimisers())
    return int(about["step"])


class _Book:
    """What the first process writes: tables, checkpoints, the picture, the weights and their card."""

    def __init__(
        self, config: Training, learner: Learner, sources: list[Opened], begun: int, say: Callable[[str], None]
    ) -> None:
        self.config, self.learner, self.say = config, learner, say
        self.folder = config.output.folder
        self.losses, self.validations = (Table(self.folder / f"{n}.csv", begun) for n in ("losses", "validation"))
        self.board = Board(self.folder, config.output.tensorboard)
        self.sources = sources
        held_out = sources
        if config.validation.sources is not None:
            held_out = [Opened(s, config.data.intensity, i) for i, s in enumerate(config.validation.sources)]
        edge = margin(config.deformation)
        part = "held_out" if config.validation.sources is None else "all"
        low, high = held_out[0].box
        long = config.data.model_copy(update={"patch": doubled(config.data.shape, high - low)})
        self.validation = Validation(
            Sampler(held_out, config.data, margin=edge, part=part),
            Sampler(held_out[:1], long, margin=edge, part="all"),
            config,
            learner.device,
        )
        if begun == 0:
            self._validate(0)

    @property
    def held_out(self) -> str:
        error = self.validations.rows[-1].get("error_voxels") if self.validations.rows else None
        return "" if error is None else f", held-out error {error:.3f} voxels"

    def after(self, step: int, row: dict[str, float]) -> None:
        self.losses.add(step, row)
        self.board.add("losses", step, row)
        last = step == self.config.schedule.steps
        if last or step % self.config.validation.every == 0:
            self._validate(step)
        if last or step % self.config.output.checkpoint == 0:
            state = checkpoint.flatten(self.learner.modules(), self.learner.optimisers())
            checkpoint.write(self.folder / CHECKPOINT, state, {"step": step, "config": self.config.result_part()})

    def _validate(self, step: int) -> None:
        figures = self.validation.figures(self.learner.best)
        self.validations.add(step, figures)
        self.board.add("validation", step, figures)
        if step:
            plot(self.folder / "curves.png", self.losses.rows, self.validations.rows)
        self.say(f"step {step}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))

    def finish(self, path: Path) -> None:
        from .card import save_weights

        if not self.validations.rows or self.validations.rows[-1]["step"] != self.config.schedule.steps:
            self._validate(self.config.schedule.steps)
        learner = self.learner
        save_weights(path, learner.best, self.config, self.sources, self.validations.rows[-1], learner.origin)
        self.board.close()
