"""Reconstruction of off-axis holograms: error against the truth, and frames per second.

    python benchmarks/holography.py [--repeats 20] [--skip-speed]

Accuracy is measured on SIMULATED holograms, whose truth is known. The real
HL60 series is measured where the folder of shared data is there.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.ndimage as ndi
import scipy.signal

from napari_sparseattn.images.fields.cells import cells_from_labels, find_cells
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.holograms import demodulate
from napari_sparseattn.images.holograms.files import open_hologram
from napari_sparseattn.images.holograms.holography import (
    HologramSettings,
    estimate_settings,
    iter_phase,
    retrieve,
)
from napari_sparseattn.images.holograms.measure import measure_opd
from napari_sparseattn.images.holograms.recording import Recording
from napari_sparseattn.simulate import (
    Optics,
    cell_opd,
    hologram,
    hologram_with_truth,
    image_field,
    sphere_opd,
)

SHAPE = (512, 512)
PIXEL = 0.12
CARRIERS = {
    "diagonal": (0.23, 0.23),
    "other diagonal": (-0.23, 0.23),
    "oblique": (0.12, -0.29),
    "along rows": (0.31, 0.0),
    "along columns": (0.0, -0.31),
}
SHARED = Path(
    os.environ.get("NAPARI_SPARSEATTN_SHARED", Path(__file__).resolve().parents[2] / "shared")
)


def independent(
    recording: Recording, carrier: tuple[float, float], wavelength: float
) -> np.ndarray:
    """Another way to OPD, which shares no code: filter in space, unwrap line by line.

    Multiply by the carrier, which is given; low-pass by a finite impulse
    response along rows and columns; unwrap by Itoh's method; take off the
    plane through the border.
    """
    # One tap beyond an odd length gives a filter that is symmetric about a pixel.
    taps = scipy.signal.firwin(61, 2 * np.hypot(*carrier) / 3, window="hamming")
    rows, columns = (np.arange(n) for n in recording.shape)
    wave = np.exp(-2j * np.pi * np.add.outer(carrier[0] * rows, carrier[1] * columns))

    def field(image: np.ndarray) -> np.ndarray:
        moved = (image - image.mean()) * wave
        for axis in (0, 1):
            moved = ndi.convolve1d(moved, taps, axis=axis, mode="nearest")
        return moved

    found = field(recording.frame(0).astype(np.float64))
    if (plain := recording.background_of(0)) is not None:
        found = found / field(plain.astype(np.float64))
    phase = np.unwrap(np.unwrap(np.angle(found), axis=0), axis=1)
    border = np.ones(phase.shape, bool)
    border[30:-30, 30:-30] = False
    y, x = np.meshgrid(rows, columns, indexing="ij")
    design = np.stack([np.ones(border.sum()), y[border], x[border]], axis=1)
    c, b, a = np.linalg.lstsq(design, phase[border], rcond=None)[0]
    return (phase - (c + b * y + a * x)) * wavelength / (2 * np.pi)


def rmse(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - truth) ** 2)))


def objects() -> dict[str, np.ndarray]:
    red = cell_opd("red cell", SHAPE, PIXEL, seed=1)
    return {"sphere": sphere_opd(SHAPE, PIXEL, 7.2, 0.1), "red cell": red}


def accuracy() -> None:
    print("SIMULATED holograms, 512 x 512 px, 0.12 µm per px, 633 nm, NA 0.55, 10,000 electrons,")
    print("8 bits, tilt of 0.7 and -0.4 waves; one hologram each. RMSE in nm over the whole field.")
    print(
        "'aperture' is against the truth as the objective passes it, 'truth' against the object.\n"
    )
    print("| object | carrier | background | truth | aperture | peak, of | independent, truth |")
    print("|---|---|---|---|---|---|---|")
    worst = 0.0
    for name, opd in objects().items():
        for direction, carrier in CARRIERS.items():
            for background in (True, False):
                optics = Optics(pixel_size=PIXEL, carrier=carrier, tilt=(0.7, -0.4))
                recording = hologram(opd, optics, seed=3, background=background)
                found = retrieve(recording, 0, estimate_settings(recording))
                assert found.opd is not None
                passed = np.angle(image_field(opd, optics))
                seen = np.unwrap(np.unwrap(passed, axis=0), axis=1) * optics.wavelength / 2 / np.pi
                other = independent(recording, carrier, optics.wavelength)
                error = rmse(found.opd, opd)
                worst = max(worst, error)
                print(
                    f"| {name} | {direction} | {'yes' if background else 'no'} | {error:.2f} "
                    f"| {rmse(found.opd, seen):.2f} | {found.opd.max():.0f} of {opd.max():.0f} "
                    f"| {rmse(other, opd):.2f} |"
                )
    print(f"\nworst of them: {worst:.2f} nm (aim: 5 nm)")


def padding() -> None:
    opd = objects()["sphere"]
    recording = hologram(opd, Optics(pixel_size=PIXEL, tilt=(0.7, -0.4)), seed=3)
    settings = estimate_settings(recording)
    maps = []
    for factor in (1.25, 2.0):
        demodulate._PADDING = factor
        maps.append(retrieve(recording, 0, settings).opd)
    demodulate._PADDING = 1.25
    change = rmse(maps[0], maps[1])
    print(f"padding to 2 instead of 1.25 sides changes the OPD by {change:.3f} nm RMS\n")


def speed(repeats: int) -> None:
    print("\nFrames per second, hologram to OPD (background field retrieved once), one process,")
    print(f"{os.environ.get('OMP_NUM_THREADS', 'default')} thread(s) for BLAS; best of three.\n")
    print("| frame | cells | frames/s |")
    print("|---|---|---|")
    for side in (512, 1024):
        for cells in (1, side * side // 26_000):
            optics = Optics(pixel_size=PIXEL)
            one, *_ = hologram_with_truth((side, side), 0, optics, n_cells=cells, background=True)
            frames = np.repeat(one.frame(0)[None], repeats, axis=0)
            recording = Recording(
                frames, "hologram", optics.pixel_size, optics.wavelength, background=one.background
            )
            settings = estimate_settings(recording)
            list(iter_phase(recording, settings, range(2)))
            best = 0.0
            for _ in range(3):
                began = time.perf_counter()
                for _ in iter_phase(recording, settings):
                    pass
                best = max(best, repeats / (time.perf_counter() - began))
            print(f"| {side} x {side} | {cells} | {best:.1f} |")


def hl60_series() -> None:
    archive = SHARED / "data/phase/hl60_phase_140.tar.lzma"
    if not archive.exists():
        print(f"\nHL60 series: not measured, {archive.name} is not there")
        return
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive, "r:xz") as tar:
            tar.extract("series.h5", folder, filter="data")
        recording = open_hologram(Path(folder) / "series.h5", wavelength=647, pixel_size=0.139)
        for profile in ("none", "tilt"):
            settings = HologramSettings(profile=profile, inverted=False)
            peaks, masses, areas = [], [], []
            for done in iter_phase(recording, settings):
                assert done.opd is not None
                field = Field(done.opd, "YX", 0.139, "opd", "nm")
                cells = find_cells(field)
                measured = measure_opd(field, cells)
                largest = int(np.argmax(measured["area_um2"]))
                peaks.append(measured["peak_opd_nm"][largest])
                masses.append(measured["dry_mass_pg"][largest])
                areas.append(measured["area_um2"][largest])
            spread = np.std(masses, ddof=1) / np.mean(masses)
            print(
                f"\nHL60, {len(masses)} views of one real cell (Schürmann et al. 2017), background "
                f"profile '{profile}':\n  peak OPD median {np.median(peaks):.0f} nm "
                f"({np.min(peaks):.0f} to {np.max(peaks):.0f}); dry mass {np.mean(masses):.1f} pg, "
                f"coefficient of variation {100 * spread:.1f} %; area {np.mean(areas):.0f} µm²"
            )


def hl60_hologram() -> None:
    path = SHARED / "data/phase/hl60_hologram.npz"
    if not path.exists():
        print(f"\nHL60 hologram: not measured, {path.name} is not there")
        return
    with np.load(path, allow_pickle=False) as arrays:
        data, plain = arrays["data"], arrays["bg_data"]
    print("\nHL60 hologram (qpretrieve's), wavelength and pixel size not stated in the file:")
    maps = {}
    for name, background in (("with", plain[None]), ("without", None)):
        recording = Recording(data[None], "hologram", background=background)
        done = retrieve(recording, 0, estimate_settings(recording))
        cells = cells_from_labels(find_cells(Field(done.phase, "YX")).labels)
        maps[name] = done.phase
        print(f"  {name} background hologram: peak {done.phase.max():.2f} rad, {len(cells)} cell")
    print(f"  they differ by {rmse(maps['with'], maps['without']):.2f} rad RMS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--skip-speed", action="store_true")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    padding()
    accuracy()
    hl60_series()
    hl60_hologram()
    if not arguments.skip_speed:
        speed(arguments.repeats)


if __name__ == "__main__":
    main()
