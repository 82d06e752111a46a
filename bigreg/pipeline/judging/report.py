"""Task: the report page of a run, from a display-sized view of its images and the figures of its blocks."""

from __future__ import annotations

import time

import numpy as np
import yaml

from ... import storage
from ...errors import InputError
from ...geometry import Grid, Shape
from ...quality.confidence import said
from ...quality.evaluation import Evaluation, read_evaluation
from ...quality.figures import overlay, overlay_slice, stretched
from ...quality.metrics import central_jacobian
from ...quality.report import Figure, Picture, ReportData, Section, Table, write_report
from ...transforms.positions import Positions
from ..context import starts
from ..context.channels import preprocess_of, side
from ..context.context import Context, field_reader
from ..store.store import DEVICES, EVALUATION, FOUND, Status
from ..tasks.fields import field_grids
from . import confidence, noncorrespondence, risk_and_sigma, torn
from .figures import figures
from .likeness import display_levels, views
from .status import CHOICE, unmatched_share
from .verdict import outcome_of

BLOCK_METRICS = ("similarity_before", "similarity_after", "seconds")


def collect(context: Context) -> ReportData:
    """Everything the page shows."""
    shown = views(context)
    grid, inside = shown.grid, shown.inside["after"]
    here = Positions.of_grid(grid)
    field = context.array("transforms", "fixed_to_moving", "0")
    displacement = here.sample(field_reader(field), field_grids(context, "fixed_to_moving")[0]).numpy()

    rows = figures(context)
    outcome = outcome_of(context, rows=rows)
    evaluation = read_evaluation(context.store.path(EVALUATION))
    if evaluation is not None:
        own = {(group, name) for group, name, *_ in rows}
        rows += [row for row in evaluation.figures if row[:2] not in own]
    # A map of few blocks says less than the table does.
    mapped = [k for k, level in sorted(context.levels.items(), reverse=True) if k == 0 or len(level.blocks) >= 8]
    identities = context.attributes["identities"]
    return ReportData(
        names=(_name(identities["fixed"]), _name(identities["moving"])),
        spacing_um=grid.spacing,
        fixed=shown.fixed,
        moving_before=shown.moving["before"],
        moving_affine=shown.moving["affine"],
        warped=shown.moving["after"],
        displacement=displacement,
        jacobian=np.asarray(central_jacobian(displacement, grid.spacing)),
        inside=inside,
        outcome=outcome,
        figures=[Figure(g, n, float(v), u, note) for g, n, v, u, note in rows],
        blocks={f"level {index}": _blocks(context, index) for index in mapped},
        risk=shown_risk(context, grid),
        large=said(confidence.threshold_um(context)),
        tables=[] if evaluation is None else _tables(evaluation),
        config=yaml.safe_dump(context.attributes["config"], sort_keys=False),
        versions={**context.attributes["versions"], **_made(context)},
        inputs=[f"{w}: {_name(identities[w])}, {context.volumes[w].understood['line']}" for w in context.volumes],
        more=[
            *_choice(context),
            _start(context),
            *_pairs(context),
            *_sigma(context),
            *_unmatched(context, shown.fixed, grid),
            *torn.sections(context, shown),
        ]
        + [
            _corrected(context, w, display_levels(context)[side(w)])
            for w in context.images
            if preprocess_of(context.config, w).any
        ],
    )


def _made(context: Context) -> dict[str, str]:
    """When the run was begun, and on what it was computed."""
    begun = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(context.attributes["created"]))
    devices = ", ".join(context.attributes.get(DEVICES, []))
    return {"begun": begun, **({"computed on": devices} if devices else {})}


def _choice(context: Context) -> list[Section]:
    """How the preset was chosen, where its user named none."""
    choice = context.attributes.get(CHOICE)
    return [] if choice is None else [Section("The preset", f"{choice['line'].capitalize()}.", ())]


def _start(context: Context) -> Section:
    """How sure the global start is, and the best few that were tried."""
    found = starts.starts_of(context.store)
    if found is None:
        how = "was given as it is" if context.given is not None else "was not searched: the images share one world"
        return Section("The start", f"The affine {how}.", ())
    text = f"The start: {found.text}. Confidence: estimated probability that the best start is right."
    pictures = []
    if found.picture is not None:
        png = storage.read_file(context.store.path(starts.PLACE), starts.PICTURE)
        assert png is not None, "it is kept with the starts"
        alt = "; ".join(c.text for c in found.candidates[: starts.SHOWN])
        pictures = [Picture("starts", "The best starts, before refinement by the levels.", f"Overlays: {alt}", png)]
    return Section("The start", text, tuple(pictures))


def _pairs(context: Context) -> list[Section]:
    """What came of looking for pairs of points, where that was asked for."""
    found = context.attributes.get(FOUND)
    if found is None:
        return []
    line = f"{found['line'][0].upper()}{found['line'][1:]}."
    return [Section("Pairs of points that the run found", line, ())]


def _sigma(context: Context) -> list[Section]:
    """Whether the risk and sigma say the same."""
    compared = risk_and_sigma.told(context)
    if compared is None:
        return []
    text = (
        f"{compared[1]} The risk is the probability that a place was matched to a wrong structure; sigma is the error "
        "that noise leaves where the right one was matched. A tile is doubtful if either says so."
    )
    return [Section("Risk and sigma", text, ())]


