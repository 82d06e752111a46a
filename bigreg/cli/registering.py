"""The verbs that make a run: from an image to a finished one, and what is told of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Json, app, err, out, print_json, show_figures, show_verdict
from .options import (
    AcceptFailed,
    AcceptStart,
    AffineOnly,
    AllowDeviceChange,
    ClusterName,
    ConfigFile,
    FailOn,
    Fixed,
    FixedChannel,
    FixedDataset,
    FixedLabels,
    FixedMask,
    FixedOrientation,
    FixedOrigin,
    FixedSpacing,
    FixedTime,
    LabelsWeight,
    Memory,
    Moving,
    MovingChannel,
    MovingDataset,
    MovingLabels,
    MovingMask,
    MovingOrientation,
    MovingOrigin,
    MovingSpacing,
    MovingTime,
    Preset,
    Quick,
    RunStore,
    Set,
    Triple,
    Workers,
    channel_overrides,
    config_of,
    images_of,
    masks_of,
    overrides_of,
    require_run,
    tell,
)


@app.command(rich_help_panel="Register")
def demo(
    out_dir: Annotated[Path, typer.Option("--out", help="New folder for everything.")] = Path("bigreg-demo"),
    as_json: Json = False,
) -> None:
    """Register a synthetic cleared brain with a known deformation, and show the errors."""
    from ..demo import run_demo
    from ..display import Display, pairs

    with Display(out) as display:
        result = run_demo(str(out_dir), progress=display)
    if as_json:
        show_figures(result.figures, as_json, run=result.run.url, ok=result.ok, verdict=result.run.verdict)
    else:
        out.print(pairs(result.rows), soft_wrap=True)
        show_verdict(result.run.verdict)
    if not result.ok:
        err.print("the demo result is worse than expected; please report it with the figures above", style="red")
        raise typer.Exit(1)


Shape = tuple[int, int, int]
PlanFixed = Annotated[
    str | None, typer.Argument(metavar="[FIXED]", help="The fixed image; results are shown in its space. Path or URL.")
]
PlanMoving = Annotated[
    str | None, typer.Argument(metavar="[MOVING]", help="The moving image, which is brought onto it. Path or URL.")
]


def unmade(flag: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=text, metavar=metavar, rich_help_panel="Hypothetical images")


@app.command(rich_help_panel="Register")
def plan(
    fixed: PlanFixed = None, moving: PlanMoving = None,
    preset: Preset = None, config: ConfigFile = None, set_: Set = None,
    affine_only: AffineOnly = False, quick: Quick = False,
    shape: Annotated[Shape | None, unmade("--shape", "Voxels, in place of FIXED and MOVING.", "Z Y X")] = None,
    spacing: Annotated[Triple | None, unmade("--spacing", "Voxel size in µm.", "Z Y X")] = None,
    dtype: Annotated[str | None, unmade("--dtype", "Voxel type; default uint16.")] = None,
    moving_shape: Annotated[Shape | None, unmade("--moving-shape", "As --shape if not given.", "Z Y X")] = None,
    pyramid: Annotated[bool, unmade("--pyramid", "They have a pyramid, as `bigreg convert` writes it.")] = False,
    output: Annotated[
        str | None, typer.Option("--out", metavar="RUN", help="Planned location; its free space is checked.")
    ] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure this machine first; keep the rates.")] = False,
    rates: Annotated[
        list[str] | None, typer.Option(metavar="FILE|KEY=VALUE", help="Rates of another machine, such as step=0.002.")
    ] = None,
    save_rates: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rates used to FILE.")] = None,
    simulate: Annotated[
        list[str] | None, typer.Option(metavar="N[,N...]", help="Simulate the run on N workers.")
    ] = None,
    stages: Annotated[bool, typer.Option("--stages", help="Show all stages, including small ones.")] = False,
    cluster: ClusterName = None, workers: Workers = None, memory_limit: Memory = None,
    fixed_mask: FixedMask = None, moving_mask: MovingMask = None,
    fixed_dataset: FixedDataset = None, fixed_channel: FixedChannel = None, fixed_time: FixedTime = None,
    fixed_spacing: FixedSpacing = None, fixed_origin: FixedOrigin = None, fixed_orientation: FixedOrientation = None,
    moving_dataset: MovingDataset = None, moving_channel: MovingChannel = None, moving_time: MovingTime = None,
    moving_spacing: MovingSpacing = None, moving_origin: MovingOrigin = None,
    moving_orientation: MovingOrientation = None,
    fixed_labels: FixedLabels = None, moving_labels: MovingLabels = None, labels_weight: LabelsWeight = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Show what a registration would do and cost: stages, memory, bytes, disk, files, time; also for future images.

    Times come from rates: measured on this machine (--calibrate), given (--rates), or built-in.
    """
    options = locals()
    images = _planned_images(options)  # what is wrong with these is told before all that takes seconds to import
    from ..config import load_config
    from ..pipeline.calibrate import chosen_rates
    from ..pipeline.planning import plan as planning

    numbers = planning.numbers_of_workers(simulate or [])
    set_ = [*masks_of(fixed_mask, moving_mask), *(set_ or [])]
    if affine_only:
        set_ = [*(set_ or []), "deformation=false"]
    overrides = overrides_of(set_, workers, memory_limit)
    if fixed is not None:
        known = load_config(config, preset=preset, cluster=cluster, overrides=overrides)
        overrides += channel_overrides(images, options, known)
    settings, _ = config_of(images, preset, config, cluster, overrides, output)
    settings = _quick(settings, images) if quick else settings
    found = chosen_rates(settings, rates or [], calibrate, output, images[0], say=_say if calibrate else None)
    _show_plan(images[0], images[1], settings, found, output=output, numbers=numbers, stages=stages, as_json=as_json)
    if save_rates is not None:
        found[0].save(save_rates)


