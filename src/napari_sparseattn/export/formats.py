"""The formats that results can be written in, and one call that writes them."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..card import Card
from ..images.fields.field import Field
from ..images.slides.pyramid import Pyramid
from .dicom_slide import Named, why_no_dicom
from .request import Export, Kind, Result, kind_of

__all__ = [
    "FORMATS",
    "Format",
    "MissingExtraError",
    "check_formats",
    "check_image",
    "formats_for",
    "parse_formats",
    "write_results",
]


class MissingExtraError(ImportError, ValueError):
    """A format needs packages that are not installed; the message says which to install."""


@dataclasses.dataclass(frozen=True)
class Format:
    """One way to write results.

    Parameters
    ----------
    name : str
        As it is asked for, e.g. ``"geojson"``.
    suffix : str
        What the file's name ends with, after the stem.
    title : str
        In words, for people.
    tip : str
        What opens it, and what is in it.
    kinds : tuple of {"cells", "frames", "field", "slide"}
        What it can hold.
    write : callable
        Given an `Export` and the path; writes the file whole or not at all,
        and returns all files it wrote.
    needs : str
        The extra of this package that it needs; empty for none.
    modules : tuple of str
        What that extra installs.
    evidence : bool
        Whether it shows what was looked at of each cell.
    refuses : callable, optional
        Given an image, says why results of it cannot be held; empty if they can.
    """

    name: str
    suffix: str
    title: str
    tip: str
    kinds: tuple[Kind, ...]
    write: Callable[[Export, Path], list[Path]]
    needs: str = ""
    modules: tuple[str, ...] = ()
    evidence: bool = False
    refuses: Callable[[Named], str] | None = None

    def takes(self, result: object) -> bool:
        """Tell whether it can hold a result."""
        return kind_of(result) in self.kinds

    @property
    def missing(self) -> str:
        """What to install before it can be written; empty if it can be."""
        if all(importlib.util.find_spec(module) is not None for module in self.modules):
            return ""
        return f'{self.title} needs more packages: pip install "napari-sparseattn[{self.needs}]"'

    def path(self, folder: Path, stem: str) -> Path:
        """Return the file that results of a stem are written to."""
        return folder / f"{stem}{self.suffix}"


def write_results(
    result: Result,
    image: Field | Pyramid,
    folder: Path,
    stem: str,
    formats: Sequence[str],
    card: Card,
    *,
    index: tuple[int, int] = (0, 0),
    progress: Callable[[str, int, int], None] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a result in several formats.

    Parameters
    ----------
    result : Predictions, FieldPrediction, SlidePrediction, or mapping of int to Predictions
        Of one image, or of the frames of a stack by their index.
    image : Field or Pyramid
        What it was made from.
    folder : pathlib.Path
        Made if need be.
    stem : str
        Names begin with it; each format adds its own ending.
    formats : sequence of str
        Names from `FORMATS`.
    card : Card
        Of the model.
    index : (int, int)
        Frame and slice of `image` that `result` is of, where it is of one.
    progress : callable, optional
        Called with the format's name, what is done, and how much there is; it
        may raise to stop, and the file at hand is then not written.
    facts : mapping, optional
        More to say of the result in JSON.

    Returns
    -------
    list of pathlib.Path
        What was written, in the order of the formats. Each file is whole or
        as it was before.

    Raises
    ------
    ValueError
        If there is no such format, or it cannot hold the result; nothing is
        then written.
    MissingExtraError
        If packages are missing; nothing is then written.
    OSError
        If a file cannot be written; those written before stay.
    """
    chosen = check_formats(formats, result, image)
    written: list[Path] = []
    for each in chosen:
        tell = None if progress is None else _name_progress(progress, each.name)
        export = Export(result, image, card, tell, index, facts or {})
        written += each.write(export, each.path(Path(folder), stem))
    return written


