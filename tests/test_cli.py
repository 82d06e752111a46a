"""The command line as its user meets it."""

from __future__ import annotations

import ast
import csv
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from bigreg import load_config, open_run, open_volume
from bigreg.cli import app
from bigreg.cli.app import as_triples
from bigreg.phantom import make_pair
from bigreg.volumes import convert

SETTINGS = [
    "--preset", "demo", "--set", "blocks.core=24", "--set", "blocks.halo=8", "--set", "affine.rotations_deg=0",
    "--set", "affine.voxels=64", "--set", "ladder.coarsest=2", "--set", "output.chunk=16", "--set", "output.shard=32",
]  # fmt: skip


def in_a_process(*arguments, cwd=None):
    """A command as its user starts it; importing takes seconds."""
    command = [sys.executable, "-m", "bigreg.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def bigreg(*arguments):
    """The same in this process: exit_code, stdout, stderr, and both as output."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info  # no traceback
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images on disk and a finished run of them, made by the command line alone."""
    folder = tmp_path_factory.mktemp("cli")
    pair = make_pair((40, 56, 64), (4.0, 2.6, 2.6), seed=3, max_displacement_um=7.0)
    for name, image in (("fixed", pair.fixed), ("moving", pair.moving)):
        np.save(folder / f"{name}.npy", image)
        convert(image, folder / f"{name}.ome.zarr", spacing=pair.spacing)
    images = folder / "fixed.ome.zarr", folder / "moving.ome.zarr"
    done = in_a_process("register", *images, folder / "run.zarr", *SETTINGS, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "folds, fixed_to_moving" in done.stdout and "level 0: estimate" in done.stdout
    return folder


def test_help_names_every_verb():
    text = in_a_process("--help").stdout
    verbs = "demo convert doctor plan register resume stop status view report warp points export pieces atlas evaluate "
    verbs += "compare models"
    for verb in verbs.split():
        assert verb in text
        assert bigreg(verb, "--help").exit_code == 0


@pytest.mark.parametrize("command", [["-m", "bigreg"], ["-m", "bigreg.cli"]])
def test_the_module_is_the_command(command):
    done = subprocess.run([sys.executable, *command, "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == version("bigreg")


def test_the_public_names_are_listed_and_each_is_there():
    import bigreg

    assert dir(bigreg) == sorted(bigreg.__all__) and "register" in dir(bigreg)
    assert all(getattr(bigreg, name) is not None for name in dir(bigreg))


def test_type_checkers_see_every_public_name():
    import bigreg

    tree = ast.parse(Path(bigreg.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {name.name: node.module for node in block.body for name in node.names}
    assert seen == bigreg._WHERE and {*seen, "__version__"} == set(bigreg.__all__)


def test_help_does_not_wait_for_heavy_libraries():
    check = "import sys, bigreg.cli; print([m for m in ('torch', 'dask', 'numpy', 'zarr') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_dry_run_shows_the_plan_and_writes_nothing(folder):
    images = folder / "fixed.ome.zarr", folder / "moving.ome.zarr"
    dry = bigreg("register", *images, folder / "dry.zarr", "--dry-run", "--preset", "rounds")
    planned = bigreg("plan", *images, "--preset", "rounds")
    assert dry.exit_code == planned.exit_code == 0
    assert dry.stdout == planned.stdout and "memory per worker" in dry.stdout
    assert dry.stdout.startswith("fixed: ") and "\nmoving: " in dry.stdout
    assert not (folder / "dry.zarr").exists()


def test_status_and_resume_of_a_finished_run(folder):
    shown = bigreg("status", folder / "run.zarr").stdout
    assert "finished" in shown
    for which in ("fixed", "moving"):
        line = open_volume(folder / f"{which}.ome.zarr").understood["line"]
        assert f"{which}: {line}\n" in shown and "(from coordinateTransformations)" in line
    known = json.loads(bigreg("status", folder / "run.zarr", "--json").stdout)["images"]
    assert known["moving"] == open_volume(folder / "moving.ome.zarr").understood
    again = bigreg("resume", folder / "run.zarr")
    assert again.exit_code == 0 and "is finished already" in again.stdout
    images = [folder / f"{which}.ome.zarr" for which in ("fixed", "moving")]
    other = bigreg("register", *images, folder / "run.zarr", "--set", "blocks.halo=9")
    assert other.exit_code == 5 and "another configuration" in other.stderr
    assert "is finished already" not in other.stdout, "no figures follow"


def test_points_keep_their_other_columns_and_are_nan_outside(folder):
    source, target = folder / "in.csv", folder / "out.csv"
    source.write_text("name,x,y,z\na,80,70,80\nb,-500,0,0\n")
    done = in_a_process("points", folder / "run.zarr", source, target)
    assert done.returncode == 0, done.stderr
    assert "2 points, 1 outside the fixed image (nan), 0 more outside the moving image" in done.stdout
    rows = list(csv.DictReader(target.open()))
    expected = open_run(str(folder / "run.zarr")).map_points(np.array([[80.0, 70.0, 80.0]]))[0]
    assert [r["name"] for r in rows] == ["a", "b"]
    np.testing.assert_allclose([float(rows[0][k]) for k in "zyx"], expected, atol=1e-3)
    assert rows[1]["z"] == "nan"
    assert bigreg("points", folder / "run.zarr", source, target).exit_code == 5


def test_warp_writes_an_image_on_the_grid_of_the_other(folder):
    done = bigreg(
        "warp",
        folder / "run.zarr",
        folder / "fixed.ome.zarr",
        folder / "back.ome.zarr",
        "--direction",
        "moving_to_fixed",
    )
    assert done.exit_code == 0, done.stderr
    assert open_volume(folder / "back.ome.zarr").grid() == open_volume(folder / "moving.ome.zarr").grid()


def here(folder, *arguments):
    """The same; names of files are those of the folder."""
    done = bigreg(*(folder / a if "." in str(a) and not a.startswith("-") else a for a in arguments))
    return done.exit_code, done.output


def test_warp_onto_a_part_of_another_spacing(folder):
    moving = ("warp", "run.zarr", "moving.ome.zarr")
    part = ("--out-spacing", 8, 5, 5, "--box", "40:120,,:100", "--channel", 0)
    code, output = here(folder, *moving, "part.ome.zarr", *part)
    assert code == 0, output
    grid = open_volume(folder / "part.ome.zarr").grid()
    low, high = grid.bounds()
    assert np.allclose(grid.spacing, (8, 5, 5), rtol=0.05)
    assert low[0] >= 40 and high[0] <= 120 and low[1] < 5 and high[1] > 130 and high[2] <= 100
    assert here(folder, *moving, "none.ome.zarr", "--box", "40:120")[0] == 2
    assert here(folder, *moving, "none.ome.zarr", "--channel", 3)[0] == 3


def test_a_run_goes_out_as_a_file_and_the_file_is_used_as_the_run(folder):
    for arguments in (
        ("export", "run.zarr", "map.h5"),
        ("export", "run.zarr", "back.nrrd", "--direction", "moving_to_fixed"),
        ("warp", "run.zarr", "moving.ome.zarr", "by_run.ome.zarr"),
        ("warp", "map.h5", "moving.ome.zarr", "by_file.ome.zarr", "--onto", "fixed.ome.zarr"),
        ("warp", "run.zarr", "fixed.ome.zarr", "there.ome.zarr", "--then", "back.nrrd"),
    ):
        status, output = here(folder, *arguments)
        assert status == 0, output
    images = [open_volume(folder / f"{n}.ome.zarr") for n in ("by_run", "by_file", "there", "fixed")]
    by_run, by_file, there, fixed = (v.read((0, 0, 0), v.shape).astype(float) for v in images)
    assert np.abs(by_run - by_file).max() <= 0.01 * by_run.max()
    assert np.median(np.abs(there - fixed)) < 0.02 * fixed.max()


def test_points_of_any_units_go_through_a_chain(folder):
    (folder / "voxels.csv").write_text("p,q,r\n20,28,32\n")
    options = ("--then", "run.zarr:inverse", "--columns", "p,q,r", "--units", "voxel")
    status, output = here(folder, "points", "run.zarr", "voxels.csv", "same.csv", *options)
    assert status == 0, output
    values = [float(v) for v in (folder / "same.csv").read_text().splitlines()[1].split(",")]
    np.testing.assert_allclose(values, (20, 28, 32), atol=0.1)


def test_the_first_of_several_maps_may_be_a_run_backwards(folder):
    (folder / "there.csv").write_text("z,y,x\n80,73,83\n")
    status, output = here(folder, "points", "run.zarr:inverse", "there.csv", "back.csv", "--then", "run.zarr")
    assert status == 0, output
    values = [float(v) for v in (folder / "back.csv").read_text().splitlines()[1].split(",")]
    np.testing.assert_allclose(values, (80, 73, 83), atol=0.3)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ("register", "fixed.ome.zarr", "moving.ome.zarr", "new.zarr", "--start", "start.csv", "--dry-run"),
            0,
            "blocks",
        ),
        (("register", "fixed.ome.zarr", "moving.ome.zarr", "new.zarr", "--start", "none.mat"), 3, "none.mat"),
        (("export", "run.zarr", "map.csv"), 4, "--format"),
        (("export", "none.zarr", "map.h5"), 3, "none.zarr"),
        (("points", "run.zarr", "start.csv", "new.csv", "--columns", "a,y,x"), 3, "no column a"),
        (("points", "run.zarr", "start.csv", "new.csv", "--units", "inch"), 4, "inch"),
    ],
)
def test_starts_exports_and_points_are_checked_before_any_work(arguments, status, message, folder):
    np.savetxt(folder / "start.csv", np.eye(4), delimiter=",")
    found, output = here(folder, *arguments)
    assert found == status and message in output


def test_report_says_where_it_is(folder):
    lines = bigreg("report", folder / "run.zarr").stdout.splitlines()
    assert lines[0].endswith("report/index.html") and any(line.startswith("verdict: ") for line in lines)


def test_report_writes_a_picture_to_show_and_replaces_none(folder):
    code, output = here(folder, "report", "run.zarr", "--figure", "show.png", "--json")
    assert code == 0 and json.loads(output)["figure"] == str(folder / "show.png"), output
    picture = (folder / "show.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 50_000
    code, output = here(folder, "report", "run.zarr", "--figure", "show.png")
    assert code == 5 and "exists already" in output and (folder / "show.png").read_bytes() == picture
    code, output = here(folder, "report", "run.zarr", "--figure", "show.jpg")
    assert code == 4 and "show.jpg" in output and ".svg" in output


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("register", "missing.n5", "missing.n5", "r.zarr"), 3, "missing.n5"),
        (("status", "missing.zarr"), 3, "not a bigreg run"),
        (("plan", "fixed.ome.zarr", "moving.ome.zarr", "--set", "blocks.cor=1"), 4, "blocks.cor"),
        (("plan", "fixed.ome.zarr", "moving.ome.zarr", "--preset", "magic"), 4, "magic"),
        (("convert", "fixed.ome.zarr", "moving.ome.zarr"), 5, "exists already"),
        (("convert", "fixed.npy", "new.ome.zarr"), 3, "fixed.npy"),
        (("warp", "run.zarr", "fixed.ome.zarr", "w.ome.zarr", "--direction", "forward"), 4, "fixed_to_moving"),
        (("register", "fixed.ome.zarr", "moving.ome.zarr", "r.zarr", "--memory-limit", "300MB"), 7, "memory_limit"),
        (("register", "fixed.ome.zarr", "moving.ome.zarr", "r.zarr", "--cluster", "slrum"), 4, "slurm"),
        (("register", "fixed.ome.zarr", "moving.ome.zarr", "r.zarr", "--cluster", "kubernetes"), 4, "cluster.image"),
        (("resume", "run.zarr", "--cluster", "address", "--workers", "2"), 0, ""),  # finished: no cluster is needed
        (("convert", "fixed.ome.zarr", "new.png"), 4, "not written as .png"),
        (("warp", "run.zarr", "moving.ome.zarr", "new.jpg"), 4, "not written as .jpg"),
        (("convert", "fixed.ome.zarr", "new.tif", "--levels", "2"), 4, "levels"),
        (("plan", "fixed.ome.zarr", "moving.ome.zarr", "--set", "blocks.cor=1"), 4, "did you mean blocks.core?"),
        (("plan", "fixed.ome.zarr", "moving.ome.zarr", "--set", "core=1"), 4, "did you mean blocks.core?"),
        (
            ("plan", "fixed.ome.zarr", "moving.ome.zarr", "--set", "ladder.finest=3"),
            4,
            " = 3: 3 must be a power of two",
        ),
        (
            ("register", "fixed.ome.zarr", "moving.ome.zarr", "run.zarr", *SETTINGS, "--set", "blocks.core=32"),
            5,
            "blocks.core is 24 there and 32 now",
        ),
        (("config", "round"), 4, "there are brain-to-atlas, demo"),
        (("register",), 2, "Missing argument"),
        (("points", "run.zarr", "in.csv", "new.csv", "--unit", "voxel"), 2, "--itk-unit now"),
        (("points", "run.zarr", "in.csv", "new.csv", "--itk-unit", "voxel"), 2, "not one of mm, um"),
        (("export", "run.zarr", "map.mat", "--axes", "xyz"), 2, "--itk-axes now"),
        (("convert", "fixed.ome.zarr", "new.ome.zarr", "--shard", "100"), 2, "multiple of --chunk"),
        (("plan", "fixed.ome.zarr", "no[/red][0].n5"), 3, "no[/red][0].n5"),
        (
            ("register", "fixed.ome.zarr", "moving.ome.zarr", "r.zarr", *SETTINGS, "--memory-limit", "200000000"),
            7,
            "190.73 MiB",
        ),
    ],
)
def test_an_error_is_one_line_with_an_exit_status_of_its_kind(arguments, status, message, folder, monkeypatch):
    monkeypatch.chdir(folder)
    done = bigreg(*arguments)
    assert done.exit_code == status
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status"), [(("status", "missing.zarr"), 3), (("export", "run.zarr", "m.csv"), 4)]
)
def test_the_status_of_an_error_is_that_of_the_process(arguments, status, folder):
    done = in_a_process(*arguments, cwd=folder)
    assert done.returncode == status
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and done.stdout == ""


