from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from napari_sparseattn.images.fields.cells import cells_from_points
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.holograms.holography import (
    HologramSettings,
    estimate_settings,
    reconstruct,
    retrieve,
)
from napari_sparseattn.images.holograms.measure import MEASURES, measure_opd
from napari_sparseattn.images.holograms.recording import Recording
from napari_sparseattn.inference.cells import classify_cells, iter_cells, join
from napari_sparseattn.inference.holograms import central_scores, iter_recording
from napari_sparseattn.simulate import Optics, hologram_with_truth
from small_model import small_bundle

BUNDLE = small_bundle(1, modality="opd", unit="nm")


@pytest.fixture(scope="module")
def stack() -> tuple[Recording, int]:
    """Two simulated frames, each of three cells in the same places."""
    recording, _, cells, _ = hologram_with_truth(
        (200, 200), 1, Optics(), kinds=["lymphocyte-like", "bead"], n_cells=3, background=True
    )
    frames = np.repeat(recording.frame(0)[None], 2, axis=0)
    return dataclasses.replace(recording, frames=frames), len(cells)


def test_every_frame_is_reconstructed_classified_and_measured(
    stack: tuple[Recording, int],
) -> None:
    recording, n_cells = stack
    results = list(iter_recording(recording, bundle=BUNDLE))
    assert [result.index for result in results] == [0, 1]
    for result in results:
        assert (result.field.unit, result.field.modality) == ("nm", "opd")
        predictions = result.predictions
        assert predictions is not None
        assert len(predictions) == n_cells
        again = measure_opd(result.field, predictions.cells)
        assert set(predictions.measures) == set(MEASURES)
        for name in MEASURES:
            assert np.array_equal(predictions.measures[name], again[name])
        assert list(predictions.to_frame().columns[-4:]) == list(MEASURES)
    whole = reconstruct(recording)
    assert np.array_equal(results[1].field.data, whole.data[1])


def test_without_a_model_nothing_is_classified(stack: tuple[Recording, int]) -> None:
    result = next(iter_recording(stack[0]))
    assert result.predictions is None


def test_phase_does_not_pass_for_opd(stack: tuple[Recording, int]) -> None:
    recording = dataclasses.replace(stack[0], wavelength=None)
    with pytest.raises(ValueError, match="trained on opd"):
        next(iter_recording(recording, bundle=BUNDLE))


def test_settings_reach_every_frame(stack: tuple[Recording, int]) -> None:
    recording, _ = stack
    settings = dataclasses.replace(estimate_settings(recording), flip=True)
    flipped = [result.field.data for result in iter_recording(recording, settings)]
    plain = retrieve(recording, 0, estimate_settings(recording)).opd
    assert plain is not None
    for frame in flipped:
        assert np.allclose(frame, -plain, atol=1)
    assert HologramSettings() != settings


def test_the_middle_cell_is_the_event() -> None:
    field = Field(np.zeros((40, 60), np.float32), "YX", 0.5, "opd", "nm")
    points = [[(5, 5), (20, 31)], [], [(35, 50)]]
    found = [
        classify_cells(field, cells_from_points(p, (40, 60), diameter=6), BUNDLE, "cpu")
        for p in points
    ]
    scores = central_scores(found, (40, 60))
    assert set(scores) == {"round", "lobed", "small"}
    assert scores["lobed"][0] == pytest.approx(found[0].probabilities[1, 1])
    assert np.isnan(scores["lobed"][1])
    assert scores["lobed"][2] == pytest.approx(found[2].probabilities[0, 1])
    assert central_scores([], (40, 60)) == {}


def test_measures_follow_their_cells_through_batches_and_subsets() -> None:
    opd = np.zeros((40, 60), np.float32)
    opd[:, 30:] = 100
    field = Field(opd, "YX", 0.5, "opd", "nm")
    cells = cells_from_points([(20, 10), (20, 50), (20, 40)], (40, 60), diameter=6)
    whole = join(list(iter_cells(field, cells, BUNDLE, "cpu", batch_size=2)))
    assert whole.measures["mean_opd_nm"].tolist() == [0, 100, 100]
    one = classify_cells(field, cells, BUNDLE, "cpu", only=[1])
    assert one.measures["mean_opd_nm"].tolist() == [100]
    plain = Field(opd, "YX", 0.5)
    with pytest.raises(ValueError, match="does not say that its grey values are nm"):
        classify_cells(plain, cells, BUNDLE, "cpu")


def test_columns_of_another_length_are_refused() -> None:
    field = Field(np.zeros((40, 60), np.float32), "YX", 0.5, "opd", "nm")
    cells = cells_from_points([(20, 10)], (40, 60), diameter=6)
    found = classify_cells(field, cells, BUNDLE, "cpu")
    with pytest.raises(ValueError, match="dry_mass_pg has shape"):
        dataclasses.replace(found, measures={"dry_mass_pg": np.zeros(2)})
