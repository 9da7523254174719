"""Phase files of Phasics' SID4Bio ("SID PHA….tif"): three TIFF pages with private tags.

Page 0 is intensity, page 1 phase in wavelengths, page 2 phase in nm, that is
optical path difference. Values are
``pixel x (highest - lowest) / MaxSampleValue + lowest``, with `highest` in tag
61242 and `lowest` in 61243; tag 61238 is XML on how the file was made.

Source: qpformat, `SinglePhasePhasicsTif`. In the sample file the two phase
pages agree: 1.82363427 wavelengths of 550 nm are the 1002.99884 nm of page 2.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ImageError
from .recording import Recording

if TYPE_CHECKING:
    import tifffile

__all__ = ["is_phasics", "read_phasics"]

_XML, _HIGHEST, _LOWEST = 61238, 61242, 61243
_MAX_SAMPLE_VALUE = 281
# qpformat's: intensities below this are the camera's dark level.
_DARK = 150.0
_HUGE = 1e12


def is_phasics(tif: tifffile.TiffFile) -> bool:
    """Return whether a TIFF has Phasics' three pages."""
    if len(tif.pages) != 3:
        return False
    return all(code in page.tags for page in _pages(tif) for code in (_XML, _HIGHEST, _LOWEST))


def read_phasics(tif: tifffile.TiffFile, path: Path) -> Recording:
    """Read optical path difference in nm and amplitude from a Phasics TIFF.

    The phase in wavelengths is used, because it is of the same exposure as
    the intensity (qpformat), times the wavelength set in Phasics' software;
    without that, the page in nm. The pixel size in the file is the camera's,
    and its magnification is often left at 1: both are told in `notes`, and
    the pixel size in the sample is not guessed.

    Raises
    ------
    ImageError
        If the pages differ in size, or the file holds no phase.
    """
    intensity, waves, nanometres = _pages(tif)
    if not intensity.shape == waves.shape == nanometres.shape or len(intensity.shape) != 2:
        raise ImageError(f"{path.name} has pages of different sizes; export it again")
    xml = str(intensity.tags[_XML].value)[: 2**20]
    wavelength = _value(xml, "Lambda(nm)")
    if wavelength is not None and not 10 < wavelength < 1e5:
        wavelength = None
    opd = _scale(nanometres) if wavelength is None else _scale(waves) * wavelength
    if not np.ptp(opd) > 0:
        raise ImageError(f"{path.name} holds no phase: all its values are {opd.flat[0]:g}")
    bright = np.clip(_scale(intensity) - _DARK, 0, None)
    notes = []
    if wavelength is not None:
        notes.append(
            f"{wavelength:g} nm is the wavelength set in Phasics' software; the optical path "
            "difference was computed with it"
        )
    camera = _value(xml, "TaillePixPhase_µm")
    magnification = _value(xml, "Grandissement")
    if camera is not None:
        notes.append(
            f"phase pixels are {camera:.4g} µm on the camera, magnification {magnification or 1:g} "
            "in the file; give the pixel size in the sample"
        )
    return Recording(
        opd[np.newaxis].astype(np.float32),
        "opd",
        wavelength=wavelength,
        amplitude=np.sqrt(bright)[np.newaxis].astype(np.float32),
        name=path.stem,
        path=path,
        notes=tuple(notes),
    )


def _pages(tif: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    # Frames of a series lack the tags, of which each page here has its own.
    import tifffile

    pages = [tif.pages[n] for n in range(3)]
    return [p.aspage() if isinstance(p, tifffile.TiffFrame) else p for p in pages]


def _scale(page: tifffile.TiffPage) -> npt.NDArray[np.float64]:
    highest, lowest = (float(page.tags[code].value) for code in (_HIGHEST, _LOWEST))
    tag = page.tags.get(_MAX_SAMPLE_VALUE)
    top = float(np.ravel(tag.value)[0]) if tag is not None else 0.0
    pixels: npt.NDArray[Any] = page.asarray()
    if not (top > 0 and abs(highest) < _HUGE and abs(lowest) < _HUGE):
        return np.zeros(pixels.shape)
    return pixels * ((highest - lowest) / top) + lowest


def _value(xml: str, name: str) -> float | None:
    """Return a number of the XML; read without a parser, which a file could exhaust."""
    found = re.findall(rf"<Name>{re.escape(name)}</Name>\s{{0,9}}<Val>([^<]{{1,40}})</Val>", xml)
    try:
        values = {float(text.replace(",", ".")) for text in found}
    except ValueError:
        return None
    return values.pop() if len(values) == 1 else None
