"""Write the tables of docs/formats.md: what goes in and out, and which program says so.

    python scripts/formats_table.py            # write them anew
    python scripts/formats_table.py --check    # ends with 1 if they are out of date

A row names the test in which another program writes or reads the format, and that
program. Its version is the one the tests are run with (requirements/constraints.txt).
`tests/test_formats_table.py` looks after the rows: each test has to be there and to
import the program, and each format of results and models has to have a row.
"""

from __future__ import annotations

import argparse
import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "formats.md"
#: Programs that are imported under another name than they are installed by.
MODULES = {"pillow": "PIL", "openslide-python": "openslide", "bioimageio.core": "bioimageio.core"}
#: Programs that the tests use where they are installed, and are skipped without.
WHERE_INSTALLED = {"napari-spatialdata"}


@dataclass(frozen=True)
class Row:
    """One format, what it holds, the programs it was tried with, and in which test."""

    name: str
    what: str
    programs: tuple[str, ...]
    test: str


#: What is read. The programs wrote the files, or read the same ones for comparison.
IN = (
    Row("PNG, JPEG, BMP", "fields of view", ("pillow",),
        "images/fields/test_field.py::test_colour_files"),
    Row("TIFF, ImageJ TIFF", "fields of view, stacks", ("tifffile",),
        "images/fields/test_field.py::test_imagej_pixel_size"),
    Row("OME-TIFF", "fields of view", ("tifffile",),
        "images/fields/test_field.py::test_ome_tiff_axes_and_pixel_size_with_unit"),
    Row("NPY", "fields, stacks, holograms", ("numpy",),
        "images/holograms/test_files.py::test_npy_holds_any_kind"),
    Row("`.rtdc`", "holograms, phase", ("h5py",),
        "images/holograms/test_rtdc.py::test_rtdc_holograms_with_their_backgrounds_and_units"),
    Row("qpimage HDF5", "phase", ("h5py",),
        "images/holograms/test_rtdc.py::test_hl60_series_has_the_units_of_its_readme"),
    Row("SVS, NDPI, Philips and other pyramidal TIFF", "slides", ("tifffile",),
        "images/slides/test_opening.py::test_real_slide_has_the_pixels_that_tifffile_decodes"),
    Row("NDPI", "coarse levels of slides", ("openslide-python",),
        "images/slides/test_opening.py::test_coarse_levels_of_ndpi_are_those_of_openslide"),
    Row("OME-TIFF of many channels", "slides", ("tifffile",),
        "images/slides/test_channels.py::test_ome_tiff_has_its_names_colours_and_values"),
    Row("OME-Zarr 0.4 and 0.5", "slides", ("zarr",),
        "images/slides/test_zarr.py::test_pixels_scale_and_gaps"),
    Row("TIFF family at `https://`", "slides on other machines", ("tifffile",),
        "images/slides/test_remote.py::test_pixels_are_those_of_the_file"),
    Row("TIFF family and OME-Zarr at `s3://`", "slides on other machines", ("s3fs",),
        "images/slides/test_remote.py::test_s3"),
    Row("DICOM", "slides", ("pydicom",),
        "images/slides/test_vendor.py::test_dicom_has_its_size_scale_and_pixels"),
    Row("HDF5 of CLAM, TRIDENT, STAMP", "features of slides", ("h5py",),
        "features/test_files.py::test_trident_with_overlap_and_extent"),
    Row("COCO JSON", "annotations", ("pycocotools",),
        "export/test_annotation_files.py::test_what_was_written_is_read_back"),
    Row("GeoJSON of QuPath", "annotations", ("geojson", "shapely"),
        "export/test_geojson_annotations.py::test_what_qupath_writes"),
)  # fmt: skip