def check_formats(
    names: Sequence[str], result: object = None, image: Named | None = None
) -> list[Format]:
    """Return formats by name, each once.

    Parameters
    ----------
    names : sequence of str
        Names from `FORMATS`.
    result : object, optional
        What is to be written.
    image : Field, Pyramid or anything with a name and a path, optional
        What it is of.

    Raises
    ------
    ValueError
        If there is no such format, or it cannot hold the result, or nothing
        of that image.
    MissingExtraError
        If packages are missing.
    """
    found = []
    for name in dict.fromkeys(names):
        if name not in FORMATS:
            raise ValueError(f"there is no format '{name}'; there are {', '.join(FORMATS)}")
        each = FORMATS[name]
        if result is not None and not each.takes(result):
            fitting = ", ".join(each.name for each in formats_for(result))
            raise ValueError(f"'{name}' cannot hold this result; these can: {fitting}")
        if image is not None:
            check_image([name], image)
        if each.missing:
            raise MissingExtraError(each.missing)
        found.append(each)
    return found


def check_image(names: Sequence[str], image: Named) -> None:
    """Refuse formats that cannot hold any result of an image.

    Parameters
    ----------
    names : sequence of str
        Names from `FORMATS`; others are passed over.
    image : Field, Pyramid or anything with a name and a path
        The image.

    Raises
    ------
    ValueError
        If one of them refuses the image; the message says why and what to do.
    """
    for name in names:
        refuses = FORMATS[name].refuses if name in FORMATS else None
        if refuses is not None and (why := refuses(image)):
            raise ValueError(why)


def parse_formats(text: str | None, kind: Kind) -> list[str]:
    """Read names of formats from text such as ``"geojson,html"``.

    Parameters
    ----------
    text : str or None
        What was typed.
    kind : {"cells", "frames", "field", "slide"}
        What is to be written, so that nobody waits for a result to be refused.

    Raises
    ------
    ValueError
        If there is no such format, or it cannot hold this.
    MissingExtraError
        If packages are missing.
    """
    names = [part.strip() for part in (text or "").split(",")]
    found = check_formats([name for name in names if name])
    for each in found:
        if kind not in each.kinds:
            fitting = ", ".join(name for name, other in FORMATS.items() if kind in other.kinds)
            raise ValueError(f"'{each.name}' cannot hold this result; these can: {fitting}")
    return [each.name for each in found]


def formats_for(result: object, image: Named | None = None) -> list[Format]:
    """Return the formats that can hold a result, of an image if one is given, installed or not."""
    return [
        each
        for each in FORMATS.values()
        if each.takes(result)
        and not (image is not None and each.refuses is not None and each.refuses(image))
    ]


def _name_progress(
    progress: Callable[[str, int, int], None], name: str
) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)


def _csv(export: Export, path: Path) -> list[Path]:
    from .tables import write_table

    return write_table(export, path)


def _json(export: Export, path: Path) -> list[Path]:
    from .summary import write_json

    return write_json(export, path)


def _parquet(export: Export, path: Path) -> list[Path]:
    from .parquet import write_parquet

    return write_parquet(export, path)


def _geojson(export: Export, path: Path) -> list[Path]:
    from .geojson import write_geojson

    return write_geojson(export, path)


def _ome_zarr(export: Export, path: Path) -> list[Path]:
    from .heatmap_zarr import write_ome_zarr

    return write_ome_zarr(export, path)


def _ome_zarr_04(export: Export, path: Path) -> list[Path]:
    from .heatmap_zarr import write_ome_zarr

    return write_ome_zarr(export, path, "0.4")


def _anndata(export: Export, path: Path) -> list[Path]:
    from .anndata_table import write_anndata

    return write_anndata(export, path)


def _spatialdata(export: Export, path: Path) -> list[Path]:
    from .spatial_data import write_spatialdata

    return write_spatialdata(export, path)


def _dicom_annotations(export: Export, path: Path) -> list[Path]:
    from .dicom_annotations import write_dicom_annotations

    return write_dicom_annotations(export, path)


def _dicom_maps(export: Export, path: Path) -> list[Path]:
    from .dicom_map import write_dicom_maps

    return write_dicom_maps(export, path)


def _coco(export: Export, path: Path) -> list[Path]:
    from .coco import write_coco

    return write_coco(export, path)


