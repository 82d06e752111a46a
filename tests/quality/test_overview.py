"""The overview picture: what it shows, where it refuses."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from scipy import ndimage

from bigreg.errors import ConfigError, OutputError
from bigreg.quality.overview import DPI, new_picture, overview, write_overview
from bigreg.quality.report import ReportData
from bigreg.quality.verdict import Agreement, Outcome

SHAPE, SPACING = (20, 40, 60), (3.0, 2.0, 2.0)


def blobs(seed):
    return ndimage.gaussian_filter(np.random.default_rng(seed).uniform(size=SHAPE), 1.5) ** 4 * 1e5


@pytest.fixture
def data():
    fixed, zero = blobs(0), np.zeros((3, *SHAPE))
    return ReportData(
        ("round1.tif", "round_$2_$.tif"), SPACING, fixed, blobs(1), np.roll(fixed, 4, 1), fixed**1.3,
        zero + np.array([0.0, 6.0, 3.0])[:, None, None, None], np.ones(SHAPE), np.arange(SHAPE[2]) > np.full(SHAPE, 5),
        Outcome(Agreement(), 0, 100, 0.01, 8, 0, 1.0), [], risk=np.full(SHAPE, 0.2), large="2 voxels (4 µm)",
    )  # fmt: skip


def texts(figure):
    found = [*figure.texts, *(t for ax in figure.axes for t in (ax.title, ax.xaxis.label, ax._left_title))]
    return [t.get_text() for t in found if t.get_text()]


def panel(figure, title):
    """The pixels that are drawn into the panel of a title."""
    (ax,) = (ax for ax in figure.axes if ax._left_title.get_text() == title)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    out.seek(0)
    pixels = matplotlib.image.imread(out)[..., :3]
    box = ax.get_window_extent()
    high = pixels.shape[0]
    return pixels[int(high - box.y1) + 3 : int(high - box.y0) - 3, int(box.x0) + 3 : int(box.x1) - 3]


def tint(pixels):
    return np.abs(pixels[..., 0] - pixels[..., 1]).mean()


def test_its_panels_are_named_and_have_units(data):
    drawn = overview(data)
    said = [*texts(drawn), *(text.get_text() for ax in drawn.axes for text in ax.texts)]
    assert {"Before", "After linear alignment", "After registration", "Deformation", "20 µm"} <= set(said)
    assert "distance / µm\n(grey: not in the moving image)" in said
    assert "risk of an error above\n2 voxels (4 µm)\n(flat grey: unknown)" in said
    assert "round_$2_$.tif on round1.tif" in said


def test_what_agrees_has_no_tint_though_the_images_differ_in_brightness(data):
    drawn = overview(data)
    before, after = panel(drawn, "Before"), panel(drawn, "After registration")
    inside = after[:, after.shape[1] // 5 :]
    assert inside.std() > 0.05 and tint(inside) < 0.04 < 0.1 < tint(before[:, after.shape[1] // 5 :])


def test_planes_keep_their_proportions_and_lie_across_the_thinnest_axis(data):
    pixels = panel(overview(data), "Deformation")
    assert pixels.shape[1] / pixels.shape[0] == pytest.approx(60 / 40, rel=0.03)
    turned = replace(data, spacing_um=(30.0, 2.0, 2.0))  # y is the thinnest now: rows are z
    pixels = panel(overview(turned), "Deformation")
    assert pixels.shape[0] / pixels.shape[1] == pytest.approx(600 / 120, rel=0.05)


def test_without_a_risk_there_is_no_panel_of_it(data):
    drawn = overview(replace(data, risk=None))
    assert len(drawn.axes) == len(overview(data).axes) - 2
    assert not any("risk" in text or "trust" in text for text in texts(drawn))


def test_long_names_stay_within_the_picture(data):
    drawn = overview(replace(data, names=("f" * 120, "m" * 120)))
    drawn.canvas.draw()
    assert max(text.get_window_extent().x1 for text in drawn.texts) <= drawn.bbox.width


@pytest.mark.parametrize("spacing", [(1.0, 2.0, 2.0), (1.0, 9.0, 2.0), (1.0, 1.0, 20.0)])
def test_no_text_runs_into_another_or_out_of_the_picture(data, spacing):
    drawn = overview(replace(data, spacing_um=spacing, large="2 voxels (12.3 × 45.6 × 45.6 µm)"))
    drawn.canvas.draw()
    seen = [*drawn.texts, *(t for ax in drawn.axes for t in (ax._left_title, ax.xaxis.label))]
    boxes = [t.get_window_extent() for t in seen if t.get_text()]
    assert min(min(box.x0, box.y0) for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= drawn.bbox.width
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes[1:], 2) if a.y0 != b.y0 or a.x1 > b.x0 + 1)


@pytest.mark.parametrize(("suffix", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_the_ending_is_the_format_and_the_same_data_are_the_same_file(data, suffix, begin, tmp_path):
    for name in ("a", "b"):
        with new_picture(str(tmp_path / f"{name}.{suffix}")) as path:
            write_overview(data, path)
    one, two = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("a", "b"))
    assert one.startswith(begin) and len(one) > 20_000 and (one == two or suffix == "svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{suffix}", f"b.{suffix}"]


def test_png_has_at_least_200_dpi_and_the_width_of_a_slide(data, tmp_path):
    write_overview(data, tmp_path / "a.png")
    assert DPI >= 200 and matplotlib.image.imread(tmp_path / "a.png").shape[1] >= 1920


def test_another_ending_and_an_existing_file_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"a.jpg' is no picture .* \.png, \.svg, \.pdf"), new_picture("a.jpg"):
        pass
    (tmp_path / "a.png").write_text("kept")
    with pytest.raises(OutputError, match="exists already"), new_picture(str(tmp_path / "a.png")):
        pass
    assert (tmp_path / "a.png").read_text() == "kept"


def test_images_without_signal_or_overlap_can_be_drawn(data):
    zero = np.zeros(SHAPE)
    bare = replace(data, fixed=zero, moving_before=zero, moving_affine=zero, warped=zero, inside=zero > 0, risk=None)
    pixels = panel(overview(bare), "After registration")
    assert np.isfinite(pixels).all() and pixels.max() < 0.1  # black, and no noise stretched to a picture