def _quick(settings: Any, images: list[Any]) -> Any:
    from ..pipeline.context.ladder import quick

    settings = quick(settings, [image.grid() for image in images])
    err.print(f"quick: ladder.finest={settings.ladder.finest}, no warped image", soft_wrap=True)
    return settings


def _say(text: str) -> None:
    err.print(f"measuring: {text}")


def _planned_images(given: dict[str, Any]) -> list[Any]:
    """Both images of a plan: opened, or described."""
    from ..errors import InputError

    own = {name: given[name] for name in ("shape", "spacing", "dtype", "moving_shape")}
    own["pyramid"] = given["pyramid"] or None
    used = ", ".join(f"--{k.replace('_', '-')}" for k, v in own.items() if v is not None)
    if given["fixed"] is None:
        wrong = [
            f"--{k.replace('_', '-')}" for k, v in given.items()
            if k.startswith(("fixed_", "moving_")) and k not in ("moving_shape", "moving_spacing") and v is not None
        ]  # fmt: skip
        if wrong:
            raise InputError(f"{', '.join(wrong)} describes images, and none are given; give FIXED and MOVING")
        from ..volumes.described import described

        return described(**own, moving_spacing=given["moving_spacing"])
    if given["moving"] is None:
        number = "; write numbers of workers as --simulate 8,64" if given["fixed"].isdigit() else ""
        raise InputError(f"only one image is given ('{given['fixed']}'); give FIXED and MOVING{number}")
    if used:
        raise InputError(
            f"{used} is given together with FIXED '{given['fixed']}'; leave it out, or leave the images out"
            + (" (an image's own spacing is --fixed-spacing)" if own["spacing"] is not None else "")
        )
    images = images_of(given["fixed"], given["moving"], given)
    tell(images)
    return images


