"""Writes a DICOM whole-slide image of JPEG tiles, as small as readers accept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, generate_uid

_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"


def write_dicom(
    folder: Path,
    levels: Sequence[npt.NDArray[np.uint8]],
    pixel_size: float,
    tile: int = 256,
    paths: int = 1,
) -> Path:
    """Write one file per level; sides are whole tiles. Further optical paths hold the same."""
    folder.mkdir()
    uids = [generate_uid() for _ in range(4)]
    for n, level in enumerate(levels):
        _write_level(folder / f"{n}.dcm", level, pixel_size * 2**n, tile, uids, n, paths)
    return folder


def _write_level(
    path: Path,
    pixels: npt.NDArray[np.uint8],
    pixel_size: float,
    tile: int,
    uids: list[str],
    n: int,
    paths: int,
) -> None:
    height, width = pixels.shape[:2]
    frames = [
        imagecodecs.jpeg8_encode(
            np.ascontiguousarray(pixels[y : y + tile, x : x + tile]), level=95, subsampling="422"
        )
        for y in range(0, height, tile)
        for x in range(0, width, tile)
    ] * paths
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = _CLASS, generate_uid()
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = _CLASS, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID, ds.PyramidUID = uids
    ds.Modality, ds.PatientID, ds.PatientName, ds.ContainerIdentifier = "SM", "1", "A^B", "1"
    ds.StudyDate = ds.ContentDate = "20260101"
    ds.StudyTime = ds.ContentTime = "000000"
    ds.AcquisitionDateTime = "20260101000000"
    ds.ImageType = ["ORIGINAL" if n == 0 else "DERIVED", "PRIMARY", "VOLUME"]
    ds.ImageType.append("NONE" if n == 0 else "RESAMPLED")
    ds.Rows = ds.Columns = tile
    ds.TotalPixelMatrixRows, ds.TotalPixelMatrixColumns = height, width
    ds.NumberOfFrames, ds.InstanceNumber = len(frames), n + 1
    ds.DimensionOrganizationType, ds.SamplesPerPixel, ds.PlanarConfiguration = "TILED_FULL", 3, 0
    ds.PhotometricInterpretation = "YBR_FULL_422"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.LossyImageCompression, ds.FocusMethod = "01", "AUTO"
    ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = 10, "ISO_10918_1"
    ds.ExtendedDepthOfField, ds.BurnedInAnnotation, ds.VolumetricProperties = "NO", "NO", "VOLUME"
    ds.SpecimenLabelInImage = "NO"
    ds.ImagedVolumeWidth, ds.ImagedVolumeHeight = (
        width * pixel_size / 1e3,
        height * pixel_size / 1e3,
    )
    ds.ImagedVolumeDepth, ds.ImageOrientationSlide = 1.0, [0, 1, 0, 1, 0, 0]
    ds.TotalPixelMatrixFocalPlanes, ds.NumberOfOpticalPaths = 1, paths
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0
    ds.TotalPixelMatrixOriginSequence = [origin]
    ds.OpticalPathSequence = []
    for number in range(paths):
        optical = Dataset()
        optical.OpticalPathIdentifier = str(number + 1)
        ds.OpticalPathSequence.append(optical)
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = [pixel_size / 1e3, pixel_size / 1e3], 0.001
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path, enforce_file_format=True)
