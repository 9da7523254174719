"""DICOM annotations and maps as highdicom and wsidicom read them, and whether they lie right.

The slide is dark where cells or patches are, and lies askew on its glass: what
wsidicom reads of it at the places that the files name has to be dark.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import wsidicom
from highdicom.ann import annread
from highdicom.pm import ParametricMap

from dicom_slide import write_dicom
from napari_sparseattn.export import formats
from napari_sparseattn.export.formats import MissingExtraError, formats_for, write_results
from napari_sparseattn.export.heat_maps import heat_maps
from napari_sparseattn.export.request import Export
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.slides.dicom import read_description
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.images.slides.pyramid import Pyramid
from napari_sparseattn.inference.prediction import Predictions
from napari_sparseattn.process.options import ProcessOptions
from napari_sparseattn.process.process import process_image
from small_model import small_bundle

from . import results as made

MM = 0.0005
#: Where the slide begins on its glass, in mm; its rows run along -x, its columns along -y.
X0, Y0 = 20.0, 40.0
DARK, LIGHT = 40, 220


def write_slide(folder: Path, dark: npt.NDArray[np.bool_], tile: int = 20) -> Path:
    pixels = np.where(dark[..., None], DARK, LIGHT).astype(np.uint8).repeat(3, axis=2)
    write_dicom(folder, [pixels], MM * 1000, tile)
    for file in folder.iterdir():
        held = pydicom.dcmread(file)
        held.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
        held.TotalPixelMatrixOriginSequence[0].XOffsetInSlideCoordinateSystem = X0
        held.TotalPixelMatrixOriginSequence[0].YOffsetInSlideCoordinateSystem = Y0
        held.save_as(file)
    return folder


@pytest.fixture(scope="module")
def smear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide with the cells of `results`."""
    return write_slide(tmp_path_factory.mktemp("smear") / "slide", made.label_image() > 0)


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide with the most attended patch of `results`."""
    dark = np.zeros((100, 140), bool)
    dark[16:40, 80:104] = True
    return write_slide(tmp_path_factory.mktemp("section") / "slide", dark)


def on(slide: Path, shape: tuple[int, int] = (40, 60)) -> Field:
    """An image in memory that was opened from the slide's files."""
    data = np.zeros((*shape, 3), np.uint8)
    field = Field.from_array(data, axes="YXC", pixel_size=0.5, modality="brightfield", name="s")
    return dataclasses.replace(field, path=slide)


def annotations(slide: Path, path: Path) -> list[wsidicom.AnnotationGroup[Any]]:
    """What wsidicom reads of annotations when it opens their slide with them."""
    with wsidicom.WsiDicom.open([*slide.iterdir(), path]) as opened:
        (found,) = opened.annotations
        return list(found.groups)


def test_cells_are_where_the_slide_is_dark(smear: Path, tmp_path: Path) -> None:
    card = made.cell_card()
    (path,) = write_results(made.cells(), on(smear), tmp_path, "x", ["dicom-annotations"], card)
    groups = annotations(smear, path)
    assert [group.label for group in groups] == ["not classified", "round", "small"]
    assert [len(group.annotations) for group in groups] == [1, 1, 1]
    with wsidicom.WsiDicom.open(smear) as slide:
        for group, (_, row, column, height, width) in zip(groups, made.SQUARES, strict=True):
            outline = np.array(group.annotations[0].geometry.to_coords())
            (left, top), (right, bottom) = outline.min(axis=0), outline.max(axis=0)
            assert (left, top, right, bottom) == (column, row, column + width, row + height)
            corner, size = (int(left), int(top)), (int(right - left), int(bottom - top))
            inside = np.asarray(slide.read_region(corner, 0, size))
            assert np.median(inside) < 80
            around = np.asarray(slide.read_region((corner[0], corner[1] - 2), 0, (size[0], 1)))
            assert np.median(around) > 180
    # highdicom agrees, and has what was measured; what could not be is left out.
    held = annread(path)
    names, values, _ = held.get_annotation_group(2).get_measurements()
    assert [name.meaning for name in names] == [
        "Cell", "Confidence", "Probability of round", "Probability of lobed",
        "Probability of small", "dry_mass_pg",
    ]  # fmt: skip
    np.testing.assert_allclose(values[0], [2, 0.7, 0.7, 0.2, 0.1, 12.5], rtol=1e-6)
    names, values, _ = held.get_annotation_group(1).get_measurements()
    assert ([name.meaning for name in names], values.tolist()) == (["Cell"], [[7]])
    group = held.get_annotation_group(3)
    assert group.annotated_property_type.meaning == "Cell"
    assert group.algorithm_identification[0].AlgorithmVersion == made.HASH
    assert "a note" in group.algorithm_identification[0].AlgorithmParameters
    (source,) = smear.iterdir()
    refers = held.ReferencedImageSequence[0].ReferencedSOPInstanceUID
    assert refers == pydicom.dcmread(source).SOPInstanceUID
    assert held.PatientID == "1"


