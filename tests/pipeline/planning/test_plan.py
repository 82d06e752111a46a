"""What a plan foresees is what a run then does and stores; and plans of images that need not exist."""

from __future__ import annotations

import dataclasses
import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bigreg import Rates, VolumeDescription, load_config, plan
from bigreg import __version__ as version
from bigreg.cli import app
from bigreg.errors import ConfigError, InputError
from bigreg.pipeline.calibrate import calibrate
from bigreg.pipeline.planning import rates as rates_module
from bigreg.pipeline.planning.plan import make_plan, numbers_of_workers
from bigreg.volumes import convert, open_volume

BIG = {"shape": (10000, 8000, 8000), "spacing": (2, 2, 2), "dtype": "uint16"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No calibration of this machine's user, and none left behind."""
    monkeypatch.setattr(rates_module, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture(scope="session")
def foreseen(registered):
    """The plan of the finished run, with the affine that it found, and for images that it had to keep."""
    context = registered.run._context()
    given = {"fixed": registered.fixed, "moving": registered.moving}
    images = {which: open_volume(array, spacing=spacing, name=which) for which, (array, spacing) in given.items()}
    return make_plan(context.frames, images, context.config)


@pytest.fixture(scope="session")
def folder(registered):
    return Path(registered.run.url)


def begun(folder):
    """{stage: numbers of blocks} of a run, later attempts at the same left out."""
    found = {}
    for place in folder.rglob("status/zarr.json"):
        name = str(place.parent.parent.relative_to(folder))
        if "-attempt-" not in name and not ("/compose/" in name and not name.endswith("/0")):
            found[name] = tuple(json.loads(place.read_text())["shape"])
    return found


def test_every_stage_is_foreseen_with_its_blocks(foreseen, folder):
    assert {w.name: w.counts for w in foreseen.stages} == begun(folder)


def test_every_metric_is_foreseen(foreseen, folder):
    for work in foreseen.stages:
        names = [p.name for p in (folder / work.name / "metrics").iterdir() if p.is_dir()]
        assert len(names) == work.metrics, work.name


def test_every_array_is_foreseen_with_its_shape_and_files(foreseen, registered):
    for stored in foreseen.work.arrays:
        if "*" in stored.place or not stored.arrays:
            continue
        array = registered.run.store.array(stored.place)
        unit = array.shards or array.chunks
        assert (array.shape, unit, array.dtype.itemsize) == (stored.shape, stored.unit, stored.itemsize), stored.place


def test_no_array_is_forgotten(foreseen, folder):
    known = {a.place for a in foreseen.work.arrays}
    for place in folder.rglob("zarr.json"):
        if json.loads(place.read_text())["node_type"] == "array":
            name = str(place.parent.relative_to(folder))
            known_family = f"{name.rpartition('/')[0]}/*" in known
            assert name in known or known_family or "/failing/" in name or "/compose/" in name, name


def test_the_number_of_files_is_foreseen(foreseen, folder):
    files = sum(1 for p in folder.rglob("*") if p.is_file())
    assert abs(foreseen.files - files) <= 0.1 * files


def test_bytes_before_compression_bound_those_on_disk(foreseen, folder):
    data = [a for a in foreseen.work.arrays if a.bytes > 2**14]
    for stored in data:
        if "*" in stored.place:
            continue
        size = sum(p.stat().st_size for p in (folder / stored.place).rglob("*") if p.is_file())
        # What fills a border chunk up is stored too, and hardly takes room.
        assert size <= 1.1 * stored.bytes + 4096, stored.place
    on_disk = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.suffix not in (".png", ".html"))
    print(f"stored {on_disk} of {foreseen.disk} bytes: {on_disk / foreseen.disk:.2f}")
    assert 0.3 * foreseen.disk < on_disk < 1.1 * foreseen.disk


def test_what_stages_write_is_what_the_arrays_hold(foreseen):
    arrays = {a.place: a.bytes for a in foreseen.work.arrays}
    for work in foreseen.stages:
        name = work.name.removeprefix("stages/")
        level = work.name.removesuffix("/stitch").removesuffix("/compose/0")
        if work.name.endswith("/stitch"):
            wanted = arrays[f"{level}/velocity"] + arrays.get(f"{level}/sigma", 0)
        elif work.name.endswith("/compose/0"):
            wanted = sum(arrays[f"{level}/maps/{which}"] for which in ("fixed", "moving"))
        elif work.name.startswith("levels/"):
            wanted = arrays[f"{level}/patches"] + arrays.get(f"{level}/patch_sigma", 0)
            wanted += arrays.get(f"{level}/noncorrespondence", 0)
        elif name in ("sigma", "noncorrespondence"):
            wanted = arrays[f"{name}/0"]
        elif name.startswith("prepare/"):
            which, _, factors = name.removeprefix("prepare/").partition("-")
            wanted = arrays[f"images/{which}/{factors}"]
        elif name.startswith("warped"):
            wanted = arrays["warped/" + (name.rpartition("-")[2] if "level" in name else "0")]
        elif name.startswith(("fixed_to_moving", "moving_to_fixed")):
            direction, _, number = name.partition("-level-")
            wanted = arrays[f"transforms/{direction}/{number or 0}"]
        else:
            continue
        assert work.bytes_written == pytest.approx(wanted), work.name


def test_a_block_reads_no_less_than_its_share(foreseen):
    """Every voxel and map is read at least once, and a chunk is never read in part."""
    finest = foreseen.work.by_name["levels/0"]
    images = foreseen.work.by_name["levels/0"].source
    assert len(images) == 2 and finest.bytes_read > sum(a.total for a in images) > 2 * 40 * 56 * 64 * 2
    assert foreseen.work.by_name["levels/0/stitch"].bytes_read >= foreseen.work.by_name["levels/0"].bytes_written


def test_a_described_pair_is_planned_as_the_same_pair_on_disk(tmp_path):
    for name in ("fixed", "moving"):
        convert(np.zeros((60, 100, 150), np.uint16), tmp_path / name, spacing=(4, 2, 2))
    on_disk = plan(str(tmp_path / "fixed"), str(tmp_path / "moving"), config="rounds")
    described = plan(shape=(60, 100, 150), spacing=(4, 2, 2), pyramid=True)
    assert [(w.name, w.counts, w.bytes_read) for w in on_disk.stages] == [
        (w.name, w.counts, w.bytes_read) for w in described.stages
    ]
    assert (on_disk.files, on_disk.disk) == (described.files, described.disk)


def test_images_without_a_pyramid_get_one(tmp_path):
    assert any("prepare" in w.name for w in plan(shape=(300, 300, 300), spacing=(1, 1, 1)).stages)
    assert not any("prepare" in w.name for w in plan(shape=(300, 300, 300), spacing=(1, 1, 1), pyramid=True).stages)


def test_a_moving_image_of_its_own_shape_and_spacing():
    made = plan(
        VolumeDescription((100, 100, 100), (2, 2, 2), "uint8"), VolumeDescription((50, 60, 70), (4, 3, 3), "float32")
    )
    warped = next(a for a in made.work.arrays if a.place == "warped/0")
    assert warped.shape == (100, 100, 100) and warped.itemsize == 4
    other = plan(shape=(100, 100, 100), spacing=(2, 2, 2), moving_shape=(50, 60, 70), moving_spacing=(4, 3, 3))
    assert [w.counts for w in other.stages] == [w.counts for w in made.stages]


def test_a_plan_of_two_million_blocks_holds_nothing_for_a_block():
    tracemalloc.start()
    begin = time.perf_counter()
    made = plan(**BIG)
    rows = made.rows()
    seconds = time.perf_counter() - begin
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{made.tasks} blocks planned in {seconds:.2f} s, {peak / 2**20:.1f} MiB")
    assert made.tasks > 1_900_000 and peak < 32 * 2**20
    assert dict(rows)["blocks"] == str(made.blocks)


def test_memory_of_a_worker_does_not_depend_on_the_volume():
    small, large = (plan(shape=(n,) * 3, spacing=(2, 2, 2)).memory_per_worker for n in (1000, 8000))
    assert large <= 1.1 * small


def test_large_shards_need_memory():
    small, large = (
        plan(shape=(2000,) * 3, spacing=(2, 2, 2), config=load_config(overrides=[f"output.shard={n}"]))
        for n in (128, 512)
    )
    assert large.memory_per_worker > 2 * small.memory_per_worker and large.files < small.files


def test_wall_time_is_near_the_simulation():
    made = plan(shape=(500, 600, 700), spacing=(2, 2, 2))
    for workers in (1, 2, 8):
        assert made.wall_seconds(workers) == pytest.approx(made.simulate(workers).seconds, rel=0.2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shape": (100, 100)}, "spacing missing"),
        ({"shape": (100, 100), "spacing": (1, 1, 1)}, "three numbers of voxels"),
        ({"shape": (100, 1, 100), "spacing": (1, 1, 1)}, "at least 2"),
        ({"shape": (100, 100, 100), "spacing": (1, 0, 1)}, "spacing must be three positive"),
        ({"shape": (100, 100, 100), "spacing": (1, 1, 1), "dtype": "int12"}, "int12"),
        ({"shape": (100, 100, 100), "spacing": (1, 1, 1), "dtype": "complex64"}, "complex64"),
        ({}, "give fixed and moving, or shape and spacing"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        plan(**given)


def test_a_shape_together_with_images_is_refused():
    image = np.zeros((20, 20, 20), np.uint8), (1, 1, 1)
    with pytest.raises(InputError, match=r"shape=\(5, 5, 5\) is given together with images"):
        plan(image, image, shape=(5, 5, 5))


# ---------------------------------------------------------------------------------------------------- rates


def test_rates_come_back_from_their_file(tmp_path):
    rates = Rates(step=0.002, device="GPU", measured=1e9)
    rates.save(tmp_path / "rates.json")
    assert dataclasses.asdict(Rates.load(tmp_path / "rates.json")) == dataclasses.asdict(rates)


def test_rates_are_changed_by_files_and_keys_in_their_order(tmp_path):
    (tmp_path / "gpu.json").write_text('{"step": 0.002, "device": "H200"}')
    rates = Rates().changed([str(tmp_path / "gpu.json"), "streams=40"])
    assert (rates.step, rates.streams, rates.device, rates.warp) == (0.002, 40.0, "H200", Rates().warp)


@pytest.mark.parametrize("item", ["step", "stepp=1", "step=fast", "step=-1", "read_mb_s=0", "step=nan", "machine=x"])
def test_a_rate_that_makes_no_sense_is_refused_by_name(item):
    with pytest.raises(ConfigError, match=item.partition("=")[0]):
        Rates().changed([item])


@pytest.mark.parametrize("text", ["not JSON", "[1]", '{"speed": 1}', '{"step": "fast"}', '{"step": true}'])
def test_a_rates_file_that_makes_no_sense_is_refused(tmp_path, text):
    (tmp_path / "rates.json").write_text(text)
    with pytest.raises(ConfigError, match=r"rates\.json"):
        Rates.load(tmp_path / "rates.json")


def test_a_calibration_is_used_until_the_machine_or_the_version_changes():
    config = load_config()
    assert rates_module.known_rates(config)[0] == Rates()
    kept = Rates(step=0.5, **rates_module.this_machine(load_config()), measured=time.time() - 3 * 86400)
    kept.save(rates_module.cache_file(config))
    rates, remark = rates_module.known_rates(config)
    assert rates == kept and "3 days ago" in rates.origin and not remark
    for change in ({"bigreg": f"{version}.old"}, {"machine": "another"}, {"cores": 1000}, {"device": "a GPU"}):
        dataclasses.replace(kept, **change).save(rates_module.cache_file(config))
        rates, remark = rates_module.known_rates(config)
        assert rates == Rates() and "out of date" in remark and "--calibrate" in remark


def test_a_calibration_is_of_one_engine():
    mind = load_config(overrides=["engine_options.optimise.similarity=mind"])
    assert rates_module.cache_file(mind) != rates_module.cache_file(load_config())


def test_a_calibration_measures_every_rate(tmp_path):
    config = load_config(preset="demo", overrides=["blocks.core=40", "blocks.halo=8", "affine.rotations_deg=0"])
    heard = []
    rates = calibrate(config, place=str(tmp_path), say=heard.append)
    assert rates_module.known_rates(config) == (rates, "") and "all stages" in heard
    assert "just now" in rates.origin and rates.bigreg == version
    assert 0 < rates.stored <= 1 and rates.looks >= 1
    for name in ("step", "patch", "compose", "field", "check", "warp", "affine", "report", "start", "schedule"):
        assert getattr(rates, name) > 0, name
    for name in ("stripes", "histograms"):
        assert getattr(rates, name) > 0, name
    assert list(tmp_path.iterdir()) == [tmp_path / "cache"]


# ---------------------------------------------------------------------------------------------------- the verb


def verb(*arguments):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)], env={"COLUMNS": "120"})


