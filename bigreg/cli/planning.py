"""What comes before a registration: a demonstration of one, and the plan of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Json, app, err, out, print_json, show_figures, show_verdict
from .options import (
    AffineOnly,
    ClusterName,
    ConfigFile,
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
    Set,
    Triple,
    Workers,
    channel_overrides,
    config_of,
    images_of,
    masks_of,
    overrides_of,
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
    settings = quick_settings(settings, images) if quick else settings
    found = chosen_rates(settings, rates or [], calibrate, output, images[0], say=_say if calibrate else None)
    show_plan(images[0], images[1], settings, found, output=output, numbers=numbers, stages=stages, as_json=as_json)
    if save_rates is not None:
        found[0].save(save_rates)


def quick_settings(settings: Any, images: list[Any]) -> Any:
    """The configuration of a quick run of these images; what it leaves out is told."""
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


def show_plan(
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