def _show_plan(
    fixed: Any, moving: Any, config: Any, known: Any = None, *, output: str | None = None, numbers: Any = (),
    stages: bool = False, as_json: bool = False,
) -> None:  # fmt: skip
    from ..display import pairs, simulation_table, stages_table
    from ..pipeline.planning import plan as planning
    from ..pipeline.planning.rates import known_rates

    rates, remark = known or known_rates(config)
    made = planning.plan(fixed, moving, config=config, rates=rates, remark=remark)
    simulations = [made.simulate(n) for n in numbers]
    if as_json:
        print_json(**made.to_json(), simulations=[dataclasses.asdict(s) for s in simulations])
        return
    out.print(stages_table(made, everything=stages))
    out.print(pairs([*made.rows(), *made.place_rows(output)]), soft_wrap=True)
    if numbers:
        out.print(simulation_table(simulations))


@app.command(rich_help_panel="Register")
def register(
    fixed: Fixed, moving: Moving, run: RunStore, preset: Preset = None, config: ConfigFile = None, set_: Set = None,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|RUN",
            help="Replaces the search: an affine (ITK .txt .mat .h5; .csv: 4 x 4 from fixed to moving, z y x µm), "
            "which is refined; landmarks (.csv: BigWarp, or fixed_z ... moving_x), 3 for rigid, 4 for an affine start; "
            "or a run between the same two spaces: its affine is kept, its deformation is refined on levels as fine.",
        ),
    ] = None,
    landmarks: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Landmark pairs that guide it: .csv (BigWarp; or fixed_z ... moving_x, µm); auto: finds them.",
        ),
    ] = None,
    affine_only: AffineOnly = False, quick: Quick = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the plan; write nothing.")] = False,
    cluster: ClusterName = None, workers: Workers = None, memory_limit: Memory = None,
    accept_failed: AcceptFailed = False, accept_start: AcceptStart = None, fail_on: FailOn = None,
    allow_device_change: AllowDeviceChange = False,
    allow_mirror: Annotated[
        bool, typer.Option("--allow-mirror", help="The images may be mirror images of each other.")
    ] = False,
    fixed_mask: FixedMask = None, moving_mask: MovingMask = None,
    fixed_dataset: FixedDataset = None, fixed_channel: FixedChannel = None, fixed_time: FixedTime = None,
    fixed_spacing: FixedSpacing = None, fixed_origin: FixedOrigin = None, fixed_orientation: FixedOrientation = None,
    moving_dataset: MovingDataset = None, moving_channel: MovingChannel = None, moving_time: MovingTime = None,
    moving_spacing: MovingSpacing = None, moving_origin: MovingOrigin = None,
    moving_orientation: MovingOrientation = None,
    fixed_labels: FixedLabels = None, moving_labels: MovingLabels = None, labels_weight: LabelsWeight = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Register MOVING to FIXED into the run store RUN; the same command again resumes after an interruption."""
    from ..config import load_config

    options = locals()
    set_ = [*masks_of(fixed_mask, moving_mask), *(set_ or [])]
    if start is not None:
        set_ = [*(set_ or []), f"affine.start={json.dumps(start)}"]
    if landmarks is not None:
        set_ = [*(set_ or []), f"landmarks.path={json.dumps(landmarks)}"]
    if affine_only:
        set_ = [*(set_ or []), "deformation=false"]
    if allow_mirror:
        set_ = [*(set_ or []), "affine.allow_mirror=true"]
    overrides = overrides_of(set_, workers, memory_limit)
    known = load_config(config, preset=preset, cluster=cluster, overrides=overrides)  # first: what is misspelt is told
    images = images_of(fixed, moving, options)
    overrides += channel_overrides(images, options, known)
    tell(images)
    settings, choice = config_of(images, preset, config, cluster, overrides, run)
    settings = _quick(settings, images) if quick else settings
    if dry_run:
        _show_plan(images[0], images[1], settings, as_json=as_json)
        return
    from ..display import Display
    from ..pipeline.run import register as begin

    finished = _is_finished(run)
    with Display(out, run) as display:
        done = begin(
            *images, out=run, config=settings, progress=display, accept_failed=accept_failed, accept_start=accept_start,
            allow_device_change=allow_device_change, choice=choice,
        )  # fmt: skip
    if finished:
        _say_finished(run)
    _show_summary(done, fail_on, as_json)


def _is_finished(run: str) -> bool:
    from .. import storage
    from ..pipeline.store.store import RunStore, is_run

    return storage.exists(run) and is_run(run) and bool(RunStore(run).attributes["state"] == "finished")


def _say_finished(run: str) -> None:
    out.print(f"'{run}' is finished already; its figures:", soft_wrap=True)


def _show_summary(run: Any, fail_on: str | None, as_json: bool) -> None:
    """The figures, then the verdict as the last lines. Raises VerdictError where the verdict is one to fail on."""
    place, verdict = run.store.path("report", "index.html"), run.verdict
    if run.config.output.report:
        told = place
    else:
        told = None if as_json else f"not written (output.report: false); `bigreg report {run.url}`"
    where = {"run": run.url} if as_json else {}
    show_figures(run.summary(), as_json, **where, report=told, verdict=verdict)
    if not as_json:
        for note in run.status().notes:
            err.print(note, soft_wrap=True)
    if fail_on is not None:
        verdict.require(fail_on)


@app.command(rich_help_panel="Register")
def resume(
    run: RunStore, cluster: ClusterName = None, workers: Workers = None, memory_limit: Memory = None,
    accept_failed: AcceptFailed = False, accept_start: AcceptStart = None, fail_on: FailOn = None,
    allow_device_change: AllowDeviceChange = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Resume an interrupted run, here or on another cluster; the result is bit-identical."""
    require_run(run)
    from ..display import Display
    from ..pipeline.run import open_run

    if _is_finished(run):
        _say_finished(run)
    with Display(out, run) as display:
        done = open_run(run).resume(
            cluster=cluster, workers=workers, memory_limit=memory_limit, progress=display, accept_failed=accept_failed,
            accept_start=accept_start, allow_device_change=allow_device_change,
        )  # fmt: skip
    _show_summary(done, fail_on, as_json)


