"""What reads files that others made: how each is fuzzed, and what it may refuse them with.

A target writes sound files with our own writers or a library's (`seeds`), reads an input as the
program does (`read`), and names the errors that are refusals. Reading returns the bytes that the
file declared to be needed, against which the memory that was taken is held.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import json
import math
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_sparseattn.batch.records import Output, Record, Records, write_table
from napari_sparseattn.bundle import BundleError, load_bundle, save_bundle
from napari_sparseattn.export.annotation_files import (
    AnnotationFileError,
    read_annotation_files,
    read_coco_annotations,
    write_coco_annotations,
    write_geojson_annotations,
)
from napari_sparseattn.features.feature_set import FeatureError
from napari_sparseattn.features.files import kept_features, read_features, write_features
from napari_sparseattn.features.parts import locked_parts
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.fields.marked import read_cells
from napari_sparseattn.images.holograms.files import open_hologram, read_as_field
from napari_sparseattn.images.holograms.rtdc import event_count
from napari_sparseattn.images.holograms.settings import HologramSettings
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.images.slides.grid_audit import GridError
from napari_sparseattn.images.slides.opening import is_slide, open_slide
from napari_sparseattn.images.slides.patches import PatchGrid
from napari_sparseattn.images.slides.pyramid import Pyramid
from napari_sparseattn.images.slides.regions import RegionError, read_regions
from napari_sparseattn.training.data.agreement import compare_raters
from napari_sparseattn.training.data.annotations import ImageRecord
from napari_sparseattn.training.data.project import Project, ProjectError
from napari_sparseattn.training.data.raters import one_class_each
from napari_sparseattn.training.data.slide_tables import SlideTableError, read_slide_table
from napari_sparseattn.training.data.taking_in import plan_arrivals, spell_classes
from napari_sparseattn.training.loop.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from napari_sparseattn.training.runs.reports import read_report
from napari_sparseattn.training.runs.runs import read_epochs, read_images, read_run

__all__ = ["TARGETS", "Target", "files_of"]

Files = dict[str, bytes]
_HASH = "0123456789abcdef" * 4
_SIDE, _TILE = 96, 32
# Pixels of a level that are read at each of its ends.
_WINDOW = 40
_MOST_LEVELS, _MOST_IMAGES = 6, 4


@dataclasses.dataclass(frozen=True)
class Target:
    """One family of files.

    Parameters
    ----------
    seeds : callable
        Writes sound inputs, each into a folder of its own.
    read : callable
        Reads the input in a folder; returns the bytes that it declared.
    refusals : tuple of type
        Errors by which a file may be refused; ``OSError`` is the system's.
    seconds : float
        After so many an input hangs.
    """

    seeds: Callable[[Path], None]
    read: Callable[[Path], int]
    refusals: tuple[type[Exception], ...]
    seconds: float = 10.0


def files_of(folder: Path) -> Files:
    """Return the files of an input, by their names with ``/``."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _only(folder: Path) -> Path:
    """Return the one file or folder of an input."""
    return next(path for path in sorted(folder.iterdir()))


@functools.cache
def _scene() -> npt.NDArray[np.uint8]:
    from bad_slides import scene

    return scene(_SIDE, _SIDE)


def _fresh(folder: Path) -> Callable[[str], Path]:
    """Return what gives the path of a new input with a file of that name."""
    numbers = iter(range(1000))

    def path(name: str) -> Path:
        own = folder / f"{next(numbers):03d}"
        own.mkdir(parents=True)
        return own / name

    return path


# -- pixels


