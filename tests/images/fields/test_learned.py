# ruff: noqa: N803
"""Learned segmenters as sources of cells: stand-ins with their real signatures.

Cellpose 4, InstanSeg 0.1 and StarDist 0.9 are not installed where these tests run; what
is tested is what they are given, and what is made of what they give.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from napari_sparseattn.images.fields import learned
from napari_sparseattn.images.fields.cells import find_cells
from napari_sparseattn.images.fields.field import Field

SHAPE = (40, 60)
ASKED: list[dict[str, Any]] = []


def two_cells(shape: tuple[int, ...]) -> np.ndarray:
    labels = np.zeros(shape[:2], np.uint16)
    labels[5:15, 5:15], labels[20:30, 40:52] = 3, 8
    return labels


class CellposeModel:
    """As cellpose.models.CellposeModel of version 4."""

    def __init__(
        self, gpu=False, pretrained_model="cpsam", model_type=None, diam_mean=None,
        device=None, nchan=None, use_bfloat16=True,
    ):  # fmt: skip
        self.gpu = gpu

    def eval(
        self, x, batch_size=8, resample=True, channels=None, channel_axis=None, z_axis=None,
        normalize=True, invert=False, rescale=None, diameter=None, flow_threshold=0.4,
        cellprob_threshold=0.0, do_3D=False, anisotropy=None, flow3D_smooth=0,
        stitch_threshold=0.0, min_size=15, max_size_fraction=0.4, niter=None, augment=False,
        tile_overlap=0.1, bsize=256, compute_masks=True, progress=None,
    ):  # fmt: skip
        ASKED.append({"image": x, "channel_axis": channel_axis, "gpu": self.gpu})
        return two_cells(x.shape), [None] * 3, np.zeros(256)


class InstanSeg:
    """As instanseg.InstanSeg of version 0.1."""

    def __init__(
        self, model_type="brightfield_nuclei", device=None, image_reader="tiffslide", verbosity=1
    ):
        self.model_type = model_type

    def eval_small_image(
        self, image, pixel_size=None, normalise=True, return_image_tensor=True,
        target="all_outputs", rescale_output=True, **kwargs,
    ):  # fmt: skip
        return self._eval("small", image, pixel_size, return_image_tensor)

    def eval_medium_image(
        self, image, pixel_size=None, normalise=True, tile_size=512, batch_size=1,
        return_image_tensor=True, normalisation_subsampling_factor=1, target="all_outputs",
        rescale_output=True, **kwargs,
    ):  # fmt: skip
        return self._eval("medium", image, pixel_size, return_image_tensor)

    def _eval(self, size, image, pixel_size, return_image_tensor):
        ASKED.append({"size": size, "pixel_size": pixel_size, "model": self.model_type})
        cells = torch.from_numpy(two_cells(image.shape).astype(np.float32))
        both = [cells] if self.model_type == "brightfield_nuclei" else [cells * 0, cells]
        labels = torch.stack(both)[None]
        return (labels, image) if return_image_tensor else labels


class StarDist2D:
    """As stardist.models.StarDist2D of version 0.9."""

    @classmethod
    def from_pretrained(cls, name_or_alias=None):
        model = cls()
        model.name = name_or_alias
        return model

    def predict_instances(
        self, img, axes=None, normalizer=None, sparse=True, prob_thresh=None, nms_thresh=None,
        scale=None, n_tiles=None, show_tile_progress=True, verbose=False, return_labels=True,
        predict_kwargs=None, nms_kwargs=None, overlap_label=None, return_predict=False,
    ):  # fmt: skip
        assert img.max() <= 1.5, "not normalised"
        assert len(n_tiles) == img.ndim
        ASKED.append({"model": self.name, "n_tiles": n_tiles})
        return two_cells(img.shape).astype(np.int32), {"points": np.zeros((2, 2))}


def normalize(x, pmin=3, pmax=99.8, axis=None, clip=False, eps=1e-20, dtype=np.float32):
    low, high = np.percentile(x, [pmin, pmax])
    return (x.astype(dtype) - low) / (high - low + eps)


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def module(name: str, **content: Any) -> None:
        made = ModuleType(name)
        made.__spec__ = sys.__spec__
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    module("cellpose", __path__=[])
    module("cellpose.core", use_gpu=lambda gpu_number=0, use_torch=True: False)
    module("cellpose.models", CellposeModel=CellposeModel)
    module("instanseg", InstanSeg=InstanSeg)
    module("stardist", __path__=[])
    module("stardist.models", StarDist2D=StarDist2D)
    module("csbdeep", __path__=[])
    module("csbdeep.utils", normalize=normalize)
    ASKED.clear()
    learned._load.cache_clear()
    yield
    learned._load.cache_clear()


def colour_field(pixel_size: float | None = 0.5, shape: tuple[int, int] = SHAPE) -> Field:
    # Empty glass, on which nothing says how large a pixel is.
    pixels = np.random.default_rng(0).integers(228, 236, (*shape, 3), np.uint8)
    return Field(pixels, "YXC", pixel_size, "brightfield")


def grey_field() -> Field:
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    return Field(values, "YX", 0.5, "fluorescence")


@pytest.mark.parametrize("method", list(learned.SEGMENTERS))
@pytest.mark.parametrize("make", [colour_field, grey_field])
def test_their_labels_are_cells_of_ours(method: Any, make: Any) -> None:
    cells = find_cells(make(), method)
    assert cells.ids.tolist() == [1, 2]
    np.testing.assert_array_equal(cells.boxes[0], [4.5, 4.5, 14.5, 14.5])
    assert cells.labels.shape == SHAPE
    assert cells.pixel_size == 0.5


def test_cellpose_is_told_where_colour_is() -> None:
    find_cells(colour_field(), "cellpose")
    find_cells(grey_field(), "cellpose")
    assert [asked["channel_axis"] for asked in ASKED] == [-1, None]
    assert ASKED[0]["image"].dtype == np.uint8
    assert ASKED[1]["image"].shape == SHAPE


def test_instanseg_needs_the_scale_and_takes_large_images_in_tiles() -> None:
    find_cells(colour_field(0.25), "instanseg")
    find_cells(colour_field(0.25, (40, 1600)), "instanseg")
    find_cells(grey_field(), "instanseg")
    assert [asked["size"] for asked in ASKED] == ["small", "medium", "small"]
    assert ASKED[0]["pixel_size"] == 0.25
    assert [asked["model"] for asked in ASKED[1:]] == [
        "brightfield_nuclei", "fluorescence_nuclei_and_cells",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="how large a pixel is"):
        find_cells(colour_field(None), "instanseg")


def test_stardist_has_a_model_for_each_kind_of_image() -> None:
    find_cells(colour_field(), "stardist")
    find_cells(grey_field(), "stardist")
    assert [asked["model"] for asked in ASKED] == ["2D_versatile_he", "2D_versatile_fluo"]
    assert [asked["n_tiles"] for asked in ASKED] == [(1, 1, 1), (1, 1)]


def test_a_model_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = StarDist2D.from_pretrained
    monkeypatch.setattr(
        StarDist2D, "from_pretrained", lambda name: (made.append(name), real(name))[1]
    )
    for _ in range(3):
        find_cells(colour_field(), "stardist")
    assert made == ["2D_versatile_he"]


@pytest.mark.parametrize("method", list(learned.SEGMENTERS))
def test_what_is_missing_is_named_with_what_installs_it(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == learned.SEGMENTERS[method].module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(learned.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        learned.SegmenterMissingError, match=rf"pip install 'napari-sparseattn\[{method}\]'"
    ):
        find_cells(colour_field(), method)


def test_a_label_image_of_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CellposeModel, "eval", lambda self, x, **_: (np.zeros((3, 3)), [], []))
    with pytest.raises(ValueError, match=r"shape \(3, 3\)"):
        find_cells(colour_field(), "cellpose")
