"""The running numbers in the names of slices: their order, and whether they are one stack without gaps."""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import InputError
from .spec import ImageSpec
from .stored import option

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
# What names call the number that follows.
_CHANNEL, _DEPTH = re.compile(r"(?:^|[^a-z])(c|ch|chan|channel|w|wavelength)[_\-= ]?$"), re.compile(
    r"(?:^|[^a-z])(z|slice|plane|section|depth)[_\-= ]?$"
)  # fmt: skip
_PARTING = ("_", "=", " ", ".", "(", "/")


@dataclass(frozen=True)
class Stack:
    """The slices of one stack in order, and of how many channels it is one."""

    paths: tuple[Path, ...]
    channels: int = 1


@dataclass(frozen=True)
class _Name:
    """A file name as texts and numbers in turn: texts has one more than numbers."""

    path: Path
    stem: str
    texts: tuple[str, ...]
    numbers: tuple[str, ...]


def natural(path: Path) -> list[Any]:
    """slice_9 before slice_10."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", str(path))]


def ordered(paths: Sequence[Path], called: str, spec: ImageSpec, name: str) -> Stack:
    """The slices in the order of their running number.

    Raises InputError, with what to type instead, for names with two running numbers, of several kinds, that jump.
    """
    names = _split(sorted(paths, key=natural))
    kinds = defaultdict(list)
    for each in names:
        kinds[each.texts].append(each)
    if len(kinds) == len(names):  # no running number
        return Stack(tuple(each.path for each in names))
    if len(kinds) > 1:
        shown = ", ".join(f"'{_glob(group)}' ({len(group)})" for group in list(kinds.values())[:4])
        most = max(kinds.values(), key=len)
        raise InputError(f"{called} holds slices of {len(kinds)} kinds: {shown}; give one, such as {_whole(most)}")
    running = [at for at in range(len(names[0].numbers)) if len({each.numbers[at] for each in names}) > 1]
    # Numbers that name each file by themselves: the others follow them (a time stamp, for instance).
    alone = [at for at in running if len({float(each.numbers[at]) for each in names}) == len(names)]
    if alone:
        depth = next((at for at in alone if _DEPTH.search(names[0].texts[at].lower())), alone[-1])
        return _one_run(names, next((at for at in (depth, *alone) if not _gaps(names, at)), depth), called)
    if not running:
        raise InputError(f"{called} holds one number twice: '{names[0].path.name}', '{names[1].path.name}'; remove one")
    if len(running) == 1:
        return _one_run(names, running[0], called)
    return _two_runs(names, running, called, spec, name)


def _one_run(names: list[_Name], at: int, called: str) -> Stack:
    in_order = sorted(names, key=lambda each: float(each.numbers[at]))
    for one, after in pairwise(in_order):
        if float(one.numbers[at]) == float(after.numbers[at]):
            raise InputError(f"{called} holds one number twice: '{one.path.name}', '{after.path.name}'; remove one")
    if gaps := _gaps(names, at):
        shown = ", ".join(gaps[:5]) + (", ..." if len(gaps) > 5 else "")
        raise InputError(
            f"{called}: slices are missing between '{in_order[0].path.name}' and '{in_order[-1].path.name}': number "
            f"{shown}; copy them there, or number the files without gaps"
        )
    return Stack(tuple(each.path for each in in_order))


def _gaps(names: list[_Name], at: int) -> list[str]:
    """The numbers that a run jumps over, by its smallest common step."""
    places = max(len(each.numbers[at].partition(".")[2]) for each in names)
    run = sorted({round(float(each.numbers[at]) * 10**places) for each in names})
    step = math.gcd(*(b - a for a, b in pairwise(run)))
    jumps = [(a + step, b - step) for a, b in pairwise(run) if b - a > step]

    def show(value: int) -> str:
        return f"{value / 10**places:.{places}f}"

    return [show(a) if a == b else f"{show(a)} to {show(b)}" for a, b in jumps]


def _two_runs(names: list[_Name], running: list[int], called: str, spec: ImageSpec, name: str) -> Stack:
    found = {at: sorted({each.numbers[at] for each in names}, key=float) for at in running}
    channel = [at for at in running if _CHANNEL.search(names[0].texts[at].lower())]
    depth = next((at for at in running if at not in channel and _DEPTH.search(names[0].texts[at].lower())), None)
    if depth is None:
        depth = max((at for at in running if at not in channel), key=lambda at: len(found[at]), default=running[-1])
    others = [at for at in running if at != depth]
    if len(others) == 1 and others == channel[:1]:
        values = found[channel[0]]
        if spec.channel is not None and spec.channel >= len(values):
            raise InputError(
                f"{called}: channel {spec.channel} is out of range; available: {len(values)} (0 to {len(values) - 1}), "
                f"pass {option(name, 'channel')}"
            )
        if spec.channel is not None:
            chosen = [each for each in names if each.numbers[channel[0]] == values[spec.channel]]
            return Stack(_one_run(chosen, depth, called).paths, len(values))
        remedy = f"pass {option(name, 'channel')} N (0 to {len(values) - 1}) or one of them as a glob, such as "
    else:
        remedy = "give one stack as a glob, such as "
    one = [each for each in names if all(each.numbers[at] == names[0].numbers[at] for at in others)]
    counts = " and ".join(f"{len(values)} ({values[0]} to {values[-1]})" for values in found.values())
    raise InputError(
        f"{called}: the names of its {len(names)} slices have {len(running)} running numbers, {counts}; "
        f"{remedy}{_whole(one)}"
    )


def _split(paths: Sequence[Path]) -> list[_Name]:
    """Names as texts and numbers; a sign belongs to its number where the names show that it is one.

    The folders that differ are part of the names.
    """
    root = os.path.commonpath([path.parent for path in paths])
    stems = {path: os.path.relpath(path.with_suffix(""), root) for path in paths}
    split = [_Name(path, stems[path], *_parts(_NUMBER.split(stems[path]))) for path in paths]
    if not _even(split):  # scan1.9, scan1.10: no decimals
        split = [_Name(path, stems[path], *_parts(re.split(r"(\d+)", stems[path]))) for path in paths]
    signed = [_Name(n.path, n.stem, *_signed(n)) for n in split]
    texts = {n.texts for n in split}
    found = len({n.texts for n in signed}) < len(texts) or _plus(signed, split) or _all_negative(signed)
    return signed if found else split


def _parts(split: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(text.lower() for text in split[::2]), tuple(split[1::2])


def _even(names: list[_Name]) -> bool:
    """Whether decimals have equally many places everywhere, so that they are decimals."""
    places = defaultdict(set)
    for each in names:
        for at, number in enumerate(each.numbers):
            places[at].add(len(number.partition(".")[2]))
    return all(len(found) == 1 for found in places.values())


def _signed(name: _Name) -> tuple[tuple[str, ...], tuple[str, ...]]:
    texts, numbers = list(name.texts), list(name.numbers)
    for at in range(len(numbers)):
        if texts[at][-1:] in ("-", "+") and not texts[at][:-1][-1:].isdigit():
            numbers[at] = texts[at][-1] + numbers[at]
            texts[at] = texts[at][:-1]
    return tuple(texts), tuple(numbers)


def _plus(signed: list[_Name], split: list[_Name]) -> bool:
    """Whether + and - both occur before numbers."""
    found = {number[0] for each in signed for number in each.numbers if number[0] in "+-"}
    return found == {"+", "-"}


def _all_negative(signed: list[_Name]) -> bool:
    """Whether the signs stand behind what parts words already (img_-9, z=-9), so that they part nothing."""
    numbers = [each.numbers[-1] for each in signed if each.numbers]
    return len(numbers) == len(signed) and all(
        number[0] == "-" and each.texts[len(each.numbers) - 1][-1:] in _PARTING
        for number, each in zip(numbers, signed, strict=True)
    )


def _glob(group: list[_Name]) -> str:
    """A pattern that matches the names of one kind: what runs is *."""
    first = group[0]
    varies = [len({each.numbers[at] for each in group}) > 1 for at in range(len(first.numbers))]
    stem, position = "", 0
    text = first.stem
    for at, number in enumerate(first.numbers):
        place = text.index(number.lstrip("+-"), position)
        start = place - (len(number) - len(number.lstrip("+-")))
        stem += text[position:start] + ("*" if varies[at] else number)
        position = place + len(number.lstrip("+-"))
    return stem + text[position:] + first.path.suffix


def _whole(group: list[_Name]) -> str:
    first = group[0]
    return f"'{str(first.path.with_suffix(''))[: -len(first.stem)]}{_glob(group)}'"