@app.command(rich_help_panel="Register")
def stop(run: RunStore) -> None:
    """Stop a running registration, on this machine or another. Completed blocks are kept; see `resume`."""
    require_run(run)
    from ..pipeline.run import open_run

    holder = open_run(run).request_stop()
    out.print(f"process {holder.get('process')} on {holder.get('host')} will stop within seconds", soft_wrap=True)


@app.command(rich_help_panel="Register")
def status(
    run: RunStore,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until it has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Show the progress of a run, from any terminal that sees its files, and its verdict once it is finished."""
    require_run(run)
    import time

    from rich.live import Live

    from ..display import status_table
    from ..pipeline.judging.status import status_of
    from ..pipeline.store.lock import at_work
    from ..pipeline.store.store import RunStore

    opened = RunStore(run)
    state = status_of(opened)
    with Live(console=out, transient=True) as live:
        while watch and state.state in ("planned", "running"):
            live.update(status_table(state))
            time.sleep(1.0)
            state = status_of(opened)
    holder = at_work(run)
    if as_json:
        print_json(run=run, **state.to_json(), held_by=holder)
        return
    for name, known in state.images.items():
        out.print(f"{name}: {known['line']}", soft_wrap=True, highlight=False)
    if state.choice is not None:
        out.print(state.choice["line"], soft_wrap=True)
    if state.pairs is not None:
        out.print(state.pairs["line"], soft_wrap=True)
    out.print(status_table(state))
    if holder is not None:
        workers = f" with {state.workers} worker{'s' * (state.workers != 1)}" if state.workers else ""
        out.print(f"process {holder.get('process')} on {holder.get('host')} works on it{workers}", soft_wrap=True)
    elif state.state == "running":
        out.print(f"it is not running; continue with `bigreg resume {run}`", soft_wrap=True)
    for note in state.notes:
        out.print(note, soft_wrap=True)
    for number, line in enumerate(state.start):
        out.print("       " * (number > 0) + "start: " * (number == 0) + line, soft_wrap=True)
    for error in state.errors:
        err.print(error, style="red", soft_wrap=True)
    if state.verdict is not None:
        show_verdict(state.verdict)