def test_brackets_in_a_path_are_shown_as_they_are(folder, monkeypatch):
    monkeypatch.chdir(folder)
    done = bigreg("convert", "fixed.ome.zarr", "a[/b]:c:.ome.zarr")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("a[/b]:c:.ome.zarr: 40 x 56 x 64 voxels")


def test_converting_keeps_what_the_options_say(folder):
    options = ("--spacing", 8, 4, 2, "--origin", 1, 2, 3)
    assert bigreg("convert", folder / "fixed.ome.zarr", folder / "said.ome.zarr", *options).exit_code == 0
    grid = open_volume(folder / "said.ome.zarr").grid()
    np.testing.assert_allclose(grid.spacing, (8, 4, 2))
    np.testing.assert_allclose(grid.affine[:3, 3], (1, 2, 3))


def test_a_preset_is_written_out_and_taken_again(folder):
    shown = bigreg("config", "rounds")
    (folder / "mine.yaml").write_text(shown.stdout)
    assert shown.exit_code == 0 and "#" in shown.stdout
    assert load_config(folder / "mine.yaml") == load_config(preset="rounds")
    assert "clusters/slurm" in bigreg("config").stdout.split()


def test_three_values_are_taken_as_people_write_them():
    command = typer.main.get_command(app).commands["convert"]
    for given, wanted in (
        (["--spacing", "2", "in.tif", "out"], ["--spacing", "2", "2", "2", "in.tif", "out"]),
        (["in.tif", "out", "--spacing", "4,2,1.5"], ["in.tif", "out", "--spacing", "4", "2", "1.5"]),
        (["--spacing=1.84", "--origin=-1,0,2", "a"], ["--spacing", *["1.84"] * 3, "--origin", "-1", "0", "2", "a"]),
        (["--spacing", "4", "2", "1", "a"], ["--spacing", "4", "2", "1", "a"]),
        (["--spacing", "4,2", "a"], ["--spacing", "4,2", "a"]),
        (["--channel", "2", "1,2,3"], ["--channel", "2", "1,2,3"]),
    ):
        assert as_triples(command, given) == wanted