#: What is written, by the name that it is asked for. The programs read it.
OUT = (
    Row("csv", "a row per cell, crop or patch", ("pandas",),
        "export/test_formats.py::test_csv_has_the_rows_and_says_where_they_came_from"),
    Row("json", "a summary", ("json",), "cli/test_export.py::test_wholes_in_more_formats"),
    Row("parquet", "the rows with their types", ("pyarrow",),
        "export/test_parquet.py::test_cells_read_back_with_their_types"),
    Row("anndata", "probabilities or features, with places", ("anndata",),
        "export/test_anndata.py::test_cells"),
    Row("geojson", "outlines, classes, measures", ("geojson", "shapely"),
        "export/test_geojson.py::test_it_is_geojson_that_qupath_reads"),
    Row("coco", "boxes, outlines, scores", ("pycocotools",),
        "export/test_coco.py::test_masks_are_those_of_the_labels"),
    Row("ome-zarr", "maps and labels, OME-Zarr 0.5", ("ome-zarr", "ome-zarr-models", "zarr"),
        "export/test_ome_zarr.py::test_it_is_valid_and_says_where_it_came_from"),
    Row("ome-zarr", "the same as layers of napari", ("napari-ome-zarr",),
        "export/test_ome_zarr.py::test_napari_opens_it_by_the_usual_plugin"),
    Row("ome-zarr-0.4", "the same, OME-Zarr 0.4", ("ome-zarr", "ome-zarr-models", "zarr"),
        "export/test_ome_zarr.py::test_both_versions_hold_the_same"),
    Row("spatialdata", "image, maps, labels, shapes, table", ("spatialdata",),
        "export/test_spatialdata.py::test_cells"),
    Row("spatialdata", "the same as layers of napari", ("napari-spatialdata",),
        "export/test_spatialdata.py::test_its_own_plugin_shows_it_in_napari"),
    Row("dicom-annotations", "cells, crops, patches", ("highdicom", "wsidicom"),
        "export/test_dicom.py::test_cells_are_where_the_slide_is_dark"),
    Row("dicom-maps", "attention, probability", ("highdicom", "wsidicom"),
        "export/test_dicom.py::test_patches_and_their_maps_are_where_the_slide_is_dark"),
    Row("overlay", "a picture", (),
        "export/test_formats.py::test_all_formats_are_written_and_nothing_else"),
    Row("html", "a report", ("html.parser",),
        "export/test_html.py::test_pages_are_whole_and_fetch_nothing"),
    Row("methods", "a paragraph", (),
        "export/test_methods.py::test_it_says_what_was_done_with_what"),
    Row("`.rtdc` with scores", "cells of cytometry", ("dclab",),
        "export/test_rtdc.py::test_dclab_reads_scores_and_finds_nothing_new"),
    Row("OPD maps, TIFF", "reconstructed holograms", ("tifffile",),
        "export/test_opd.py::test_other_readers_see_the_same_numbers"),
    Row("annotations as COCO JSON", "of a project", ("pycocotools",),
        "export/test_annotation_files.py::test_pycocotools_reads_it"),
    Row("annotations as GeoJSON", "of a project", ("geojson", "shapely"),
        "export/test_annotation_files.py::test_geojson_for_qupath"),
    Row("onnx", "models", ("onnxruntime",), "export/test_onnx_model.py::test_small_models_agree"),
    Row("bioimageio", "models", ("bioimageio.core",),
        "export/test_bioimage.py::test_their_pipeline_gives_our_probabilities"),
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions that the tests are run with, by name as pip writes names."""
    text = (ROOT / "requirements" / "constraints.txt").read_text("utf-8")
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", text, flags=re.M)
    return {re.sub(r"[_.]", "-", name).lower(): version for name, version in pins}


def say_program(name: str, known: dict[str, str]) -> str:
    """Return a program with its version; Python's own have none."""
    version = known.get(re.sub(r"[_.]", "-", name).lower())
    if version is not None:
        return f"{name} {version}"
    return f"{name}, where installed" if name in WHERE_INSTALLED else f"Python's `{name}`"


def make_table(rows: tuple[Row, ...], first: str, third: str) -> str:
    """Return rows as a table of Markdown."""
    known = versions()
    lines = [f"| {first} | what | {third} | test |", "| --- | --- | --- | --- |"]
    for row in rows:
        name = f"`{row.name}`" if re.fullmatch(r"[a-z0-9.-]+", row.name) else row.name
        programs = ", ".join(say_program(each, known) for each in row.programs) or "any editor"
        lines.append(f"| {name} | {row.what} | {programs} | `{row.test}` |")
    return "\n".join(lines)


def fill(page: str) -> str:
    """Return the page with its tables made anew."""
    tables = {
        "in": make_table(IN, "format", "written or compared by"),
        "out": make_table(OUT, "format", "read by"),
    }
    for name, table in tables.items():
        between = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        page, n = re.subn(between, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", page, flags=re.S)
        if n != 1:
            raise SystemExit(f"{PAGE.name} has {n} places for the table '{name}', not one")
    return page


def find_faults(row: Row) -> list[str]:
    """Return what is wrong with a row: its test is missing, or does not use the programs."""
    name, _, function = row.test.partition("::")
    file = ROOT / "tests" / name
    if not file.is_file():
        return [f"{row.name}: there is no {file.relative_to(ROOT)}"]
    found = []
    tree = ast.parse(file.read_text("utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if function and function not in functions:
        found.append(f"{row.name}: {name} has no test {function}")
    imported = imports_of(tree)
    for helper in [ROOT / "tests" / f"{module}.py" for module in imported]:
        if helper.is_file():
            imported = imported | imports_of(ast.parse(helper.read_text("utf-8")))
    for program in row.programs:
        module = MODULES.get(program, program.replace("-", "_"))
        if not any(each == module or each.startswith(f"{module}.") for each in imported):
            found.append(f"{row.name}: {name} does not import {module}")
    return found


def imports_of(tree: ast.AST) -> set[str]:
    """Return the modules that are imported anywhere in a file, or asked for by importorskip."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("importorskip"):
            found |= {str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    before = PAGE.read_text("utf-8")
    after = fill(before)
    if options.check:
        return int(before != after)
    PAGE.write_text(after, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
