"""Simulated off-axis holograms: what a camera records of cells of known OPD.

The steps are those of the microscope: the cells delay and slightly absorb a
plane wave; dust and rough surfaces add speckle; the objective passes what its
aperture lets through, in or out of focus; a reference wave at an angle makes
fringes; the camera counts electrons. The image is periodic: what leaves it on
one side enters on the other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage as ndi

from ..images.fields.cells import Cells
from ..images.fields.field import Field
from ..images.holograms.recording import Recording
from .cell_ranges import KINDS, CellKind
from .phase_cells import Parameters
from .phase_fields import opd_field

__all__ = ["Optics", "hologram", "hologram_with_truth", "image_field", "propagate"]

#: Share of the camera's range that the brightest fringe fills on average.
_FILL = 0.8

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Optics:
    """A microscope for off-axis holography.

    Parameters
    ----------
    wavelength : float
        Vacuum wavelength in nm.
    pixel_size : float
        µm per pixel in the sample plane.
    medium_index : float
        Refractive index around the cells.
    na : float
        Numerical aperture: spatial frequencies above ``na / wavelength`` do
        not pass.
    defocus : float
        µm from the cells' plane to the plane that is imaged.
    carrier : (float, float)
        Fringe frequency in cycles per pixel along rows and columns. The
        spectrum's sideband at this place has the cells' phase with its own
        sign, the one opposite has it reversed.
    visibility : float
        Contrast of the fringes, 0 to 1.
    tilt : (float, float)
        Waves by which the phase rises across the height and the width.
    curvature : float
        Waves by which the phase rises from the centre to the corners.
    speckle : float
        Standard deviation of the coherent noise: of its phase in rad, and of
        its amplitude relative to the mean. The same in all frames and in the
        background.
    speckle_length : float
        Correlation length of the speckle in µm.
    absorption : float
        Optical density (natural logarithm) per µm of optical path difference.
    electrons : float
        Mean electrons per pixel, which set the shot noise; infinite: none.
    bits : {8, 16}
        Of the camera.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    wavelength: float = 633.0
    pixel_size: float = 0.12
    medium_index: float = 1.335
    na: float = 0.55
    defocus: float = 0.0
    carrier: tuple[float, float] = (0.23, 0.23)
    visibility: float = 0.8
    tilt: tuple[float, float] = (0.0, 0.0)
    curvature: float = 0.0
    speckle: float = 0.0
    speckle_length: float = 1.0
    absorption: float = 0.0
    electrons: float = 10_000.0
    bits: int = 8

    def __post_init__(self) -> None:
        for name in ("wavelength", "pixel_size", "medium_index", "na", "electrons"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.visibility <= 1:
            raise ValueError(f"visibility must be above 0 and at most 1, got {self.visibility}")
        if self.na >= self.medium_index:
            raise ValueError(
                f"the aperture {self.na} must be below the medium's index {self.medium_index}"
            )
        if self.bits not in (8, 16):
            raise ValueError(f"cameras of 8 or 16 bits can be simulated, not {self.bits}")
        if self.speckle < 0 or self.speckle_length <= 0:
            raise ValueError("speckle must not be negative, and its length positive")
        if max(map(abs, self.carrier)) >= 0.5 or not any(self.carrier):
            raise ValueError(
                f"the carrier must lie within 0.5 cycles per pixel and not be 0, got {self.carrier}"
            )

    @property
    def cutoff(self) -> float:
        """Highest spatial frequency that passes, in cycles per pixel."""
        return self.na / (self.wavelength / 1e3) * self.pixel_size


def propagate(field: Complex, distance: float, optics: Optics) -> Complex:
    """Propagate a complex field (H, W) by `distance` µm: angular spectrum method.

    The phase of a plane wave along the axis is taken off, so a field without
    structure does not change. Evanescent waves are dropped.
    """
    return _filter(field, distance, optics, math.inf)


def image_field(
    opd: npt.NDArray[np.floating], optics: Optics, speckle: Complex | float = 1
) -> Complex:
    """Complex field (H, W) that the objective makes of cells, 1 where there are none.

    Parameters
    ----------
    opd : numpy.ndarray, shape (H, W)
        Optical path difference in nm.
    optics : Optics
        Of which wavelength, absorption, aperture and defocus are used.
    speckle : numpy.ndarray, shape (H, W), complex, optional
        Multiplies the light that falls on the cells.
    """
    wave = np.exp((2j * math.pi / optics.wavelength - optics.absorption / 2e3) * np.asarray(opd))
    return _filter(wave * speckle, optics.defocus, optics, optics.na)


def hologram(
    opd: npt.NDArray[np.floating],
    optics: Optics | None = None,
    seed: int | np.random.Generator = 0,
    *,
    background: bool = False,
    name: str = "simulated hologram",
) -> Recording:
    """Record simulated off-axis holograms of known optical path difference.

    Parameters
    ----------
    opd : numpy.ndarray, shape (H, W) or (n, H, W)
        Optical path difference in nm; a stack gives a frame each.
    optics : Optics, optional
        The microscope.
    seed : int or numpy.random.Generator
        Of speckle and shot noise.
    background : bool
        Whether to record the same light without cells, too.
    name : str
        Of the recording.

    Returns
    -------
    Recording
        Kind ``"hologram"``, uint8 or uint16, with all that is known of the optics.

    Raises
    ------
    ValueError
        If `opd` is neither an image nor a stack.
    """
    optics = Optics() if optics is None else optics
    frames = np.asarray(opd)
    if frames.ndim == 2:
        frames = frames[None]
    if frames.ndim != 3 or frames.size == 0:
        raise ValueError(f"OPD must be an image (H, W) or a stack (n, H, W), got {frames.shape}")
    rng = np.random.default_rng(seed)
    shape = (frames.shape[1], frames.shape[2])
    speckle = _speckle(shape, optics, rng)
    reference = _reference(shape, optics)
    recorded = [_record(image_field(f, optics, speckle), reference, optics, rng) for f in frames]
    empty = None
    if background:
        bare = image_field(np.zeros(shape), optics, speckle)
        empty = _record(bare, reference, optics, rng)[None]
    return Recording(
        np.stack(recorded),
        "hologram",
        optics.pixel_size,
        optics.wavelength,
        optics.medium_index,
        background=empty,
        name=name,
        notes=("simulated",),
    )


def hologram_with_truth(
    shape: tuple[int, int] = (512, 512),
    seed: int = 0,
    optics: Optics | None = None,
    *,
    kinds: Sequence[CellKind] = KINDS,
    n_cells: int | None = None,
    params: Mapping[CellKind, Parameters] | None = None,
    background: bool = False,
) -> tuple[Recording, Field, Cells, tuple[CellKind, ...]]:
    """Record a simulated hologram of several cells; also return what it shows.

    Parameters
    ----------
    shape, seed, kinds, n_cells, params
        As of `opd_field`.
    optics, background
        As of `hologram`.

    Returns
    -------
    recording : Recording
        One frame.
    truth : Field
        The exact optical path difference in nm.
    cells : Cells
        Where the cells are.
    kinds : tuple of str
        The kind of each cell.
    """
    optics = Optics() if optics is None else optics
    rng = np.random.default_rng(seed)
    truth, cells, drawn = opd_field(
        shape,
        optics.pixel_size,
        rng,
        kinds=kinds,
        n_cells=n_cells,
        medium_index=optics.medium_index,
        params=params,
    )
    return hologram(truth.data, optics, rng, background=background), truth, cells, drawn


def _filter(field: Complex, distance: float, optics: Optics, na: float) -> Complex:
    """Apply the aperture and a distance in µm in the spatial frequencies."""
    rows, columns = (scipy.fft.fftfreq(n, optics.pixel_size) for n in field.shape)
    square = rows[:, None] ** 2 + columns[None] ** 2
    wavelength = optics.wavelength / 1e3
    limit = optics.medium_index / wavelength
    axial = np.sqrt(np.maximum(limit**2 - square, 0)) - limit
    passed = square <= min(na / wavelength, limit) ** 2
    spectrum = scipy.fft.fft2(field) * passed * np.exp(2j * math.pi * distance * axial)
    result: Complex = scipy.fft.ifft2(spectrum)
    return result


def _speckle(shape: tuple[int, int], optics: Optics, rng: np.random.Generator) -> Complex | float:
    if optics.speckle == 0:
        return 1.0
    # The noise of two points this far apart correlates by exp(-1).
    sigma = optics.speckle_length / optics.pixel_size / 2
    noise = [ndi.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap") for _ in range(2)]
    amplitude, phase = (optics.speckle * n / max(float(n.std()), 1e-12) for n in noise)
    speckle: Complex = np.maximum(1 + amplitude, 0.05) * np.exp(1j * phase)
    return speckle


def _reference(shape: tuple[int, int], optics: Optics) -> Complex:
    """Phase factor of the fringes, with the beams' misalignment."""
    y, x = (np.arange(n) for n in shape)
    v, u = ((np.arange(n) + 0.5) / n - 0.5 for n in shape)
    waves = optics.carrier[0] * y[:, None] + optics.carrier[1] * x[None]
    waves = waves + optics.tilt[0] * v[:, None] + optics.tilt[1] * u[None]
    waves = waves + optics.curvature * 2 * (v[:, None] ** 2 + u[None] ** 2)
    factor: Complex = np.exp(2j * math.pi * waves)
    return factor


def _record(
    field: Complex, reference: Complex, optics: Optics, rng: np.random.Generator
) -> npt.NDArray[np.unsignedinteger]:
    """Intensity of the two beams as the camera's numbers."""
    fringes = optics.visibility * np.real(field * reference)
    intensity: Real = np.maximum((1 + np.abs(field) ** 2) / 2 + fringes, 0)
    if math.isfinite(optics.electrons):
        intensity = rng.poisson(optics.electrons * intensity) / optics.electrons
    top = 2**optics.bits - 1
    scale = _FILL * top / (1 + optics.visibility)
    kind = np.uint8 if optics.bits == 8 else np.uint16
    counts: npt.NDArray[np.unsignedinteger] = np.clip(np.rint(scale * intensity), 0, top).astype(
        kind
    )
    return counts