def test_the_help_has_groups_and_a_short_name():
    text = bigreg("-h").stdout
    assert all(group in text for group in ("Register", "Judge", "Use the map", "--install-completion"))
    assert bigreg("warp", "-h").exit_code == 0


def test_images_go_out_in_the_format_of_their_name(folder):
    labels = np.random.default_rng(0).integers(0, 9, (10, 14, 16)).repeat(4, 0).repeat(4, 1).repeat(4, 2).astype("u4")
    convert(labels * 1000, folder / "ids.ome.zarr", spacing=open_volume(folder / "fixed.ome.zarr").grid().spacing)
    code, output = here(folder, "warp", "run.zarr", "ids.ome.zarr", "ids.tif", "--dtype", "uint16")
    assert code == 0 and "interpolation: nearest, as uint32 numbers are taken for labels" in output
    found = open_volume(folder / "ids.tif")
    assert found.dtype == np.uint16 and set(np.unique(found.read((0, 0, 0), found.shape))) <= {
        i * 1000 for i in range(9)
    }
    assert here(folder, "warp", "run.zarr", "moving.ome.zarr", "warped.nii.gz")[0] == 0
    code, output = here(folder, "convert", "ids.ome.zarr", "old.ome.zarr", "--ome-version=0.4", "--levels", 1)
    assert code == 0 and "majority label" in output and (folder / "old.ome.zarr" / ".zattrs").exists()
    assert "1 level" in output and "levels\n" not in output.splitlines()[-1]
    both = ("--labels", "--interpolation", "cubic")
    assert here(folder, "warp", "run.zarr", "ids.ome.zarr", "no.tif", *both)[0] == 2