def _overlay(export: Export, path: Path) -> list[Path]:
    from .overlay import write_overlay

    return write_overlay(export, path)


def _html(export: Export, path: Path) -> list[Path]:
    from .html_report import write_html

    return write_html(export, path)


def _methods(export: Export, path: Path) -> list[Path]:
    from .methods import write_methods

    return write_methods(export, path)


_CELLS: tuple[Kind, ...] = ("cells", "frames")
_PLANES: tuple[Kind, ...] = ("cells", "field", "slide")
_ALL: tuple[Kind, ...] = ("cells", "frames", "field", "slide")

#: By name.
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        each.name: each
        for each in (
            Format(
                "csv",
                ".csv",
                "CSV table",
                "One row per cell, crop or patch; for spreadsheets and R.",
                _ALL,
                _csv,
            ),
            Format(
                "json",
                ".json",
                "JSON summary",
                "What was found in a few numbers, where it came from, and what was looked at.",
                _ALL,
                _json,
            ),
            Format(
                "parquet",
                ".parquet",
                "Parquet table",
                "The same rows with their types, smaller and quicker to read; for Python and R.",
                _ALL,
                _parquet,
                "exports",
                ("pyarrow",),
            ),
            Format(
                "geojson",
                ".geojson",
                "GeoJSON for QuPath",
                "Outlines with classes, probabilities and attention; drop it on the image in "
                "QuPath.",
                _ALL,
                _geojson,
            ),
            Format(
                "anndata",
                ".h5ad",
                "AnnData",
                "Probabilities or features with places; for scanpy, squidpy and SpatialData.",
                ("cells", "frames", "slide"),
                _anndata,
                "exports",
                ("anndata",),
            ),
            Format(
                "coco",
                ".coco.json",
                "COCO JSON",
                "Boxes and outlines with classes and scores; for detectors and labelling tools.",
                _CELLS,
                _coco,
            ),
            Format(
                "ome-zarr",
                "_maps.ome.zarr",
                "OME-Zarr maps",
                "What was looked at, as maps that lie on the image; for napari and Python. "
                "OME-Zarr 0.5.",
                _PLANES,
                _ome_zarr,
                "exports",
                ("ome_zarr", "zarr"),
                evidence=True,
            ),
            Format(
                "ome-zarr-0.4",
                "_maps_0.4.ome.zarr",
                "OME-Zarr 0.4 maps",
                "The same maps for programs that read no OME-Zarr 0.5 yet.",
                _PLANES,
                _ome_zarr_04,
                "exports",
                ("ome_zarr", "zarr"),
                evidence=True,
            ),
            Format(
                "spatialdata",
                ".spatialdata.zarr",
                "SpatialData",
                "Image, maps, labels, outlines and table in one store; for spatialdata, squidpy "
                "and napari-spatialdata.",
                _PLANES,
                _spatialdata,
                "spatialdata",
                ("spatialdata",),
                evidence=True,
            ),
            Format(
                "dicom-annotations",
                "_annotations.dcm",
                "DICOM annotations",
                "Outlines with classes and measures, for DICOM archives and viewers; of images "
                "that are DICOM slides.",
                _PLANES,
                _dicom_annotations,
                "dicom",
                ("highdicom",),
                refuses=why_no_dicom,
            ),
            Format(
                "dicom-maps",
                "_maps.dicom",
                "DICOM maps",
                "Attention and probability as parametric maps; of images that are DICOM slides.",
                ("field", "slide"),
                _dicom_maps,
                "dicom",
                ("highdicom",),
                refuses=why_no_dicom,
            ),
            Format(
                "overlay",
                "_overlay.png",
                "Picture",
                "The image with what was found drawn on it.",
                _PLANES,
                _overlay,
                evidence=True,
            ),
            Format(
                "html",
                ".html",
                "HTML report",
                "One page with pictures, numbers, and where they came from; for people.",
                _ALL,
                _html,
                evidence=True,
            ),
            Format(
                "methods",
                "_methods.txt",
                "Methods text",
                "What was done, with versions, settings, held-out figures and references; for a "
                "paper.",
                _ALL,
                _methods,
            ),
        )
    }
)