def _write_slides(folder: Path) -> None:
    import tifffile

    from bad_slides import halves, write_svs
    from colour_profiles import wide_profile

    path, levels = _fresh(folder), halves(_scene(), 2)
    write_svs(path("a.svs"), levels, tile=_TILE)
    for compression in (None, "zlib", "lzw", "zstd", "packbits", "lzma", "lerc", "png"):
        options: dict[str, Any] = {"compression": compression, "metadata": None}
        if compression in ("zlib", "lzw"):
            options["predictor"] = True
        with tifffile.TiffWriter(path("a.tif")) as file:
            for level in levels:
                file.write(level, tile=(_TILE, _TILE), photometric="rgb", **options)
    with tifffile.TiffWriter(path("a.tif"), bigtiff=True, byteorder=">") as file:
        planes = levels[0].astype(np.uint16).transpose(2, 0, 1)
        options = {"photometric": "minisblack", "tile": (_TILE, _TILE)}
        file.write(planes, subifds=1, metadata={"axes": "CYX", "PhysicalSizeX": 0.5}, **options)
        file.write(planes[:, ::2, ::2], subfiletype=1, **options)
    with tifffile.TiffWriter(path("a.tif")) as file:
        for level in levels:
            own = {"tile": (_TILE, _TILE), "photometric": "rgb", "metadata": None}
            file.write(level, iccprofile=wide_profile(), planarconfig="separate" if level is
                       levels[0] else None, **own)  # fmt: skip
    tifffile.imwrite(path("a.tif"), _scene(), photometric="rgb", rowsperstrip=8, metadata=None)
    with tifffile.TiffWriter(path("a.ome.tif"), ome=True) as file:
        told = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        own = {"tile": (_TILE, _TILE), "photometric": "rgb", "compression": "zlib"}
        file.write(levels[0], subifds=1, metadata=told, **own)
        file.write(levels[1], subfiletype=1, **own)
        file.write(levels[1][:20, :30], photometric="rgb", metadata={"Name": "label"})


def _write_streams(folder: Path) -> None:
    import imagecodecs

    from bad_slides import write_encoded

    path, tile = _fresh(folder), np.ascontiguousarray(_scene()[:_TILE, :_TILE])
    j2k = functools.partial(imagecodecs.jpeg2k_encode, tile, codecformat="j2k")
    streams: list[tuple[bytes, int | str]] = [
        (imagecodecs.jpeg8_encode(tile, level=80), "jpeg"),
        (imagecodecs.jpeg8_encode(tile, level=80, subsampling="420"), "jpeg"),
        (_progressive(tile), "jpeg"),
        *((j2k(), kind) for kind in (33003, 33005, 34712)),
        (j2k(level=20, reversible=False, resolutions=3), 33005),
        (imagecodecs.webp_encode(tile), 50001),
        (imagecodecs.jpegxl_encode(tile), 50002),
        (imagecodecs.jpegxr_encode(tile), 22610),
    ]
    for stream, compression in streams:
        ycbcr = compression == "jpeg"
        options = {"compression": compression, "photometric": "ycbcr" if ycbcr else "rgb"}
        write_encoded(path("a.tif"), (_TILE, _TILE, 3), _TILE, iter([stream]), **options)


def _progressive(tile: npt.NDArray[np.uint8]) -> bytes:
    import io

    import PIL.Image

    held = io.BytesIO()
    PIL.Image.fromarray(tile).save(held, "JPEG", progressive=True)
    return held.getvalue()


def _read_slide(folder: Path) -> int:
    path = _only(folder)
    is_slide(path)
    with open_slide(path, threads=1) as slide:
        return _look(slide)


def _look(slide: Pyramid) -> int:
    """Read both ends of every level, the other images and the profile."""
    declared = 0
    for n, level in enumerate(slide.levels[:_MOST_LEVELS]):
        for y, x in ((0, 0), (level.height - _WINDOW, level.width - _WINDOW)):
            slide.read_region(y, x, n, _WINDOW, _WINDOW)
        piece = math.prod(level.tile) * slide.channels * slide.dtype.itemsize
        # What is read touches four of them, each decoded and put together.
        declared = max(declared, 4 * piece)
    for name in list(slide.associated)[:_MOST_IMAGES]:
        try:
            declared = max(declared, slide.associated[name].nbytes)
        except ImageError:
            continue
    assert isinstance(slide.icc_profile, bytes | None)
    return declared