def test_patches_and_their_maps_are_where_the_slide_is_dark(section: Path, tmp_path: Path) -> None:
    names = ["dicom-annotations", "dicom-maps"]
    with open_slide(section) as slide:
        found, card = made.slide(segments=True), made.slide_card(segments=True)
        assert {*names} <= {each.name for each in formats_for(found, slide)}
        path, folder = write_results(found, slide, tmp_path, "x", names, card)
        expected = heat_maps(Export(found, slide, card))
    (group,) = annotations(section, path)
    most = max(group.annotations, key=lambda patch: patch.measurements[0].value)
    assert most.measurements[0].value == 2.0
    assert most.geometry.to_coords() == [(80, 16), (104, 16), (104, 40), (80, 40)]
    held = [ParametricMap.from_file(folder / f"{n}.dcm") for n in (1, 2, 3)]
    assert sorted(folder.iterdir()) == [folder / f"{n}.dcm" for n in (1, 2, 3)]
    assert len({each.SeriesInstanceUID for each in held}) == 1
    for each, name, values in zip(held, expected.names, expected.read(0, 2), strict=True):
        stored = each.get_total_pixel_matrix()
        stored[stored == each.FloatPixelPaddingValue] = np.nan
        np.testing.assert_allclose(stored, values, rtol=1e-6)
        (mapping,) = each.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
        assert mapping.LUTExplanation == name
    # Place (0, 2) of the map is the dark patch: by the map's header to mm on the glass, and there
    # by wsidicom to pixels.
    x, y = on_glass(held[0], 0, 2)
    assert (x, y) == pytest.approx((X0 - 27.5 * MM, Y0 - 91.5 * MM), abs=1e-9)
    with wsidicom.WsiDicom.open(section) as opened:
        # Two pixels wide, within the patch's 24 and beyond them on each side.
        for right, up in (
            (0, 0),
            (10, 10),
            (-10, 10),
            (10, -10),
            (14, 0),
            (-14, 0),
            (0, 14),
            (0, -14),
        ):
            at = (x + (right - 1) * MM, y + (up - 1) * MM)
            seen = opened.read_region_mm(at, 0, (2 * MM, 2 * MM), slide_origin=True)
            dark = max(abs(right), abs(up)) < 12
            assert (np.median(np.asarray(seen)) < 128) == dark, (right, up)


def on_glass(held: Any, row: int, column: int) -> tuple[float, float]:
    """The centre of a pixel in mm on the glass: equation C.7.6.2.1-1 of the standard."""
    origin = held.TotalPixelMatrixOriginSequence[0]
    cosines = [float(v) for v in held.ImageOrientationSlide]
    measures = held.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    down, across = (float(v) for v in measures.PixelSpacing)
    x, y = (
        float(start) + cosines[n] * across * column + cosines[3 + n] * down * row
        for n, start in enumerate(
            (origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem)
        )
    )
    return x, y