UNMADE = ("--shape", 300, 400, 500, "--spacing", 2, 2, 2)


def test_the_verb_plans_images_that_do_not_exist():
    done = verb(*UNMADE, "--dtype", "uint8", "--simulate", "1,8", "--simulate", "64", "--rates", "step=0.01")
    assert done.exit_code == 0, done.output
    for text in ("level 0: estimate", "files", "memory per worker", "built-in", "with step=0.01", "bound by"):
        assert text in done.output
    rows = done.output.splitlines()
    assert [row.split()[0] for row in rows[-3:]] == ["1", "8", "64"]


def test_the_verb_shows_every_stage_on_request():
    shown = [verb(*UNMADE, *more).output for more in ((), ("--stages",))]
    assert "smaller stages" in shown[0] and "smaller stages" not in shown[1]
    assert "downsample moving by 8x8x8" in shown[1]


def test_the_verb_looks_at_the_disk_and_keeps_rates(tmp_path):
    done = verb(*UNMADE, "--out", tmp_path / "run.zarr", "--rates", "step=0.25", "--save-rates", tmp_path / "r.json")
    assert f"free at {tmp_path}/run.zarr" in done.output and Rates.load(tmp_path / "r.json").step == 0.25
    assert not (tmp_path / "run.zarr").exists()
    assert "TOO LITTLE" in verb("--shape", 90000, 90000, 90000, "--spacing", 1, 1, 1, "--out", tmp_path / "run").output


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 3, "give FIXED and MOVING, or --shape and --spacing"),
        (("--shape", 300, 400, 500), 3, "spacing missing"),
        (("fixed.zarr", "moving.zarr", "--shape", 3, 4, 5), 3, "--shape is given together with FIXED 'fixed.zarr'"),
        (("fixed.zarr", "moving.zarr", "--spacing", 3, 4, 5), 3, "--fixed-spacing"),
        ((*UNMADE, "--fixed-channel", 1), 3, "--fixed-channel describes images, and none are given"),
        (("fixed.zarr",), 3, "only one image"),
        ((*UNMADE, "--simulate", 8, 64), 3, "--simulate 8,64"),
        ((*UNMADE, "--simulate", "8,none"), 4, "'none' is not a number of workers"),
        ((*UNMADE, "--simulate", "0"), 4, "'0' is not a number of workers"),
        ((*UNMADE, "--rates", "nothing.json"), 4, "nothing.json"),
        ((*UNMADE, "--dtype", "int12"), 3, "int12"),
    ],
)
def test_wrong_use_of_the_verb_names_value_and_remedy(arguments, status, message):
    done = verb(*arguments)
    assert done.exit_code == status and message in " ".join(done.output.split()), done.output


def test_numbers_of_workers_are_lists():
    assert numbers_of_workers(["8,64", "512"]) == [8, 64, 512]
