"""Pages of the site that are made from the code when it is built: command line, configuration, changelog."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for name, text in generated().items():
        files.append(File.generated(config, name, content=text))
    return files


def generated() -> dict[str, str]:
    """Text of every generated file, by its place in docs/."""
    return {
        "reference/cli.md": cli_page(),
        "reference/configuration.md": configuration_page(),
        "reference/config.schema.json": schema_text(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }


def cli_page() -> str:
    """All verbs with their arguments and options, in the order of `bigreg --help`."""
    import typer

    from bigreg.cli import app

    root: Any = typer.main.get_command(app)
    lines = [
        "# Command line", "", root.help, "",
        "The text below is that of `bigreg VERB --help`. `python -m bigreg` is the same command.", "",
        "Options that take Z Y X accept three numbers, `4,2,2`, or one number for all three axes. "
        "With `--json`, standard output is JSON alone, and everything else goes to standard error.", "",
        *exit_statuses(root.epilog),
    ]  # fmt: skip
    panels: dict[str, list[str]] = {}
    for name, command in root.commands.items():
        panels.setdefault(getattr(command, "rich_help_panel", None) or "Start", []).append(name)
    for panel, names in panels.items():
        lines += [f"## {panel}", ""]
        for name in names:
            lines += verb(name, root.commands[name])
    return "\n".join(lines) + "\n"


def exit_statuses(text: str) -> list[str]:
    pairs = re.findall(r"(\d+) ([^,]+?)(?:,|\.$)", text.removeprefix("Exit status: "))
    return ["## Exit status", "", "| status | meaning |", "|---|---|", *(f"| {n} | {what} |" for n, what in pairs), ""]


def verb(name: str, command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join([f"bigreg {name}", *(["[OPTIONS]"] if options else []), *(usage_of(a) for a in arguments)])
    lines = [f"### bigreg {name}", "", f"    {usage}", "", command.help, ""]
    if getattr(command, "epilog", None):
        lines += [command.epilog, ""]
    rows = [(f"`{usage_of(a)}`", a.help or "") for a in arguments]
    for option in options:
        flags = ", ".join(f"`{flag}`" for flag in [*option.opts, *option.secondary_opts])
        value = "" if option.is_flag else f" `{option.metavar}`"
        shown = option.default not in (None, False, ()) and not callable(option.default)
        rows.append((flags + value, (option.help or "") + (f" Default: `{option.default}`." if shown else "")))
    if rows:
        lines += ["| argument or option | meaning |", "|---|---|"]
        lines += [f"| {cell(left)} | {cell(right)} |" for left, right in rows]
    return [*lines, ""]


def usage_of(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def schema_text() -> str:
    from bigreg.config import Config

    return json.dumps(Config.model_json_schema(), indent=1)


def configuration_page() -> str:
    """The commented presets as they are, and all keys with their defaults."""
    from bigreg.config import Config, cluster_names, preset_names, preset_text

    lines = [
        "# Configuration", "",
        "A configuration is a preset, a YAML file (`--config mine.yaml`) or a Python dict. `--set KEY=VALUE` changes "
        "one value and always wins. Unknown keys are errors. `bigreg config PRESET` prints one of the files below; "
        "`bigreg config PRESET > mine.yaml` is the usual start of a file of your own.", "",
        "[The JSON schema](config.schema.json) lets editors check and complete such a file; `bigreg config --schema` "
        "prints it. In VS Code with the YAML extension, save it and make this the first line of your file:", "",
        "```yaml", "# yaml-language-server: $schema=config.schema.json", "```", "",
        "Which keys to change first, and what they do to an image: [Parameters](../parameters.md).", "",
        "## Keys and defaults", "",
        "The defaults of the schema, where neither a preset nor your file gives a value. "
        "Presets override some of them.", "",
        "| key | type | default |", "|---|---|---|",
        *(f"| `{key}` | {cell(kind)} | `{default}` |" for key, kind, default in keys(Config)), "",
    ]  # fmt: skip
    for title, names in (
        ("Presets", sorted(preset_names(), key=lambda n: (n != "rounds", n))),
        ("Clusters", [f"clusters/{name}" for name in cluster_names()]),
    ):
        lines += [f"## {title}", ""]
        for name in names:
            lines += [f"### {name}", "", "```yaml", preset_text(name).rstrip(), "```", ""]
    lines += ["## Training", "", "Files for `bigreg train`.", ""]
    for path in sorted((ROOT / "configs" / "training").glob("*.yaml")):
        lines += [f"### training/{path.stem}", "", "```yaml", path.read_text(encoding="utf-8").rstrip(), "```", ""]
    return "\n".join(lines)


def keys(model: Any, place: str = "") -> list[tuple[str, str, str]]:
    """(dotted key, type, default) of all values of a model and of the sections in it."""
    rows = []
    for name, known in model.model_fields.items():
        key, default = f"{place}{name}", known.get_default(call_default_factory=True)
        if hasattr(type(default), "model_fields"):
            rows += keys(type(default), f"{key}.")
            continue
        kind = re.sub(r"\b(?:typing|bigreg\.config|bigreg\.cluster\.settings)\.|<class '(\w+)'>", r"\1",
                      str(known.annotation)).replace("NoneType", "None")  # fmt: skip
        rows.append((key, f"`{kind}`", "null" if default is None else json.dumps(default)))
    return rows