def test_what_a_tnet_saw(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "slide", np.zeros((60, 64), bool), tile=4)
    names = ["dicom-annotations", "dicom-maps"]
    path, folder = write_results(
        made.traversed(), on(slide, (60, 64)), tmp_path / "out", "x", names, made.field_card()
    )
    groups = annotations(slide, path)
    assert [(group.label, len(group.annotations)) for group in groups] == [
        ("crops of level 0", 1), ("crops of level 1", 2), ("crops of level 2", 1),
    ]  # fmt: skip
    # The root reaches over the edge, where there are no pixels.
    assert groups[0].annotations[0].geometry.to_coords()[2] == (64, 60)
    level, evidence = (
        ParametricMap.from_file(folder / f"{n}.dcm").get_total_pixel_matrix() for n in (1, 2)
    )
    assert (level[10, 10], level[10, 40], level[40, 4], level[50, 20]) == (0, 1, 1, 2)
    assert evidence[50, 20] == pytest.approx(1.0)
    assert evidence.min() == pytest.approx(-1 / 3)


def change_slide(slide: Path, to: Path, **values: Any) -> Path:
    to.mkdir()
    for file in slide.iterdir():
        held = pydicom.dcmread(file)
        for name, value in values.items():
            if value is None:
                delattr(held, name)
            else:
                setattr(held, name, value)
        held.save_as(to / file.name)
    return to


def test_refusals_say_why_and_what_to_do(smear: Path, tmp_path: Path) -> None:
    def refused(image: Field | Pyramid, found: Predictions | None = None) -> str:
        with pytest.raises(ValueError, match="GeoJSON") as caught:
            write_results(
                found or made.cells(), image, tmp_path / "out", "x", ["dicom-annotations"],
                made.cell_card(),
            )  # fmt: skip
        return str(caught.value)

    assert "refer to places on a DICOM slide, and smear <1> is none" in refused(made.field())
    (tmp_path / "a.png").write_bytes(b"no DICOM at all")
    assert "is none" in refused(on(tmp_path / "a.png"))
    bare = change_slide(smear, tmp_path / "bare", FrameOfReferenceUID=None)
    assert "no frame of reference" in refused(on(bare))
    nameless = change_slide(smear, tmp_path / "nameless", SeriesInstanceUID="")
    assert "lacks SeriesInstanceUID" in refused(on(nameless))
    assert "no image of 50 x 60 pixels (it holds 40 x 60)" in refused(on(smear, (50, 60)))
    held, nothing = made.cells(), np.empty((0, 3), np.float32)
    none = dataclasses.replace(
        held, cells=held.cells.subset([]), probabilities=nothing, measures={}
    )
    with pytest.raises(ValueError, match="no cell was found"):
        write_results(
            none, on(smear), tmp_path / "out", "x", ["dicom-annotations"], made.cell_card()
        )
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_file_that_is_no_slide_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, smear: Path
) -> None:
    options = ProcessOptions(formats=("csv", "dicom-annotations"))
    with pytest.raises(ValueError, match="is none"):
        process_image(made.field(), small_bundle(), options, task="cells")
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"napari-sparseattn\[dicom\]"):
        formats.check_formats(["dicom-maps"], made.slide(), on(smear))


def test_a_patients_name_in_another_script_is_kept(smear: Path, tmp_path: Path) -> None:
    other = change_slide(
        smear, tmp_path / "s", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Zoë"
    )
    (path,) = write_results(
        made.cells(), on(other), tmp_path / "out", "x", ["dicom-annotations"], made.cell_card()
    )
    assert str(pydicom.dcmread(path).PatientName) == "Müller^Zoë"
    assert highdicom.ann.annread(path).SpecificCharacterSet == "ISO_IR 192"
    with pytest.raises(ImageError, match="cannot be read as DICOM"):
        read_description(tmp_path / "gone.dcm", (40, 60))
