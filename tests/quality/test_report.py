"""The report: complete, self-contained, and with pictures that show what they say."""

import base64
import io
import itertools
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from PIL import Image
from scipy import ndimage

from bigreg.errors import OutputError
from bigreg.quality import figures as draw
from bigreg.quality.metrics import RegistrationError
from bigreg.quality.planes import draw_colour_bar, new_figure
from bigreg.quality.report import Figure, ReportData, Table, number, render, write_report
from bigreg.quality.verdict import Agreement, Outcome, duration

SHAPE, SPACING = (21, 34, 47), (4.0, 2.5, 3.0)
ERROR = RegistrationError(points=1234, missing=2, mean=28.34, median=27.1, p95=40.5, p99_9=51.2, maximum=60.7)
GOOD = Outcome(
    Agreement(ncc=(0.117, 0.501, 0.857), local=(0.05, 0.4, 0.9), mi=(0.1, 0.2, 0.9), noise=(0.01, 0.01)),
    folds=0, samples=16373304, inverse_error=0.031, blocks=282,
    blocks_failed=0, seconds=251.3, error_before=ERROR, error_affine=replace(ERROR, mean=6.78),
    error_after=replace(ERROR, mean=0.42),
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    fixed = ndimage.gaussian_filter(rng.uniform(size=SHAPE), 1.5) ** 4 * 1e5
    other = ndimage.gaussian_filter(rng.uniform(size=SHAPE), 1.5) ** 4 * 1e5
    blocks = {
        "level 0": {
            "status": np.array([[[2, 4]]]),
            "seconds": np.array([[[1.5, np.nan]]]),
            "similarity_after": np.ones((1, 1, 2)),
        },
        "level 1": {"status": np.full((2, 2, 2), 2), "similarity_before": np.full((2, 2, 2), np.nan)},
    }
    return ReportData(
        names=("fix", "mov <b>"),
        spacing_um=SPACING,
        fixed=fixed,
        moving_before=other,
        moving_affine=np.roll(fixed, 3, 1),
        warped=fixed * 0.5,
        displacement=5 * ndimage.gaussian_filter(rng.normal(size=(3, *SHAPE)), (0, 4, 4, 4)),
        jacobian=rng.uniform(0.8, 1.3, SHAPE),
        inside=np.arange(SHAPE[2]) > np.full(SHAPE, 3),
        outcome=replace(GOOD, warnings=("12 % of fixed lies outside of moving",)),
        figures=[
            Figure("Map", "SD of log Jacobian", 0.12345),
            Figure("Map", "folds", 0, "samples", "all eight stencils"),
            Figure("Work", "peak memory", None, "GB"),
            ("Work", "voxels", 16373304),
        ],
        blocks=blocks,
        config="engine: optimise\nspacing: [8, 8, 8]",
        versions={"bigreg": "9.8.7"},
        inputs=["fixed https://example.org/fix.zarr"],
    )


@pytest.fixture(scope="module")
def page(data):
    return render(data)


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).astype(float) / 255


def test_page_asks_the_network_for_nothing(page):
    for tag, attributes in Elements(page).found:
        assert tag not in ("script", "link", "iframe", "object", "embed", "video", "audio", "base", "form")
        for name in ("src", "href", "srcset", "action", "background", "poster"):
            assert attributes.get(name, "data:").startswith("data:")
    style = re.search(r"<style>(.*?)</style>", page, re.S).group(1)
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in page


def test_page_has_every_section_and_number(page):
    sections = (
        "Overlay",
        "Along the depth",
        "Checkerboard",
        "Deformation",
        "Error against the known truth",
        "Figures",
        "Blocks",
    )
    for title in (*sections, "Provenance", "Configuration"):
        assert re.search(rf"<h[23]>{title}</h[23]>", page), title
    for text in (
        "Check before use",
        "NCC 0.117 -&gt; 0.501 -&gt; 0.857",
        "28.34 → 6.78 → 0.42 µm",
        "0 folds in 16,373,304",
        "4 min 11 s",
    ):
        assert text in page
    for text in (
        "0.1235",
        "not measured",
        "16\u202f373\u202f304",
        "engine: optimise",
        "bigreg 9.8.7",
        "fix.zarr",
        "12 % of",
    ):
        assert text in page


