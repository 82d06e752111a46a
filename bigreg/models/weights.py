"""Reading and writing weights. A source is `random`, the name of packaged weights, or the path of a file."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import ConfigError, OutputError
from ..networks import Network, build
from .card import FORMAT, Card, read_card

RANDOM = "random"
SEED = 0
SUFFIX = ".safetensors"
PACKAGED = Path(__file__).parent / "packaged"


def save(path: str | Path, network: Network, card: Card, *, half: bool = False) -> Card:
    """Write a network's weights and its card beside them (PATH.json for PATH.safetensors); returns the whole card.

    half   store in float16: a half of the size, for what is handed on rather than trained further

    Raises ConfigError for a path of another ending, OutputError where it cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ConfigError(f"weights '{path}' must end in {SUFFIX}")
    tensors = {
        name: (value.half() if half and value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in network.state_dict().items()
    }
    card = card.model_copy(
        update={
            "format": FORMAT,
            "architecture": network.architecture,
            "settings": network.settings,
            "versions": {name: version(name) for name in ("bigreg", "torch")},
            "digest": digest_of(tensors),
        }
    )
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part)
        part.replace(path)
        part.write_text(card.model_dump_json(indent=1) + "\n")
        part.replace(path.with_suffix(".json"))
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink()
        raise OutputError(f"weights cannot be written to '{path}': {error}") from error
    return card


def load(source: str | Path, architecture: str) -> tuple[Network, Card]:
    """The network of an architecture with its weights (float32, evaluation mode, on the CPU), and its card.

    `random` is an untrained network with a fixed seed. Raises ConfigError for weights that are not there, of another
    architecture or format, or damaged.
    """
    if str(source) == RANDOM:
        return _random(architecture)
    path = find(source)
    what = f"weights '{source}'"
    card = read_card(path.with_suffix(".json"), what)
    if card.architecture != architecture:
        raise ConfigError(
            f"{what} are of the architecture {card.architecture!r}, not {architecture!r}; use the engine "
            f"{card.architecture!r}, or other weights"
        )
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{what} cannot be read: {error}; get them again") from error
    network = build(architecture, **card.settings)
    _fits(tensors, network, what)
    digest = digest_of(tensors)
    if digest != card.digest:
        raise ConfigError(
            f"{what} have the digest {digest[:12]}, their card says {card.digest[:12] or 'none'}: one of them "
            "was changed; get both again"
        )
    network.load_state_dict(tensors)
    return network.eval(), card


def card_of(source: str | Path) -> Card:
    """The card of weights, without reading them."""
    return read_card(find(source).with_suffix(".json"), f"weights '{source}'")


def weight_bytes(source: str | Path) -> int:
    """Size of weights on disk."""
    return find(source).stat().st_size


def packaged_names() -> list[str]:
    """Names of the weights that come with bigreg."""
    return sorted(p.stem for p in PACKAGED.glob(f"*{SUFFIX}"))


def find(source: str | Path) -> Path:
    """The file of packaged weights or of a path. Raises ConfigError where there is neither."""
    if str(source) in packaged_names():
        return PACKAGED / f"{source}{SUFFIX}"
    path = Path(source)
    if path.suffix == SUFFIX and path.is_file():
        return path
    raise ConfigError(
        f"weights '{source}' are neither packaged with bigreg ({', '.join(packaged_names()) or 'there are none'}) nor "
        f"a file that ends in {SUFFIX}; give one of these, the path of such a file, or '{RANDOM}'"
    )


def digest_of(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 of names, types, shapes and values, whatever order they are stored in."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _random(architecture: str) -> tuple[Network, Card]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = build(architecture).eval()
    card = Card(
        architecture=architecture,
        settings=network.settings,
        data="nothing: an untrained network",
        digest=digest_of(network.state_dict()),
    )
    return network, card


def _fits(tensors: dict[str, torch.Tensor], network: Network, what: str) -> None:
    expected = network.state_dict()
    missing, foreign = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or foreign:
        name, problem = (missing[0], "is missing") if missing else (foreign[0], "is not part of it")
        raise ConfigError(
            f"{what} do not fit the network of their card: the tensor {name} {problem} "
            f"({len(missing) + len(foreign)} differ); get weights and card again"
        )
    for name, value in expected.items():
        if tensors[name].shape != value.shape:
            raise ConfigError(
                f"{what} do not fit the network of their card: {name} has the shape {tuple(tensors[name].shape)}, not "
                f"{tuple(value.shape)}; get weights and card again"
            )
