"""The command itself: its verbs' errors, its version."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from ..errors import BigregError, naming_flags

# Paths and messages are shown as they are: "[0]" or ":b:" in a file's name is no markup.
out, err = (Console(stderr=to_err, markup=False, emoji=False, highlight=False) for to_err in (False, True))


class _Verbs(TyperGroup):
    """Errors that bigreg raises on purpose are a message and an exit status of their own kind; Ctrl-C is 130."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for command in (self, *self.commands.values()):
            command.help = re.sub(
                r"(?<!\n)\n(?!\n)", " ", command.help or ""
            )  # lines of the source are none of the help
            for parameter in command.params:  # the help says what is meant, not how Python calls its type
                if parameter.metavar is None and parameter.param_type_name == "option":
                    parameter.metavar = "" if getattr(parameter, "is_flag", False) else str(parameter.name).upper()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`bigreg help VERB` is `bigreg VERB --help`."""
        return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, rest if command is None else as_triples(command, rest)

    def invoke(self, ctx: Any) -> Any:
        try:
            with naming_flags():
                return super().invoke(ctx)
        except BigregError as error:
            err.print(f"error: {error}", style="red", soft_wrap=True)
            raise typer.Exit(error.exit_status) from error
        except KeyboardInterrupt as stop:
            err.print("stopped")
            raise typer.Exit(130) from stop
        finally:
            out.stderr = False


def as_triples(command: Any, arguments: list[str]) -> list[str]:
    """Arguments with three values behind each option that takes them: Z,Y,X is three, and one number is it thrice."""
    triples = {name for parameter in command.params if parameter.nargs == 3 for name in parameter.opts}
    out: list[str] = []
    for place, argument in enumerate(arguments):
        name, has_value, value = argument.partition("=")
        if name in triples and has_value:
            numbers = value.split(",")
            out += [name, *(numbers if len(numbers) == 3 else numbers * 3 if len(numbers) == 1 else [value])]
            continue
        if place and arguments[place - 1] in triples:
            numbers = argument.split(",")
            alone = len(numbers) == 1 and not _is_number(arguments[place + 1 : place + 2])
            if _is_number(numbers) and (len(numbers) == 3 or alone):
                out += numbers * (3 // len(numbers))
                continue
        out.append(argument)
    return out


def _is_number(words: list[str]) -> bool:
    try:
        return bool([float(word) for word in words])
    except ValueError:
        return False


app = typer.Typer(
    cls=_Verbs,
    help="Register volumes that do not fit in memory. All lengths are micrometres, all axes z y x.",
    epilog="Exit status: 0 everything was done, 2 wrong usage, 3 image or doubtful start, 4 configuration, 5 output, "
    "6 corrupt data, 7 machine too small, 8 blocks failed, 9 scheduler gone, 10 training diverged, "
    "11 verdict as named by --fail-on, 130 stopped by Ctrl-C, 1 anything else.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        out.print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _only_json(wanted: bool) -> bool:
    """Standard output is for the JSON alone: what is printed otherwise goes to standard error."""
    out.stderr = wanted
    return wanted


Json = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=_only_json,
        is_eager=True,
        help="Print figures as JSON; everything else goes to standard error.",
    ),
]


def print_json(**data: Any) -> None:
    """What a verb has to say, as JSON on standard output; null for what is not known."""
    from ..quality.evaluation import plain

    typer.echo(json.dumps(plain(data), indent=1))


def show_figures(rows: Iterable[Sequence[Any]], as_json: bool, **more: Any) -> None:
    """Figures (group, name, value, unit, note), then `more` by name; as JSON with a verdict, if there is one."""
    from ..display import figure, pairs

    if as_json:
        from ..quality.evaluation import FIGURE

        verdict = more.pop("verdict", None)
        told = None if verdict is None else verdict.to_json()
        print_json(**more, figures=[dict(zip(FIGURE, row, strict=True)) for row in rows], verdict=told)
        return
    verdict = more.pop("verdict", None)
    ends = [(name.replace("_", " "), str(value)) for name, value in more.items()]
    out.print(pairs([*((f"{r[0]}: {r[1]}", figure(r[2], r[3])) for r in rows), *ends]), soft_wrap=True)
    if verdict is not None:
        show_verdict(verdict)


def show_verdict(verdict: Any) -> None:
    """The verdict on a run as plain lines."""
    for line in verdict.lines:
        out.print(line, soft_wrap=True)


def main() -> None:
    """Entry point."""
    app()
