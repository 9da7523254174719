"""Red cells and empty places around the cells of PBC: what is common beside its classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from laboratories import SIDE
from scipy import ndimage

from napari_sparseattn.images.fields.crops import cut_crops
from napari_sparseattn.training.data.datasets import CropSet

__all__ = ["OTHERS", "cut_surroundings", "read_surroundings"]

Crops = npt.NDArray[np.uint8]

#: What they are, as a card has it.
OTHERS = ("red cell", "background")


def cut_surroundings(cells: Crops, rng: np.random.Generator, most: int) -> tuple[Crops, Crops]:
    """Corners of the training crops: centred on a red cell there, or on nothing.

    The windows reach over the crop's edge, where pixels are reflected.

    Parameters
    ----------
    cells : numpy.ndarray
        (N, 128, 128, 3).
    rng : numpy.random.Generator
        Draws the order in which they are looked at.
    most : int
        Of each kind.
    """
    red: list[npt.NDArray[np.float32]] = []
    empty: list[npt.NDArray[np.float32]] = []
    for index in rng.permutation(len(cells)):
        plane = cells[index].astype(np.float32) / 255
        ground = np.percentile(plane.reshape(-1, 3), 95, axis=0)
        density = ndimage.gaussian_filter(-np.log(np.clip(plane / ground, 0.02, 1)), (2, 2, 0))
        body, nucleus = density[..., 1] > 0.12, density[..., 0] > 0.25
        # Far from the cell in the middle.
        near = ndimage.binary_dilation(nucleus, iterations=14)
        rows, columns = np.indices(body.shape)
        off = np.hypot(rows - 63.5, columns - 63.5) > 48
        depth = ndimage.distance_transform_edt(body & ~near)
        place = np.unravel_index(int((depth * off).argmax()), depth.shape)
        if 9 < (depth * off)[place] < 20 and len(red) < most:
            red.append(cut_crops(plane, [place], SIDE, SIDE)[0])
        room = ndimage.distance_transform_edt(~body) * off
        place = np.unravel_index(int(room.argmax()), room.shape)
        if room[place] > 14 and len(empty) < most:
            empty.append(cut_crops(plane, [place], SIDE, SIDE)[0])
        if len(red) == len(empty) == most:
            break
    return _bytes(red), _bytes(empty)


def read_surroundings(cells: CropSet, most: int = 500) -> CropSet:
    """Return the surroundings of cells as a set of their own, see `cut_surroundings`."""
    red, empty = cut_surroundings(cells.crops, np.random.default_rng(1), most)
    labels = np.repeat(np.arange(2), [len(red), len(empty)])
    names = tuple(f"{OTHERS[kind]}/{i}" for i, kind in enumerate(labels))
    return CropSet(np.concatenate([red, empty]), labels, OTHERS, names)


def _bytes(crops: list[npt.NDArray[np.float32]]) -> Crops:
    return np.rint(np.clip(np.stack(crops), 0, 1) * 255).astype(np.uint8)