def _write_fields(folder: Path) -> None:
    import tifffile

    path, grey = _fresh(folder), np.ascontiguousarray(_scene()[..., 0])
    write = tifffile.imwrite
    write(path("a.tif"), grey.astype(np.uint16), imagej=True, resolution=(4, 4),
          metadata={"unit": "um", "axes": "YX"})  # fmt: skip
    write(path("a.ome.tif"), np.stack([grey] * 6).reshape(2, 3, *grey.shape),
          metadata={"axes": "TCYX", "PhysicalSizeX": 0.3, "PhysicalSizeY": 0.3})  # fmt: skip
    write(path("a.tif"), grey[None] > 100, photometric="miniswhite")
    colours = np.stack([np.arange(256)] * 3).astype(np.uint16) * 257
    write(path("a.tif"), grey, photometric="palette", colormap=colours)
    write(path("a.tif"), grey.astype(np.float32), compression="zlib", predictor=True)
    write(path("a.tif"), np.stack([grey] * 4).astype("<u2"), metadata=None, rowsperstrip=_SIDE)
    write(path("a.tif"), _scene(), photometric="rgb", compression="jpeg",
          resolution=(20_000, 20_000), resolutionunit="CENTIMETER")  # fmt: skip
    turned = [(274, "H", 1, 6, True)]
    write(path("a.tif"), grey, extratags=turned, metadata=None)


def _read_field(folder: Path) -> int:
    """Read as a field of view and as a recording, which have readers of their own."""
    path, declared = _only(folder), 0
    refused: ImageError | None = None
    for read in (open_field, _hologram, functools.partial(_hologram, kind="phase")):
        try:
            declared = max(declared, read(path).data.nbytes)
        except ImageError as error:
            refused = error
    if not declared and refused is not None:
        raise refused
    return declared


@dataclasses.dataclass
class _Read:
    data: npt.NDArray[Any]


def _hologram(path: Path, **given: Any) -> _Read:
    recording = open_hologram(path, **given)
    n = len(recording)
    for frames in (recording.background, recording.amplitude):
        if frames is not None:
            np.asarray(frames[0:1])
    np.asarray(recording.frames[n - 1 : n])
    return _Read(np.asarray(recording.frames[0:1]))


def _write_pictures(folder: Path) -> None:
    import imagecodecs
    import PIL.Image

    from colour_profiles import wide_profile

    path, scene = _fresh(folder), _scene()[:48, :64]
    image = PIL.Image.fromarray(scene)
    for name, options in (
        ("a.png", {"icc_profile": wide_profile()}),
        ("a.jpg", {"icc_profile": wide_profile(), "exif": image.getexif()}),
        ("a.jpg", {"progressive": True}),
        ("a.bmp", {}),
    ):
        image.save(path(name), **options)
    image.convert("P").save(path("a.png"))
    image.convert("LA").save(path("a.png"))
    image.convert("1").save(path("a.bmp"))
    deep = np.ascontiguousarray(scene.astype(np.uint16) * 257)
    path("a.png").write_bytes(imagecodecs.png_encode(deep))
    np.save(path("a.npy"), scene)
    np.save(path("a.npy"), np.asfortranarray(scene[..., 0].astype(np.complex64)))
    np.savez(path("a.npz"), scene)


def _write_profiles(folder: Path) -> None:
    import tifffile

    from colour_profiles import same_profile, wide_profile

    path = _fresh(folder)
    for profile in (wide_profile(), same_profile()):
        for pixels in (_scene()[:16, :16], _scene()[:16, :16].astype(np.uint16) * 257):
            tifffile.imwrite(path("a.tif"), pixels, photometric="rgb", iccprofile=profile)


def _write_dicom(folder: Path) -> None:
    from bad_slides import halves, scene
    from dicom_slide import write_dicom

    write_dicom(_fresh(folder)("a"), halves(scene(128, 128), 2), 0.5, tile=64)


def _read_vendor(folder: Path) -> int:
    # Its process has 4 GiB of its own, which are not ours.
    with open_slide(_only(folder)) as slide:
        return _look(slide)


