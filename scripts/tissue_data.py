"""The real tissue that our models learn from, read from the archives beside a checkout.

PatchCamelyon (CC0): patches of lymph nodes, 96 px at 0.97 µm/px, tumour in the
middle 32 px or not. EBHI-Seg (CC BY 4.0): tiles of colorectal biopsies, 224 px
at about 1 µm/px, of 253 patients.
"""

from __future__ import annotations

import dataclasses
import io
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from napari_sparseattn.training.loop.laboratories import LaboratoryChanges

#: Classes of the tiles as the archive has them, and what each is merged into; -1 is left out.
EBHI = {
    "normal": 0, "polyp": 0, "low_grade_neoplasia": 1, "high_grade_neoplasia": 1,
    "adenocarcinoma": 2, "serrated_adenoma": -1,
}  # fmt: skip
COLON_CLASSES = ("normal or polyp", "low or high grade neoplasia", "adenocarcinoma")
PCAM = ("no_tumour", "tumour")
PCAM_MPP, EBHI_MPP = 0.97, 1.0
N_FOLDS = 5
#: Of ImageNet's pictures, which the encoder began with.
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
#: How pictures of other laboratories look, as the encoder and what reads it learn them.
COLOURS = LaboratoryChanges(
    swap=0, stretch=0.08, stain=0.08, amount=0.6, saturation=0.4, response=0.3, tint=0.2,
    haze=0.15, white=0.2, blur=1.0, sharpen=0.7, noise=0.03, jpeg=0.1,
)  # fmt: skip
#: The middle of a patch decides, so that it hardly moves.
NODES = dataclasses.replace(COLOURS, shift=0.06, centred=0, scale=(0.85, 1.2))
#: Of a tile 55 to 90 % of its side, at 0.96 to 1.57 µm/px.
COLON = dataclasses.replace(COLOURS, shift=0.4, centred=0, scale=(1.11, 1.82))
#: Merged class of each of the archive's, see `EBHI`.
KINDS = torch.tensor(list(EBHI.values()))
#: What cards say of them.
PCAM_CITATION = (
    "Veeling et al. 2018, Rotation equivariant CNNs for digital pathology, MICCAI "
    "(PatchCamelyon); Ehteshami Bejnordi et al. 2017, JAMA 318:2199 (CAMELYON16)"
)
EBHI_CITATION = (
    "Shi et al. 2023, EBHI-Seg, Frontiers in Medicine 10:1114673, doi 10.6084/m9.figshare.21540159"
)


def colon_logits(six: Tensor) -> Tensor:
    """Logits of the three merged classes."""
    return torch.stack([six[:, kind == KINDS].logsumexp(1) for kind in range(3)], 1)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Tiles (N, S, S, 3) uint8, their classes (N,), and whose they are (N,)."""

    pixels: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def take(self, rows: np.ndarray) -> Tiles:
        return Tiles(self.pixels[rows], self.labels[rows], self.groups[rows])


def shared_data() -> Path:
    """Where the archives lie beside a checkout; NAPARI_SPARSEATTN_SHARED moves it."""
    root = os.environ.get("NAPARI_SPARSEATTN_SHARED")
    shared = Path(root) if root else Path(__file__).resolve().parents[2] / "shared"
    return shared / "data"


def read_pcam(part: str, folder: Path | None = None) -> Tiles:
    """``"train"`` of both archives, or the official ``"valid"``; groups are the patches' names."""
    folder = folder or shared_data()
    return _read([folder / "pcam.zip", folder / "pcam_more.zip"], PCAM, part)


def read_ebhi(folder: Path | None = None) -> Tiles:
    """Read all tiles; labels number the archive's own classes, groups are patients."""
    return _read([(folder or shared_data()) / "ebhi.zip"], tuple(EBHI))


def merged(labels: np.ndarray) -> np.ndarray:
    """Merge the archive's classes into `COLON_CLASSES`; -1 where left out."""
    return np.array(list(EBHI.values()))[labels]


def patient_folds(tiles: Tiles) -> np.ndarray:
    """Return each tile's fold (N,) of five: whole patients, the worst classes spread evenly."""
    worst = merged(tiles.labels)
    names = np.unique(tiles.groups)
    own = np.array([worst[tiles.groups == name].max() for name in names])
    random, fold, dealt = np.random.default_rng(18), np.empty(len(names), int), 0
    for kind in np.unique(own):
        rows = random.permutation(np.flatnonzero(own == kind))
        fold[rows] = (dealt + np.arange(len(rows))) % N_FOLDS
        dealt += len(rows)
    return fold[np.searchsorted(names, tiles.groups)]


def area_under_curve(scores: np.ndarray, wanted: np.ndarray) -> float:
    """Chance that a wanted one has a higher score than another; Mann and Whitney's U."""
    from scipy.stats import rankdata

    n = int(wanted.sum())
    ranks = rankdata(scores)[wanted].sum()
    return float((ranks - n * (n + 1) / 2) / (n * (len(wanted) - n)))


def _read(archives: Iterable[Path], classes: tuple[str, ...], part: str = "") -> Tiles:
    pixels, labels, groups = [], [], []
    for archive in archives:
        with zipfile.ZipFile(archive) as opened:
            for name in sorted(opened.namelist()):
                label, _, rest = name.partition("/")
                group, _, file = rest.partition("/")
                if not name.endswith(".jpg") or label not in classes or part not in ("", group):
                    continue
                with Image.open(io.BytesIO(opened.read(name))) as image:
                    pixels.append(np.asarray(image.convert("RGB")))
                labels.append(classes.index(label))
                groups.append(file if part else group)
    return Tiles(np.stack(pixels), np.array(labels), np.array(groups))
