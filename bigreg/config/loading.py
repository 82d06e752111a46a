"""Configurations from presets, files and overrides, and the files that come with bigreg."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ..cluster.gpus import default_kind
from ..cluster.settings import PRIVATE, Cluster
from ..errors import ConfigError
from ..keys import keys_of, meant
from .sections import Config, listed

Model = TypeVar("Model", bound=BaseModel)


def preset_names() -> list[str]:
    """Names of the presets that come with bigreg."""
    return sorted(Path(p.name).stem for p in preset_folder().iterdir() if p.name.endswith(".yaml"))


def cluster_names() -> list[str]:
    """Names of the clusters that come with bigreg, one a kind."""
    return sorted(Path(p.name).stem for p in (preset_folder() / "clusters").iterdir() if p.name.endswith(".yaml"))


def preset_folder() -> Any:
    """Where the presets lie: in the installed package, or in `configs` of a clone."""
    packaged = resources.files("bigreg") / "presets"
    if packaged.is_dir():
        return packaged
    return Path(__file__).resolve().parents[2] / "configs"


def load_config(
    source: Config | dict[str, Any] | str | Path | None = None,
    *,
    preset: str | None = None,
    cluster: str | Path | None = None,
    overrides: list[str] | None = None,
) -> Config:
    """Make a Config from a preset name, a YAML file, a dict or nothing, then dotted `KEY=VALUE` overrides.

    A string that names a preset is that preset, otherwise it is a file. `cluster`, a name or a file likewise, takes the
    place of the whole section of that name. An override of an engine drops the options of engines that are no longer
    used. Raises ConfigError that names key and value.
    """
    if isinstance(source, Config) and not overrides and cluster is None:
        return source
    if isinstance(source, Config):
        data = source.model_dump()
    elif isinstance(source, dict):
        data = source
    else:
        if preset is not None and source is not None:
            raise ConfigError(f"both preset {preset!r} and config file '{source}' are given; choose one")
        chosen = source if source is not None else (preset or "rounds")
        data = _read_yaml(chosen, "", preset_names(), "configuration")
    data = {**data}
    if cluster is not None:
        data["cluster"] = _read_yaml(cluster, "clusters", cluster_names(), "cluster")
    changes = []
    for item in overrides or []:
        key, sep, value = item.partition("=")
        if not sep or not key:
            raise ConfigError(f"override {item!r} is not KEY=VALUE (for instance blocks.core=96)")
        changes.append((key.strip().split("."), parse_yaml(value, f"override {item!r}"), item))
    # Engines first: of the options that are there, those of other engines go; what is given for them is an error.
    for keys, value, item in sorted(changes, key=lambda change: change[0][-1:] != ["engine"]):
        set_key(data, keys, value, item)
        if keys == ["engine"]:
            _keep_options(data, "engine_options", value)
        elif keys == ["coarse", "engine"]:
            _keep_options(data["coarse"], "options", value)
    section = data.get("cluster") or {}
    if isinstance(section, dict) and section.get("kind") is None:
        data["cluster"] = {**section, "kind": default_kind()}
    return _validated(Config, data, "the configuration", ())


def load_cluster(
    source: Cluster | dict[str, Any] | str | Path | None = None, *, overrides: dict[str, Any] | None = None
) -> Cluster:
    """Make the section `cluster` alone, from a name, a YAML file, a dict or nothing, then values that replace its own.

    A string that names a kind is the cluster of that kind that comes with bigreg. Raises ConfigError.
    """
    if isinstance(source, Cluster):
        data = source.model_dump()
    elif isinstance(source, str | Path):
        data = _read_yaml(source, "clusters", cluster_names(), "cluster")
    else:
        data = source or {}
    if data.get("kind") is None:
        data = {**data, "kind": default_kind()}
    return _validated(Cluster, {**data, **(overrides or {})}, "the cluster", ("cluster",))


def _validated(model: type[Model], data: dict[str, Any], what: str, place: tuple[str, ...]) -> Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = (*place, *map(str, problem["loc"]))
            if not where:  # of the whole: its value is everything
                lines.append(problem["msg"].removeprefix("Value error, "))
                continue
            private = where[0] == "cluster" and (len(where) == 1 or where[1] in PRIVATE)
            value = "" if private else f" = {problem['input']!r}"
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "extra_forbidden":
                message = f"unknown key{meant(where[len(place) :], list(keys_of(model)), place)}"
            lines.append(f"{'.'.join(where)}{value}: {message}")
        # Not from the error, which holds every value: what is private would come out in a traceback.
        raise ConfigError(f"{what} is not valid: " + "; ".join(lines)) from None


def preset_text(name: str) -> str:
    """The commented file of a preset or, as "clusters/NAME", of a cluster. Raises ConfigError where there is none."""
    folder, _, last = name.rpartition("/")
    if last not in {"": preset_names(), "clusters": cluster_names()}.get(folder, []):
        known = ", ".join([*preset_names(), *(f"clusters/{n}" for n in cluster_names())])
        raise ConfigError(f"preset '{name}' does not come with bigreg; there are {known}")
    text: str = (preset_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    return text


def _read_yaml(source: str | Path, folder: str, names: list[str], what: str) -> dict[str, Any]:
    path = preset_folder() / folder / f"{source}.yaml" if str(source) in names else Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{what} '{source}' is neither one that comes with bigreg ({', '.join(names)}) nor a readable file: {error}"
        ) from error
    data = parse_yaml(text, f"{what} '{source}'")
    if not isinstance(data, dict):
        raise ConfigError(f"{what} '{source}' must hold keys and values, found {type(data).__name__}")
    return data


def parse_yaml(text: str, what: str) -> Any:
    """What a text of safe YAML says. Raises ConfigError that names `what` it is."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} is not valid YAML: {error}") from error


def _keep_options(section: dict[str, Any], key: str, engines: Any) -> None:
    if isinstance(section.get(key), dict):
        section[key] = {name: options for name, options in section[key].items() if name in (listed(engines) or [])}


def set_key(data: dict[str, Any], keys: list[str], value: Any, item: str) -> None:
    """Set data[keys[0]][keys[1]].. in place. Raises ConfigError that names the override `item`."""
    for key in keys[:-1]:
        child = data.get(key)
        data[key] = dict(child) if isinstance(child, dict) else {}
        if child is not None and not isinstance(child, dict):
            raise ConfigError(f"override {item!r}: {key} is not a section")
        data = data[key]
    data[keys[-1]] = value