def _unmatched(context: Context, image: np.ndarray, grid: Grid) -> list[Section]:
    """What has no counterpart: how much, and where; or why that is not known."""
    title = "What has no counterpart"
    try:
        noncorrespondence.require_sought(context)
    except InputError as error:
        reason = str(error).partition(": ")[2]
        return [Section(title, f"It was not looked for: {reason}.", ())] if context.config.deformation else []
    share = unmatched_share(context.store)
    if not np.isfinite(share):
        return []
    text = (
        f"{share:.2%} of the overlap of the images has no counterpart: one image has a hole, a bubble or missing "
        "tissue there, or the map is wrong. These voxels were left out when the map was estimated; inside them the map "
        "is interpolated from their surroundings. The mask is the image noncorrespondence of the run."
    )
    if not share:
        return [Section(title, "Everything in the overlap has a counterpart in the other image.", ())]
    found = noncorrespondence.on_grid(context, grid)
    grey = stretched(image)
    z = int(found.sum((1, 2)).argmax())
    png = overlay_slice(np.maximum(grey, 0.6 * found), grey * (1 - found), grid.spacing, z)
    caption = "Magenta: without a counterpart, over the fixed image, in the plane with most of it"
    return [Section(title, text, (Picture("noncorrespondence", caption, "The mask over fixed, one plane", png),))]


def _corrected(context: Context, which: str, factors: Shape) -> Section:
    """An image as it is stored, and as engines saw it."""
    settings = preprocess_of(context.config, which)
    done = ", ".join(f"{k} {v}" for k, v in settings.model_dump(exclude_none=True, exclude_defaults=True).items())
    pictures = []
    for key, title, image in (
        ("stored", "As stored", context.image(which, factors)),
        ("seen", "As compared", context.seen(which, factors)),
    ):
        grey = stretched(image.read((0, 0, 0), image.grid.shape))
        png = overlay(grey, grey, image.grid.spacing)
        pictures.append(Picture(f"preprocess_{which}_{key}", title, f"{which}, {title.lower()}, three planes", png))
    return Section(
        f"Preprocessing, {which}", f"Corrections affect the registration only, not the output: {done}.", tuple(pictures)
    )


def shown_risk(context: Context, grid: Grid) -> np.ndarray | None:
    """The risk at the voxels of a display grid; None in a run of before it was kept."""
    url = context.store.path(confidence.PLACE, "0")
    if not storage.exists(url):
        return None
    array, tiles = storage.open_array(url), confidence.tiles_of(context)
    along = tiles.inverse @ grid.affine  # both have the fixed image's axes
    z, y, x = (
        np.clip(np.rint(along[a, a] * np.arange(grid.shape[a]) + along[a, 3]).astype(int), 0, tiles.shape[a] - 1)
        for a in range(3)
    )
    out = np.full(grid.shape, np.nan, np.float32)
    for low in range(0, tiles.shape[0], confidence.CORE):
        high = min(low + confidence.CORE, tiles.shape[0])
        planes = np.flatnonzero((z >= low) & (z < high))
        if len(planes):
            layer = array.read((low, 0, 0), (high, *tiles.shape[1:]))
            out[planes] = layer[np.ix_(z[planes] - low, y, x)]
    return out


SHOWN_ROWS = 25


def _tables(evaluation: Evaluation) -> list[Table]:
    """The worst rows of what was measured; the rest is in the files beside."""
    tables = []
    for name, by, worst_is_high in (
        ("landmarks", "error_after", True),
        ("labels", "dice", False),
        ("regions", "", False),
    ):
        rows = list(getattr(evaluation, name))
        if not rows:
            continue
        text = f"{len(rows)} {name}; all of them are in evaluation/{name}.csv."
        if by:
            rows.sort(key=lambda r: np.nan_to_num(r[by], nan=0.0), reverse=worst_is_high)
            text += f" The worst {min(len(rows), SHOWN_ROWS)} by {by.replace('_', ' ')}:"
        else:
            rows.sort(key=lambda r: -np.nan_to_num(r.get("voxels", 0.0)))
            text += f" The largest {min(len(rows), SHOWN_ROWS)}:"
        columns = [c.replace("_", " ") for c in rows[0]]
        tables.append(Table(name.capitalize(), text, columns, [list(r.values()) for r in rows[:SHOWN_ROWS]]))
    return tables


def _name(identity: dict) -> str:
    path = identity["path"] or "array"
    name = path.rstrip("/").rsplit("/", 1)[-1]
    return f"{name}/{identity['dataset']}" if identity["dataset"] else name


def _blocks(context: Context, index: int) -> dict[str, np.ndarray]:
    place = f"levels/{index}"
    read = lambda name: context.store.array(place, name)[...]  # noqa: E731
    return {
        "status": read("status"),
        **{name: read(f"metrics/{name}") for name in BLOCK_METRICS},
        "disagreement": read("stitch/metrics/disagreement"),
        "max_displacement": read("compose/0/metrics/max_displacement"),
        "min_jacobian": read("compose/0/metrics/min_jacobian"),
    }


def write_page(context: Context, data: ReportData) -> str:
    """Write the page into the run; returns its path."""
    folder = context.store.path("report")
    write_report(data, folder)
    return storage.join(folder, "index.html")


def write(context: Context, index: Shape) -> tuple[Status, dict[str, float]]:
    write_page(context, collect(context))
    return Status.DONE, {}