def test_a_run_stopped_by_ctrl_c_says_so_and_resumes(folder):
    images = folder / "fixed.ome.zarr", folder / "moving.ome.zarr"
    command = [sys.executable, "-m", "bigreg.cli", "register", *images, folder / "stopped.zarr", *SETTINGS]
    process = subprocess.Popen(
        [*map(str, command), "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    while process.stdout.readline().startswith(("fixed: ", "moving: ", "preset: ")):
        pass  # then the first stage is done
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"bigreg resume {folder}/stopped.zarr" in output and errors.splitlines()[-1] == "stopped"
    assert "incomplete" in bigreg("status", folder / "stopped.zarr").stdout
    assert bigreg("resume", folder / "stopped.zarr", "--workers", 1).exit_code == 0
    assert "finished" in bigreg("status", folder / "stopped.zarr", "--watch").stdout


def test_what_is_wrong_with_a_command_is_told_before_dask_and_torch_are_imported(tmp_path):
    """In one process: each of these takes seconds to import, and the answer is known in a third of one."""
    nothing = str(tmp_path / "nothing.zarr")
    convert(np.zeros((4, 5, 6), np.uint16), str(tmp_path / "i.ome.zarr"), spacing=(1.0, 1.0, 1.0))
    commands = [
        *([verb, nothing] for verb in ("report", "evaluate", "stop", "resume", "status", "view")),
        ["compare", nothing, nothing], ["warp", nothing, "b", "c"], ["points", nothing, "b", "c"],
        ["export", nothing, "b"], ["plan"], ["register", nothing, nothing, "r"],
        ["register", str(tmp_path / "i.ome.zarr"), str(tmp_path / "i.ome.zarr"), "r", "--set", "ladder.nope=1"],
    ]  # fmt: skip
    code = (
        "import sys\nfrom bigreg.cli import main\n"
        f"for arguments in {commands!r}:\n"
        "    sys.argv = ['bigreg', *arguments]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert end.code in (2, 3, 4), (arguments, end.code)\n"
        "    late = {'torch', 'distributed'} & set(sys.modules)\n"
        "    assert not late, (arguments, late)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
