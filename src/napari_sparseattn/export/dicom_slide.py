"""The DICOM slide that a result is of, and what every DICOM file made of it says."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..images.errors import ImageError
from ..images.slides.opening import is_dicom
from .request import Export

if TYPE_CHECKING:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.sr import CodedConcept
    from pydicom import Dataset

__all__ = [
    "Named",
    "describe_algorithm",
    "describe_instance",
    "own_code",
    "read_slide",
    "why_no_dicom",
]

_SOFTWARE = "napari-sparseattn"
#: Of codes that no standard has; the standard wants the 99.
_SCHEME = "99NAPARISA"
_MOST_MEANING = 64
#: Readers want them, though they may be empty, and some scanners leave them out.
_MAY_BE_EMPTY = (
    "AccessionNumber", "PatientBirthDate", "PatientID", "PatientName", "PatientSex",
    "ReferringPhysicianName", "StudyDate", "StudyID", "StudyTime",
)  # fmt: skip
_NEEDED = ("FrameOfReferenceUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_INSTEAD = "export GeoJSON or OME-Zarr, which need no DICOM slide"


class Named(Protocol):
    """An image with a name, and the file it is from."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def path(self) -> Path | None:
        """The file; None for an image in memory."""


def why_no_dicom(image: Named) -> str:
    """Say why no DICOM file can be made of results of an image; empty if one can be.

    Looks at first bytes and names alone; `read_slide` looks closer.
    """
    if image.path is not None and is_dicom(image.path):
        return ""
    name = image.name or "the image"
    return (
        f"DICOM annotations and maps refer to places on a DICOM slide, and {name} is none. Open "
        f"the slide's DICOM files themselves, or {_INSTEAD}"
    )


def read_slide(export: Export, *needed: str) -> Dataset:
    """Read what the DICOM slide says of the image that the result is of, without pixels.

    Parameters
    ----------
    export : Export
        Cells, a field or a slide.
    *needed : str
        More attributes that have to be there, by keyword.

    Returns
    -------
    pydicom.Dataset
        Of the level of the result's size; attributes that may be empty are there.

    Raises
    ------
    ValueError
        If it is no DICOM slide, or says too little to refer to; the message
        says what to do.
    """
    from ..images.slides.dicom import read_description

    if why := why_no_dicom(export.image):
        raise ValueError(why)
    path = export.image.path
    assert path is not None
    try:
        held = read_description(path, export.shape)
    except ImageError as error:
        raise ValueError(
            f"{error}. Classify the slide as it was opened from its files, or {_INSTEAD}"
        ) from error
    lacking = [name for name in (*_NEEDED, *needed) if not held.get(name)]
    if "FrameOfReferenceUID" in lacking:
        raise ValueError(
            f"{path.name} has no frame of reference (FrameOfReferenceUID), so that nothing can "
            f"refer to places on it. Convert the slide again, e.g. by wsidicomizer, or {_INSTEAD}"
        )
    if lacking:
        raise ValueError(
            f"{path.name} lacks {', '.join(lacking)}, which DICOM files made of it need. Convert "
            f"the slide again, e.g. by wsidicomizer, or {_INSTEAD}"
        )
    for name in _MAY_BE_EMPTY:
        if name not in held:
            setattr(held, name, "")
    return held


def describe_instance(export: Export) -> dict[str, Any]:
    """Return what names a new instance in a series of its own, and who made it."""
    from highdicom import UID

    return {
        "series_instance_uid": UID(),
        "series_number": 1,
        "sop_instance_uid": UID(),
        "instance_number": 1,
        "manufacturer": _SOFTWARE,
        "manufacturer_model_name": _SOFTWARE,
        "software_versions": importlib.metadata.version(_SOFTWARE),
        "device_serial_number": export.first.model_hash[:16],
        "content_description": _cut(f"By {export.model}"),
    }


def describe_algorithm(export: Export) -> AlgorithmIdentificationSequence:
    """Return which model it was, with all that is known of where the result came from."""
    from highdicom import AlgorithmIdentificationSequence
    from pydicom.sr.codedict import codes

    return AlgorithmIdentificationSequence(
        name=_cut(export.card.name),
        family=codes.DCM.ArtificialIntelligence,
        version=export.first.model_hash,
        source=_SOFTWARE,
        parameters={name: str(value) for name, value in export.provenance.items()},
    )


def own_code(meaning: str) -> CodedConcept:
    """Return a code of this package for what no standard has one; the same for one meaning."""
    from highdicom.sr import CodedConcept

    value = hashlib.sha1(meaning.encode(), usedforsecurity=False).hexdigest()[:12]
    return CodedConcept(value, _SCHEME, _cut(meaning))


def _cut(text: str) -> str:
    """Return text that fits DICOM's long strings, in which a backslash parts values."""
    return text.replace("\\", "/")[:_MOST_MEANING]
