"""The starts that a run has tried, whether the best of them may be believed, and what a person chose instead.

The task that finds the affine writes them: as attributes of the group `affine`, as a picture and as a small JSON beside
it. After it a start of little confidence ends the run before the hours are spent, unless a person has accepted one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import storage
from ...errors import InputError, OutputError, StartError, named
from ...geometry import Grid
from ...transforms.affine import angle_deg, apply_affine, polar_rotation
from ..store.store import RunStore
from .frames import Frames

PLACE = "starts"
PICTURE, LISTED = "starts.png", "starts.json"
SHOWN = 3
ACCEPTED = "accepted_start"


@dataclass(frozen=True, eq=False)
class StartCandidate:
    """A start that was followed. `matrix`: fixed world to moving world (4 x 4, um zyx).

    number                       from 1, the best; what --accept-start takes
    correlation, overlap         on the small copies of the images; overlap is a share of the smaller one
    similarity                   1 - mean loss of the similarity that is optimised
    mirrored, mirror_axis        whether it is a reflection of how the images lie, and along which axis of fixed
    turn_deg, shift_um (z, y, x) how far it turns the images, and moves the middle of fixed, from how they lie
    """

    number: int
    name: str
    matrix: np.ndarray
    correlation: float
    overlap: float
    similarity: float
    mirrored: bool
    mirror_axis: str | None
    turn_deg: float
    shift_um: tuple[float, float, float]

    @property
    def lines(self) -> list[str]:
        """What a person is told, in short lines."""
        shift = ", ".join(f"{s / 1000 + 0.0:.3g}" for s in np.round(self.shift_um, 1))
        mirror = [f"mirrored along {self.mirror_axis}"] if self.mirrored else []
        return [
            f"{self.number}. {self.name}", *mirror, f"turn {self.turn_deg:.0f} degrees", f"shift {shift} mm (z, y, x)",
            f"overlap {self.overlap:.0%}", f"correlation {self.correlation:.2f}",
        ]  # fmt: skip

    @property
    def text(self) -> str:
        first, *rest = self.lines
        return f"{first}: {', '.join(rest)}"


def told(candidate: Mapping[str, Any], number: int, frames: Frames) -> dict[str, Any]:
    """A candidate as it is kept: `candidate` has `matrix` between the worlds, `frames` say how the images lie."""
    matrix = np.asarray(candidate["matrix"])
    moved = np.linalg.solve(frames.before, matrix)
    centre = np.mean(frames.fixed.bounds(), axis=0)
    turn, axis = polar_rotation(moved), None
    if np.linalg.det(turn) < 0:  # of the three mirrors the one that leaves the least to turn
        flips = {name: turn @ np.diag(1.0 - 2.0 * np.eye(3)[a]) for a, name in enumerate("zyx")}
        axis = min(flips, key=lambda name: angle_deg(flips[name]))
        turn = flips[axis]
    return {
        "number": number,
        "name": candidate["name"],
        "matrix": matrix.tolist(),
        **{k: float(candidate[k]) for k in ("correlation", "overlap", "similarity")},
        "mirrored": axis is not None,
        "mirror_axis": axis,
        "turn_deg": angle_deg(turn),
        "shift_um": (apply_affine(moved, centre) - centre).tolist(),
    }


def write(store: RunStore, details: Mapping[str, Any], images: Sequence[np.ndarray], grids: Sequence[Grid]) -> None:
    """Keep a picture of the best starts and a list of all; `images` are the small copies (z, y, x) of both images."""
    title = f"The start: confidence {details['confidence']:.0%}"
    png = drawn(title, images, grids, [(c.lines, c.matrix) for c in candidates_of(details)[:SHOWN]])
    store.groups(PLACE)
    storage.write_file(store.path(PLACE), PICTURE, png)
    storage.write_file(store.path(PLACE), LISTED, json.dumps(details, indent=1).encode())


def drawn(
    title: str, images: Sequence[np.ndarray], grids: Sequence[Grid], maps: Sequence[tuple[Sequence[str], np.ndarray]]
) -> bytes:
    """A PNG of small copies of fixed and moving (z, y, x) under maps (fixed world to moving world), each with lines."""
    from ...quality.starts import Row, starts_picture
    from ...transforms.positions import Positions

    def read(start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        return images[1][tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]

    rows = []
    for lines, matrix in maps:
        there = Positions.of_grid(grids[0]).through(matrix)
        inside = there.inside(grids[1])
        seen = there.sample(read, grids[1])[0] if bool(inside.any()) else inside
        rows.append(Row(lines, seen.numpy().astype(np.float32), inside.numpy()))
    return starts_picture(title, images[0], grids[0].spacing, rows)


# -------------------------------------------------------------------------------------------------------- as it is kept


@dataclass(frozen=True, eq=False)
class Starts:
    """What is known of the start of a run once its affine is.

    confidence   the probability that the best is right; None in a run of before it was estimated
    accepted     the number that a person chose; None: nobody did
    given        whether the start was given, not searched
    """

    candidates: tuple[StartCandidate, ...]
    confidence: float | None
    accepted: int | None
    given: bool
    least: float
    warnings: tuple[str, ...]
    picture: str | None

    @property
    def doubtful(self) -> bool:
        """Whether a person has to look before the run goes on."""
        asked = self.given or self.accepted is not None
        return self.confidence is not None and self.confidence < self.least and not asked

    @property
    def text(self) -> str:
        """One line."""
        known = "not estimated" if self.confidence is None else f"{self.confidence:.0%}"
        if self.given:
            return f"given by the user, its confidence {known}"
        if self.accepted is not None:
            return f"number {self.accepted}, accepted by the user (confidence of the best: {known})"
        doubt = f", below affine.least_confidence {self.least:.0%}" if self.doubtful else ""
        return f"confidence {known}{doubt}"

    @property
    def lines(self) -> tuple[str, ...]:
        """What is told wherever a run is looked at: the best few where it is doubtful, warnings, the picture."""
        best = [c.text for c in self.candidates[:SHOWN]] if self.doubtful else []
        picture = [f"drawn in {self.picture}"] if self.picture else []
        return (self.text, *best, *(f"warning: {w}" for w in self.warnings), *picture)


def starts_of(store: RunStore) -> Starts | None:
    """None before the affine is known, and where there was nothing to choose from."""
    if not storage.exists(store.path("affine")):
        return None
    details = storage.read_attributes(store.path("affine")).get("bigreg", {}).get("details")
    if details is None:
        return None
    attributes = store.attributes
    url = store.path(PLACE, PICTURE)
    return Starts(
        candidates_of(details),
        details.get("confidence"),
        attributes.get(ACCEPTED),
        attributes.get("start") is not None,
        attributes["config"].get("affine", {}).get("least_confidence", 0.0),
        tuple(details.get("warnings", ())),
        url if storage.exists(url) else None,
    )


def candidates_of(details: Mapping[str, Any]) -> tuple[StartCandidate, ...]:
    """The candidates of the attributes; none of a run of before their maps were kept."""
    return tuple(
        StartCandidate(**{**c, "matrix": np.asarray(c["matrix"]), "shift_um": tuple(c["shift_um"])})
        for c in details.get("candidates", ())
        if isinstance(c, dict)
    )


def frames_from(candidate: StartCandidate, frames: Frames) -> Frames:
    """The frames of a run that goes on from a candidate; `frames` are those of the best."""
    affine = np.linalg.solve(frames.before, candidate.matrix)
    return Frames.from_affine(frames.fixed, frames.moving, frames.before, affine)


def levels_began(store: RunStore) -> bool:
    """Whether anything is there that was made with the affine of the run."""
    return any(name != "zarr.json" for place in ("levels", "landmarks/found") for name in _children(store, place))


def _children(store: RunStore, place: str) -> list[str]:
    url = store.path(*place.split("/"))
    return storage.children(url) if storage.exists(url) else []


def require_acceptable(store: RunStore, number: int) -> StartCandidate | None:
    """The candidate that is to be accepted; None before the affine is known.

    Raises InputError where there is no such start, or it mirrors and that is not allowed; OutputError where the run has
    gone on from another one.
    """
    if number < 1:
        raise InputError(f"start {number} does not exist: they are numbered from 1")
    if "frames" not in store.attributes:
        return None
    found = starts_of(store)
    if found is None or not found.candidates:
        raise InputError(
            f"start {number} does not exist: '{store.url}' has searched none; leave "
            f"{named('--accept-start', 'accept_start')} out"
        )
    if number > len(found.candidates):
        last = len(found.candidates)
        raise InputError(f"start {number} does not exist: '{store.url}' has starts 1 to {last}; see {found.picture}")
    if found.candidates[number - 1].mirrored and not store.attributes["config"]["affine"].get("allow_mirror"):
        raise InputError(
            f"start {number} is a mirror image; register into another run with "
            f"{named('--allow-mirror', 'affine.allow_mirror=true')} if one of them is stored mirrored"
        )
    if number != (found.accepted or 1) and levels_began(store):
        raise OutputError(
            f"'{store.url}' has continued from start {found.accepted or 1}, so start {number} comes too late; register "
            f"into another run with {named('--accept-start ', 'accept_start=')}{number}, or continue with {store.again}"
        )
    return found.candidates[number - 1]


def require_believable(store: RunStore) -> None:
    """Raise StartError where the start is doubtful and nobody has accepted one."""
    found = starts_of(store)
    if found is None or not found.doubtful:
        return
    best = "\n".join(f"  {c.text}" for c in found.candidates[:SHOWN])
    which = f"The best {min(SHOWN, len(found.candidates))} of {len(found.candidates)} starts:"
    warned = "".join(f"\nwarning: {w}" for w in found.warnings)
    again = named(f"{store.again[:-1]} --accept-start N`", f"bigreg.open_run('{store.url}').resume(accept_start=N)")
    orientations = named("--fixed-orientation, --moving-orientation", "open_volume's orientation")
    pairs = named("--start pairs.csv; --landmarks pairs.csv", "affine.start=pairs.csv; landmarks.path=pairs.csv")
    raise StartError(
        f"the start is doubtful: its confidence is {found.confidence:.0%}, affine.least_confidence {found.least:.0%}. "
        f"{which}\n{best}{warned}\n"
        f"They are drawn in {found.picture}\n"
        f"Where one of them is right: {again}. Where none is, register into another run "
        f"and state the orientation ({orientations}), or give three or more pairs of "
        f"landmarks ({pairs} steers the levels too). "
        f"{named('--set ', '')}affine.least_confidence=0 never asks"
    )