def _write_zarr(folder: Path) -> None:
    import zarr

    from bad_slides import halves

    path = _fresh(folder)
    levels = [level.transpose(2, 0, 1) for level in halves(_scene(), 2)]
    for version, options in ((2, {}), (3, {}), (3, {"shards": (1, 64, 64)})):
        place = path("a.zarr")
        group = zarr.open_group(place, mode="w", zarr_format=version)
        datasets = []
        for n, level in enumerate(levels):
            own = options if n == 0 else {}
            array = group.create_array(
                str(n), shape=level.shape, chunks=(1, _TILE, _TILE), dtype="u1", **own
            )
            array[:] = level
            scale = [1, 0.25 * 2**n, 0.25 * 2**n]
            datasets.append(
                {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
            )
        axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}]
        axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
        channels = [{"label": "DAPI", "color": "0000FF", "window": {"start": 0, "end": 9}}] * 3
        held = {"multiscales": [{"axes": axes, "datasets": datasets}]}
        held["omero"] = {"channels": channels}
        group.attrs.update(held if version == 2 else {"ome": {"version": "0.5", **held}})
        # The coarse level says enough of chunks.
        for chunk in sorted((place / "0").rglob("*"))[6:]:
            if chunk.is_file() and chunk.name not in (".zarray", ".zattrs", "zarr.json"):
                chunk.unlink()


# -- HDF5


def _write_hdf5(folder: Path) -> None:
    import h5py

    path, rng = _fresh(folder), np.random.default_rng(0)
    frames = rng.integers(1, 256, (5, 12, 20)).astype(np.uint8)
    told = {"imaging:pixel size": 0.34, "qpi:wavelength": 532.0, "qpi:medium index": 1.335}
    for names, packed in ((("qpi_oah", "qpi_oah_bg"), "gzip"), (("qpi_pha", "qpi_amp"), None)):
        with h5py.File(path("a.rtdc"), "w") as file:
            file.attrs.update({**told, "experiment:event count": 5})
            for name in names:
                values = frames if packed else frames.astype(np.float32)
                chunks = (2, 12, 20)
                file.create_dataset(
                    f"events/{name}", data=values, chunks=chunks, compression=packed
                )
            file["events/deform"] = np.linspace(0, 1, 5)
            file["logs/one"] = np.array([b"a line"] * 3)
    with h5py.File(path("a.h5"), "w", libver="latest") as file:
        for n in range(2):
            group = file.create_group(f"qpi_{n}")
            group.attrs.update({"pixel size": 1e-7, "wavelength": 5.5e-7, "medium index": 1.33})
            group["phase/raw"] = frames[n].astype(np.float64)
            group["phase/bg_data/data"] = 0.25 * frames[n]
            group["phase/bg_data/fit"] = 1.5
            group["amplitude/raw"] = frames[n].astype(np.float32)
    with h5py.File(path("a.h5"), "w") as file:
        file.attrs["imaging_modality"] = "off-axis holography"
        for n in range(2):
            file.create_dataset(str(n), data=frames[n], compression="lzf", shuffle=True)
            file[str(n)].attrs.update({"pixel size": 1e-7, "wavelength": 5.5e-7})


def _read_hdf5(folder: Path) -> int:
    path, declared = _only(folder), 0
    refused: ImageError | None = None
    readers: tuple[Callable[[Path], Any], ...] = (_hologram, read_as_field, event_count)
    for read in readers:
        try:
            found = read(path)
            declared = max(declared, found.data.nbytes if hasattr(found, "data") else 1)
        except ImageError as error:
            refused = error
    if not declared and refused is not None:
        raise refused
    return declared


_PARAMETERS = {
    "encoder": "random",
    "encoder_hash": "0" * 16,
    "slide_hash": "1" * 16,
    "grid_hash": "2" * 16,
    "width": 24,
}


