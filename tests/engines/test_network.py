"""Engines that ask a network: right way round, on the lattice, bounded, and sure only where there is texture."""

from __future__ import annotations

import pytest
import torch

from bigreg import models
from bigreg.engines import PatchPair, load_engine
from bigreg.engines.network import calmed
from bigreg.errors import ConfigError
from bigreg.geometry import Lattice
from bigreg.models import Card, Spacing
from bigreg.transforms.bspline import BOUND_CELLS, evaluate

from ..small_networks import SHIFT, SMALL, at_the_spot, fitted, images, loud, shifted

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = sorted(SMALL)
SPACING = (3.0, 1.5, 2.0)  # um of a voxel


def patch(fixed: torch.Tensor, moving: torch.Tensor) -> PatchPair:
    """A pair of images (1, 1, z, y, x) on a lattice of four anisotropic voxels a cell."""
    shape = fixed.shape[2:]
    cell = tuple(4 * s for s in SPACING)
    lattice = Lattice(tuple(n // 4 for n in shape), cell, (0.0, 0.0, 0.0), (4, 4, 4))
    mask = torch.ones(shape)
    return PatchPair(fixed[0], moving[0], mask, mask.clone(), lattice)


def engine(name: str, network, folder, **options):
    path = folder / f"{name}.safetensors"
    models.save(path, network, Card(licence="none"))
    return load_engine(name, {"weights": str(path), **options})


@pytest.mark.parametrize("name", NAMES)
def test_a_known_shift_comes_out_with_its_sign_and_in_micrometres(name, tmp_path):
    """fixed moves by exp(v), moving by exp(-v), and moving shows at x + s what fixed shows at x: v = -s / 2."""
    found = engine(name, fitted(name), tmp_path).estimate(patch(*shifted()))
    velocity = at_the_spot(evaluate(found.coefficients, (4, 4, 4))[None])
    expected = [-s / 2 * um for s, um in zip(SHIFT, SPACING, strict=True)]
    if name == "invgan":  # it learns what is bright alone, and the two orders see that in different places
        assert all(0.15 < v / e < 1.3 for v, e in zip(velocity, expected, strict=True))
    else:
        assert velocity == pytest.approx(expected, abs=0.4)
    assert found.quality["similarity_after"] > found.quality["similarity_before"]


@pytest.mark.parametrize("name", NAMES)
def test_swapping_the_images_negates_the_velocity(name, tmp_path):
    one = engine(name, loud(name), tmp_path)
    pair = patch(*images(6))
    there, back = one.estimate(pair), one.estimate(pair.swapped())
    assert float(there.coefficients.abs().max()) > 0.5
    assert torch.equal(there.coefficients, -back.coefficients)
    assert torch.equal(there.confidence, back.confidence)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(12, 20, 8), (4, 36, 16)])