def test_every_picture_has_a_description_and_is_a_png(page):
    images = [a for tag, a in Elements(page).found if tag == "img"]
    assert len(images) == 3 + 9 + 2 + 3 + 3 + 2
    assert all(len(a["alt"]) > 10 and a["src"].startswith("data:image/png;base64,") for a in images)


def test_text_of_users_is_escaped(page):
    assert "mov &lt;b&gt; on fix" in page and "<b>" not in page


def test_page_works_on_phones_and_in_the_dark(page):
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page and "max-width: 48rem" in page


def test_report_is_written_with_its_pictures_beside_it(data, page, tmp_path):
    write_report(data, tmp_path / "report")
    names = {p.name for p in (tmp_path / "report").iterdir()}
    assert {"index.html", "overlay_before.png", "overlay_after.png", "grid.png", "blocks_level_0_seconds.png"} <= names
    assert (tmp_path / "report" / "index.html").read_text(encoding="utf-8") == page
    assert all(n.endswith((".png", ".html")) for n in names)


def test_a_place_that_cannot_be_written_is_named(data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file/"):
        write_report(data, tmp_path / "file")


def test_the_smallest_report_needs_no_blocks_truth_or_signal(data):
    zero = np.zeros(SHAPE)
    nan = math.nan
    bare = ReportData(
        ("blank", "blank"), SPACING, zero, zero, zero, zero, np.zeros((3, *SHAPE)), zero + 1, zero > 0,
        Outcome(Agreement(), 0, 0, nan, 0, 0, nan), [],
    )  # fmt: skip
    page = render(bare)
    assert "Check before use" in page and "<h2>Blocks</h2>" not in page and "known truth" not in page


@pytest.mark.parametrize("name", ["warped", "jacobian", "inside", "displacement"])
def test_arrays_that_do_not_share_the_grid_are_refused(data, name):
    with pytest.raises(ValueError, match=name):
        replace(data, **{name: getattr(data, name)[..., 1:]})


def test_agreement_is_grey_and_disagreement_coloured(data):
    a, b = draw.stretched(data.fixed), draw.stretched(data.moving_before)

    def colour(moving):
        picture = pixels(draw.overlay(a, moving, SPACING))
        seen = picture[picture[..., 3] > 0.99]
        assert seen[:, :3].mean() > 0.05
        return np.abs(seen[:, 0] - seen[:, 1]).mean()

    assert colour(a) < 0.01 < 0.05 < colour(b)


def test_contrast_is_taken_from_each_image_alone(data):
    assert np.allclose(draw.stretched(data.fixed), draw.stretched(data.fixed * 7), atol=1e-5)


def test_what_agrees_has_no_tint_in_the_report_though_the_images_differ_in_contrast(data):
    """A moving image whose background is bright makes all that agrees green, unless it is made alike."""
    page = render(replace(data, warped=data.fixed**0.4, inside=np.ones(SHAPE, bool)))
    uri = re.search(r'src="(data:image/png;base64,[^"]+)" alt="Overlay of fixed and moving, after registration', page)[
        1
    ]
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"), float) / 255
    assert image.std() > 0.05 and abs((image[..., 1] - image[..., 0]).mean()) < 0.02


def test_planes_keep_their_physical_proportions():
    size = Image.open(io.BytesIO(draw.overlay(np.ones(SHAPE), np.ones(SHAPE), SPACING))).size
    z, y, x = np.multiply(SHAPE, SPACING)
    assert size[0] / size[1] == pytest.approx((x + z) / (y + z), rel=0.02)


def test_a_fold_is_marked_in_the_jacobian_map():
    jacobian, inside = np.ones(SHAPE), np.ones(SHAPE, bool)

    def yellow(values):
        p = pixels(draw.jacobian_map(values, SPACING, inside))
        return ((p[..., 0] > 0.9) & (p[..., 1] > 0.8) & (p[..., 2] < 0.2)).sum()

    assert yellow(jacobian) == 0
    jacobian[tuple(n // 2 for n in SHAPE)] = -0.1
    assert yellow(jacobian) > 20


def test_jacobian_map_is_white_where_volume_is_kept_red_where_it_grows():
    inside = np.ones(SHAPE, bool)
    jacobian = np.broadcast_to(np.where(np.arange(SHAPE[2]) < 24, 1.0, 1.6), SHAPE)
    p = pixels(draw.jacobian_map(jacobian, SPACING, inside))
    row = p[p.shape[0] // 8]
    assert row[30, :3].min() > 0.95
    assert row[int(0.5 * len(row)), 0] > row[int(0.5 * len(row)), 2] + 0.2


def test_deformed_grid_draws_straight_lines_for_no_displacement():
    dark, inside = np.zeros(SHAPE), np.ones(SHAPE, bool)
    flat = pixels(draw.deformed_grid(dark, np.zeros((3, *SHAPE)), SPACING, inside))
    z = np.arange(SHAPE[1])[None, None, :, None] * np.ones((3, *SHAPE))
    bent = pixels(draw.deformed_grid(dark, 4 * np.sin(z / 3), SPACING, inside))
    blue = [(p[..., 2] > 0.8) & (p[..., 0] < 0.5) for p in (flat, bent)]
    # Straight vertical lines fill whole columns of pixels.
    height = int(0.4 * flat.shape[0])
    assert blue[0][:height].mean(0).max() > 0.8 > blue[1][:height].mean(0).max()


def test_block_maps_show_failures_and_leave_missing_values_grey():
    status = np.full((2, 3, 4), 2)
    status[0, 0, 0] = 4
    p = pixels(draw.block_map(status, (100, 200, 300), "status", "status"))
    red = np.abs(p[..., :3] - np.array([0xD0, 0x45, 0x3E]) / 255).max(-1) < 0.02
    assert red[:, : p.shape[1] // 4].sum() > 500
    values = np.full((1, 1, 3), np.nan)
    values[0, 0, 0] = 1.0
    assert np.ptp(pixels(draw.block_map(values, (100, 200, 300), "seconds", "time", "s"))[..., 3]) > 0


def test_numbers_and_durations_read_well():
    assert [number(v) for v in (None, math.nan, 0.0, 1234567, 0.000012, "yes", True, np.float32(2.5))] == [
        "not measured", "not measured", "0", "1\u202f234\u202f567", "1.20e-05", "yes", "yes", "2.5",
    ]  # fmt: skip
    assert [duration(s) for s in (3.21, 59.99, 61, 7384)] == ["3.2 s", "1 min 00 s", "1 min 01 s", "2 h 03 min"]


def test_the_verdict_comes_before_the_first_picture(page):
    assert page.index("Check before use") < page.index("12 % of fixed") < page.index("<img")


def test_the_risk_is_drawn_where_it_is_known(data):
    assert "Where not to trust it" not in render(data)
    assert "Where not to trust it" not in render(replace(data, risk=np.full(data.fixed.shape, np.nan, "f4")))
    page = render(replace(data, risk=np.where(data.fixed > 0, 0.7, np.nan)))
    assert page.count("Map of the risk of a large error") == 4  # two pictures, each enlarged too


def test_tables_of_what_was_measured_are_shown(data):
    page = render(
        replace(data, tables=[Table("Labels", "the worst:", ["label", "dice"], [[7, 0.25], [9, float("nan")]])])
    )
    assert "<h2>Labels</h2>" in page and "<td>0.25</td>" in page and "not measured" in page


@pytest.mark.parametrize("most", [1.1, 1.14, 1.2, 1.27, 1.6, 2.3, 5.5, 12.0])
def test_ticks_of_a_bar_of_ratios_do_not_collide(most):
    figure = new_figure((760, 100))
    draw_colour_bar(figure, (760, 100), ScalarMappable(LogNorm(1 / most, most)), "ratio")
    figure.canvas.draw()
    labels = sorted(t.get_window_extent().intervalx.tolist() for t in figure.axes[0].get_xticklabels() if t.get_text())
    assert len(labels) >= 3
    assert all(left[1] + 3 < right[0] for left, right in itertools.pairwise(labels))


def test_a_long_name_of_a_colour_bar_begins_within_the_picture():
    size = (360, 300)
    figure = new_figure(size)
    draw_colour_bar(figure, size, ScalarMappable(), "risk of over 2 voxels (3.36 × 3.68 × 3.68 µm)")
    figure.canvas.draw()
    label = figure.axes[-1].xaxis.label.get_window_extent()
    assert label.x0 >= 0