def _write_features(folder: Path) -> None:
    import h5py

    path, rng = _fresh(folder), np.random.default_rng(0)
    cells = np.stack(np.mgrid[:6, :5], -1).reshape(-1, 2).astype(np.int32)
    share = np.ones(len(cells), np.float32)
    grid = PatchGrid(cells, 224.0, 224.0, 224, 0.5, (0.0, 0.0), share)
    values = rng.standard_normal((len(cells), 24)).astype(np.float32)
    valid = np.ones(len(cells), np.bool_)
    valid[3] = False
    write_features(path("a.h5"), grid, valid, iter([values[valid]]), _PARAMETERS)
    coords = cells[:, ::-1] * 256
    for names, about, own in (
        (("features", "coords"), {}, {}),
        (("features", "coords"), {}, {"patch_size_level0": 256, "level0_magnification": 40}),
        (("features", "coords"), {}, {"patch_size": 256, "patch_level": 1, "downsample": [4, 4]}),
        (("feats", "coords"), {"tile_size_um": 256.0, "tile_size_px": 224}, {}),
        (("feats", "cords"), {}, {}),
    ):
        with h5py.File(path("a.h5"), "w") as file:
            file.create_dataset(names[0], data=values, chunks=(7, 24), maxshape=(None, 24))
            file.create_dataset(names[1], data=coords, chunks=(7, 2), maxshape=(None, 2))
            file.attrs.update(about)
            file[names[1]].attrs.update(own)


def _read_features(folder: Path) -> int:
    path = _only(folder)
    with contextlib.suppress(FeatureError):
        kept_features(path, _PARAMETERS)
    found = read_features(path, slide_pixel_size=0.5)
    return int(found.read(slice(0, 64)).nbytes) + found.cells.nbytes


# -- models


def _write_models(folder: Path) -> None:
    from small_model import knowing, small_bundle
    from small_span import small_span_bundle
    from small_tnet import small_tnet_bundle

    path = _fresh(folder)
    for bundle in (small_bundle(), knowing(small_bundle()), small_tnet_bundle()):
        save_bundle(bundle, path("a.safetensors"))
    save_bundle(small_span_bundle(), path("a.safetensors"))


def _read_model(folder: Path) -> int:
    path = _only(folder)
    bundle = load_bundle(path)
    assert repr(bundle.card)
    return sum(tensor.nbytes for tensor in bundle.state.values())


# -- annotations


def _project(folder: Path) -> Project:
    project = Project(folder)
    for name in ("a", "b"):
        book = project.open(ImageRecord(name * 64, f"{name}.tif", (480, 640), 0.25))
        for n in range(4):
            book.rater = ("", "anna", "ben")[n % 3]
            book.add("cell", f"class {n % 2}", position=(1.5 * n, 2.0), diameter_px=9.0 + n)
        book.add("region", "tissue", polygon=((0, 0), (0, 9), (9.5, 9)))
        book.add("image", "whole")
        book.undo()
        book.relabel([book[0].id], "class 1")
        book.close()
    return project


def _write_project(folder: Path) -> None:
    place = _fresh(folder)("p")
    _project(place)
    for lock in place.rglob("*.lock"):
        lock.unlink()


def _read_project(folder: Path) -> int:
    project = Project(_only(folder))
    list(project.annotations())
    list(project.labelled())
    compare_raters(project.annotations())
    project.counts()
    project.add_classes(["another"])
    for record in project.images():
        book = project.open(record)
        try:
            book.add("cell", "another", position=(1.0, 2.0))
            book.undo()
            book.undo()
        finally:
            book.close()
    project.rename_class("another", "others")
    return 0


def _write_geojson(folder: Path) -> None:
    path = _fresh(folder)
    with tempfile.TemporaryDirectory() as place:
        project = _project(Path(place))
        for file in write_geojson_annotations(project, Path(place) / "out"):
            path("a.geojson").write_bytes(file.read_bytes())
    ring = [[0, 0], [0, 9], [9, 9.5], [0, 0]]
    kinds = {"Polygon": [ring, ring], "MultiPolygon": [[ring], [ring]], "Point": [1, 2]}
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"names": ["a", "b"]}, "label": "x"},
            "geometry": {"type": kind, "coordinates": places},
        }
        for kind, places in kinds.items()
    ]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    path("a.geojson").write_text(text, encoding="utf-8")


def _read_geojson(folder: Path) -> int:
    """Read as regions to train on and as annotations, which have readers of their own."""
    path = _only(folder)
    with contextlib.suppress(AnnotationFileError):
        for found in read_annotation_files(path):
            assert all(item.to_dict() for item in found.items)
    for region in read_regions(path):
        assert np.isfinite(region.outline).all()
    return 0