def test_any_patch_is_padded_and_whatever_is_said_is_bounded(name, shape, tmp_path):
    found = engine(name, loud(name, largest=50.0), tmp_path).estimate(patch(*images(7, shape)))
    cells = found.coefficients / (4 * torch.tensor(SPACING).reshape(3, 1, 1, 1))
    assert tuple(found.coefficients.shape) == (3, *(n // 4 + 4 for n in shape))
    assert 0.5 * BOUND_CELLS < float(cells.abs().max()) <= BOUND_CELLS + 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_is_to_be_seen_the_confidence_is_low(name, tmp_path):
    """Two thirds are blank but for noise far below what counts as texture."""
    pair = [i.repeat(1, 1, 1, 1, 3) for i in images(8)]
    for number, image in enumerate(pair):
        noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(number))
        image[..., 16:] = 0.3 + 1e-3 * noise[..., 16:]
    confidence = engine(name, loud(name), tmp_path).estimate(patch(*pair)).confidence
    assert float(confidence[2:-2, 2:-2, 2:5].min()) > 0.3
    assert float(confidence[..., -5:].max()) < 0.02


def test_outside_the_masks_the_confidence_is_zero(tmp_path):
    pair = patch(*images(9))
    pair.moving_mask[:, 16:] = 0
    confidence = engine("sitreg", loud("sitreg"), tmp_path).estimate(pair).confidence
    assert float(confidence[:, -4:].max()) == 0 and float(confidence[:, 2:5].min()) > 0


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_without_weights_says_what_to_do(name):
    with pytest.raises(ConfigError, match=f"engine_options.{name}.weights"):
        load_engine(name, {})
    with pytest.raises(ConfigError, match="must be a name or a path"):
        load_engine(name, {"weights": 3})
    with pytest.raises(ConfigError, match="wings"):
        load_engine(name, {"weights": "random", "wings": 2})


def test_weights_are_known_by_what_is_in_them_and_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card = models.save("a.safetensors", loud("sitreg"), Card())
    one = load_engine("sitreg", {"weights": "a.safetensors"})
    assert one.identity == card.digest
    assert one.options["weights"] == str(tmp_path / "a.safetensors")
    assert load_engine("sitreg", {"weights": "random"}).options["weights"] == "random"


def test_voxels_that_the_network_was_not_trained_on_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    models.save(path, loud("sitreg"), Card(spacing=Spacing(low=(4, 2, 2), high=(8, 4, 4))))
    trained = load_engine("sitreg", {"weights": str(path)})
    for spacing in ((4, 2, 2), (8, 4, 4), (10, 5, 5), (3, 1.5, 1.5)):
        trained.check_spacing(spacing)
    with pytest.raises(ConfigError, match=r"voxels of \(4, 2, 2\) to \(8, 4, 4\) µm .* a level has \(16, 8, 8\)"):
        trained.check_spacing((16, 8, 8))
    load_engine("sitreg", {"weights": str(path), "any_spacing": True}).check_spacing((16, 8, 8))
    load_engine("sitreg", {"weights": "random"}).check_spacing((16, 8, 8))


def test_only_what_is_rough_is_calmed():
    axes = torch.meshgrid(*[torch.arange(12.0)] * 3, indexing="ij")
    smooth = 0.4 * torch.stack([torch.sin(2 * torch.pi * a / 10) for a in axes])
    assert torch.equal(calmed(smooth), smooth)
    rough = torch.randint(0, 2, (3, 12, 12, 12), generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    found = calmed(rough)
    assert float(found.diff(dim=1).abs().max()) < 0.6 < float(rough.diff(dim=1).abs().max())
    assert float(found.abs().max()) <= 0.8 and torch.equal(calmed(-rough), -found)


# ------------------------------------------------------------------------------------------------------- stiffness


def test_the_stiffness_is_an_option_of_weights_that_were_trained_over_a_range(tmp_path):
    network = loud("sitreg", {"regularisation": [0.1, 2.0]})
    pair = patch(*images(6))
    found = {}
    for weight in (None, 0.1, 2.0):
        one = engine("sitreg", network, tmp_path, regularisation=weight)
        assert one.options["regularisation"] == weight
        found[weight] = one.estimate(pair)
        assert torch.equal(found[weight].coefficients, -one.estimate(pair.swapped()).coefficients)
        assert torch.equal(found[weight].coefficients, one.estimate(pair).coefficients)
    assert not torch.allclose(found[0.1].coefficients, found[2.0].coefficients, atol=0.05)
    middle = engine("sitreg", network, tmp_path, regularisation=0.2**0.5).estimate(pair)
    torch.testing.assert_close(found[None].coefficients, middle.coefficients, atol=1e-3, rtol=0)


def test_a_stiffness_that_the_weights_do_not_know_is_refused(tmp_path):
    told = loud("sitreg", {"regularisation": [0.1, 2.0]})
    for weight in (0.05, 2.5, -1.0):
        with pytest.raises(
            ConfigError, match=r"for a regularisation of 0.1 to 2, and it is .* choose one in that range"
        ):
            engine("sitreg", told, tmp_path, regularisation=weight)
    with pytest.raises(ConfigError, match="take no regularisation; leave out engine_options.sitreg.regularisation"):
        engine("sitreg", loud("sitreg"), tmp_path, regularisation=0.3)
    with pytest.raises(ConfigError, match="take no regularisation"):
        load_engine("sitreg", {"weights": "sitreg-lightsheet", "regularisation": 0.3})
    with pytest.raises(ConfigError, match="unexpected keyword argument 'regularisation'"):
        load_engine("voxelmorph", {"weights": "random", "regularisation": 0.3})