def _write_imports(folder: Path) -> None:
    """GeoJSON as we write it, and as QuPath does: cells, points, pieces, holes, packed."""
    path = _fresh(folder)
    with tempfile.TemporaryDirectory() as place:
        for file in write_geojson_annotations(_project(Path(place)), Path(place) / "out"):
            path("a.geojson").write_bytes(file.read_bytes())
    ring = [[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]
    hole = [[2, 2], [2, 4], [4, 4], [2, 2]]
    shapes = {"Polygon": [ring, hole], "MultiPolygon": [[ring, hole], [hole]],
              "MultiPoint": [[1, 2], [3, 4]], "LineString": ring}  # fmt: skip
    kinds = ("annotation", "cell", "detection", "tile")
    classes = ({"name": "a", "color": [1, 2, 3]}, {"name": "b", "colorRGB": -65536},
               {"names": ["a", "b"]}, {"name": "c", "parentClass": {"name": "d"}})  # fmt: skip
    features = [
        {
            "type": "Feature",
            "geometry": {"type": form, "coordinates": places, "plane": {"c": -1, "z": 1, "t": 2}},
            "nucleusGeometry": {"type": "Polygon", "coordinates": [hole]},
            "properties": {"objectType": kind, "classification": label, "childObjects": []},
        }
        for (form, places), kind, label in zip(shapes.items(), kinds, classes, strict=True)
    ]
    text = json.dumps(features).encode()
    path("a.geojson").write_bytes(text)
    path("a.geojson.gz").write_bytes(gzip.compress(text, mtime=0))
    with zipfile.ZipFile(path("a.zip"), "w") as packed:
        packed.writestr(zipfile.ZipInfo("b.geojson"), text)


def _read_imports(folder: Path) -> int:
    for found in read_annotation_files(_only(folder)):
        assert all(item.to_dict() for item in found.items)
        assert all(np.isfinite(item.outline).all() for item in found.items)
        items, classes = spell_classes(found.items, {}, found.colours)
        assert {item.label for item in items} <= set(classes)
        with contextlib.suppress(ValueError):
            taken = plan_arrivals(items[:3], items, (480, 640), "a")
            one_class_each((*taken.new, *taken.changed))
    return 0


def _write_coco(folder: Path) -> None:
    path = _fresh(folder)
    with tempfile.TemporaryDirectory() as place:
        write_coco_annotations(_project(Path(place)), path("a.json"))


def _read_coco(folder: Path) -> int:
    for items in read_coco_annotations(_only(folder)).values():
        assert all(item.to_dict() for item in items)
    return 0


# -- what we keep between one run and the next


def _write_state(folder: Path) -> None:
    import torch

    place = _fresh(folder)("run")
    place.mkdir()
    records = Records(place)
    records.prepare()
    output = Output(path="a.csv", size=3, sha256="0" * 64)
    about = {"content": "c", "model": "m", "model_hash": "h", "options": "o"}
    records.write(Record(key="a", input="a.tif", outputs={"csv": (output,)}, **about))
    job = {
        "format": 1,
        "name": "new",
        "model": "m.safetensors",
        "device": "cpu",
        "freeze": "none",
        "seconds": None,
        "kind": "cells",
        "class_names": ["a", "b"],
        "names": ["1"],
        "groups": ["1"],
        "notes": [],
    }
    epoch = {"epoch": 1, "epochs": 2, "loss": 0.5, "accuracy": 0.5, "seconds": 1.0}
    facts = {"axes": "YX", "pixel_size": None, "modality": "unknown", "unit": "", "name": "a"}
    texts = {
        "job.json": job,
        "epochs.json": epoch,
        "images.json": [{"hash": "a", "file": "image-0.npy", **facts}],
        "report.json": {"report": {"version": 1, "classes": ["a", "b"], "history": [epoch]}},
        "settings.json": {"format": "napari-sparseattn hologram settings", "version": 1},
    }
    for name, plain in texts.items():
        (place / name).write_text(json.dumps(plain), encoding="utf-8")
    settings = HologramSettings().to_text()
    (place / "settings.json").write_text(settings, encoding="utf-8")
    np.save(place / "image-0.npy", np.zeros((4, 4), np.uint8))
    with locked_parts(place / "f.h5", _PARAMETERS, 8, 20) as parts:
        parts.write(0, np.ones(8, np.bool_), np.ones((8, 24), np.float32))
    state = {"w": torch.zeros(2)}
    write_checkpoint(
        place / "run.safetensors",
        Checkpoint("x", 2, False, [epoch], 1, 0.5, state, dict(state)),
    )
    for lock in place.rglob("*lock"):
        lock.unlink()


def _read_state(folder: Path) -> int:
    place = _only(folder)
    records = Records(place)
    for record in records.read_all():
        records.intact_formats(record)
    list(records.read_failures())
    write_table(records)
    with (place / "epochs.json").open("rb") as file:
        (place / "epochs.jsonl").write_bytes(file.read())
    read_epochs(place)
    read_checkpoint(place / "run.safetensors", "x")
    said: list[Exception] = []
    for read in (
        lambda: read_run(place),
        lambda: read_images(place),
        lambda: read_report(place / "report.json"),
        lambda: HologramSettings.from_text((place / "settings.json").read_text("utf-8")),
        lambda: _take_up(place),
    ):
        try:
            read()
        except (ValueError, OSError) as error:
            said.append(error)
    return 0


def _take_up(place: Path) -> None:
    with locked_parts(place / "f.h5", _PARAMETERS, 8, 20) as parts:
        parts.done()


def _write_tables(folder: Path) -> None:
    path = _fresh(folder)
    for text in (
        "slide,label,group,split\na.svs,x,1,train\nb.svs,y,2,test\nc.svs,x,3,train\nd.svs,y,4,val\n",
        "slide,time (months),event\na.svs,3,1\nb.svs,4.5,0\nc.svs,1,1\nd.svs,9,0\n",
        "slide;value (kg)\na.svs;3\nb.svs;4.5\nc.svs;1\nd.svs;9\n",
        "id,row,column,diameter\n1,3,4,5\n2,9.5,8,6\n",
        "axis-0,axis-1,top,left,bottom,right\n3,4,1,2,5,6\n",
    ):
        table = path("a.csv")
        table.write_text(text, encoding="utf-8")
        for name in "abcd":
            (table.parent / f"{name}.svs").write_bytes(b"x")


def _read_tables(folder: Path) -> int:
    field = Field.from_array(np.zeros((40, 60), np.uint8), axes="YX", pixel_size=0.5)
    with contextlib.suppress(ImageError):
        read_cells(folder / "a.csv", field)
    read_slide_table(folder / "a.csv")
    return 0


TARGETS: dict[str, Target] = {
    "tiff slides": Target(_write_slides, _read_slide, (ImageError,)),
    "jpeg streams": Target(_write_streams, _read_slide, (ImageError,)),
    "tiff fields": Target(_write_fields, _read_field, (ImageError,)),
    "pictures": Target(_write_pictures, _read_field, (ImageError,)),
    "profiles": Target(_write_profiles, _read_field, (ImageError,)),
    # Its process may take 30 s to open and 10 s for a tile, and is killed then.
    "dicom": Target(_write_dicom, _read_vendor, (ImageError,), 90.0),
    "zarr": Target(_write_zarr, _read_slide, (ImageError,)),
    "hdf5": Target(_write_hdf5, _read_hdf5, (ImageError,)),
    "features": Target(_write_features, _read_features, (FeatureError, GridError)),
    "models": Target(_write_models, _read_model, (BundleError,)),
    "geojson": Target(_write_geojson, _read_geojson, (RegionError,)),
    "imports": Target(_write_imports, _read_imports, (AnnotationFileError,)),
    "coco": Target(_write_coco, _read_coco, (AnnotationFileError,)),
    "projects": Target(_write_project, _read_project, (ProjectError,)),
    "tables": Target(_write_tables, _read_tables, (SlideTableError,)),
    "state": Target(_write_state, _read_state, ()),
}


def seeds_of(name: str) -> Iterator[Files]:
    """Write the seeds of a target and give them as files."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        TARGETS[name].seeds(folder)
        for own in sorted(folder.iterdir()):
            yield files_of(own)
