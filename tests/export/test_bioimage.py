"""BioImage.IO packages: what their own library makes of them."""

from __future__ import annotations

import dataclasses
import functools
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioimageio.core import create_prediction_pipeline
from bioimageio.core import test_model as tried
from bioimageio.core.digest_spec import create_sample_for_model
from bioimageio.spec import load_model_description
from PIL import Image

from napari_sparseattn.bundle import Bundle, load_bundle
from napari_sparseattn.export import bioimage
from napari_sparseattn.export.bioimage import export_bioimage
from napari_sparseattn.export.onnx_model import ModelExportError
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.inference.cells import classify_crops
from small_model import small_bundle
from small_tnet import small_tnet_bundle

from .test_onnx_model import adds_to_places, check, real_crops

# Their library leaves files open that it packs.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test reach a network: whoever tries gets an error."""
    import socket

    def refuse(*_: Any) -> None:
        raise AssertionError("something reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """One of a model in nm, whose normalisation is an operation of theirs."""
    bundle = small_bundle(
        1,
        unit="nm",
        modality="opd",
        normalisation=Normalisation("fixed", 40.0, 80.0),
        weights_licence="CC-BY-4.0",
    )
    path = tmp_path_factory.mktemp("bioimage") / "small.zip"
    export_bioimage(bundle, path, authors=["Ada Example"])
    return bundle, path


def test_their_own_test_passes_and_can_fail(package: tuple[Bundle, Path], tmp_path: Path) -> None:
    _, path = package
    assert tried(path, weight_format="onnx").status == "passed"
    # Were an expected output another, it would not.
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "test_logits.npy":
                array = np.load(io.BytesIO(content))
                held = io.BytesIO()
                np.save(held, array + 0.1)
                content = held.getvalue()
            target.writestr(name, content)
    assert tried(other, weight_format="onnx").status == "failed"


def test_the_newest_description_is_used_and_nothing_in_it_is_objected_to(
    package: tuple[Bundle, Path],
) -> None:
    import bioimageio.spec
    from bioimageio.spec.model import v0_5

    found = bioimageio.spec.load_description(package[1], perform_io_checks=True)
    assert isinstance(found, v0_5.ModelDescr)
    assert found.format_version == v0_5.ModelDescr.implemented_format_version
    summary = found.validation_summary
    assert summary.status != "failed"
    assert not [error for detail in summary.details for error in detail.errors]
    # A picture to look at is wanted of each tensor; the cover is one.
    warned = {entry.loc[-1] for detail in summary.details for entry in detail.warnings}
    assert warned <= {"sample_tensor"}


def test_it_holds_weights_and_data_but_no_code(package: tuple[Bundle, Path]) -> None:
    with zipfile.ZipFile(package[1]) as archive:
        names = archive.namelist()
        cover = Image.open(io.BytesIO(archive.read("cover.png")))
        page = archive.read("README.md").decode()
    endings = {Path(name).suffix for name in names}
    assert endings == {".yaml", ".onnx", ".npy", ".png", ".md", ".json"}
    assert cover.width == 2 * cover.height
    assert "40" in page
    assert "(value - 40) / 80" in page
    assert "no medical device" in page


def test_the_description_says_what_the_card_says(package: tuple[Bundle, Path]) -> None:
    bundle, path = package
    described = load_model_description(path)
    assert [author.name for author in described.authors] == ["Ada Example"]
    assert described.license == "CC-BY-4.0"
    assert any("2505.07661" in str(entry.doi) for entry in described.cite)
    (crops,) = described.inputs
    _, channel, y, x = crops.axes
    assert channel.channel_names == list(bundle.card.channels)
    assert (y.size, x.scale, x.unit) == (16, 0.5, "micrometer")
    assert crops.data.unit == "nm"
    steps = [step.id for step in crops.preprocessing]
    assert steps == ["ensure_dtype", "fixed_zero_mean_unit_variance", "ensure_dtype"]
    outputs = {str(output.id): output for output in described.outputs}
    assert list(outputs) == ["logits", "probabilities", "indices", "attention", "coarse"]
    assert outputs["logits"].axes[1].channel_names == list(bundle.card.class_names)
    assert described.weights.available_formats.keys() == {"onnx"}
    held = described.config.model_dump()["napari_sparseattn"]
    assert held["tensors_sha256"] == bundle.hash


def test_their_pipeline_gives_our_probabilities(package: tuple[Bundle, Path]) -> None:
    """Raw values in nm through their pre-processing, ONNX in onnxruntime, and out."""
    bundle, path = package
    rng = np.random.default_rng(5)
    crops = rng.uniform(0, 200, (3, 16, 16, 1)).astype(np.float32)
    described = load_model_description(path)
    pipeline = create_prediction_pipeline(described, weight_format="onnx")
    for crop in crops:
        sample = create_sample_for_model(described, inputs={"crops": crop.transpose(2, 0, 1)[None]})
        got = pipeline.predict_sample_without_blocking(sample)
        probabilities = np.asarray(got.members["probabilities"].data)
        np.testing.assert_allclose(probabilities, classify_crops(crop[None], bundle), atol=1e-4)


Packed = Callable[[str], tuple[Bundle, Path]]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Packages of models by name; each is made once, which takes many seconds."""
    folder = tmp_path_factory.mktemp("packages")

    @functools.cache
    def pack(name: str) -> tuple[Bundle, Path]:
        bundle = small_tnet_bundle() if name == "small" else load_bundle(name)
        return bundle, export_bioimage(bundle, folder / f"{name}.zip")

    return pack


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blood-cells", "blood-cells-tnet", "opd-simulated", "small"])
def test_every_model_for_cells_makes_a_package_that_passes(name: str, packed: Packed) -> None:
    bundle, path = packed(name)
    assert tried(path, weight_format="onnx").status == "passed"
    described = load_model_description(path)
    steps = [step.id for step in described.inputs[0].preprocessing]
    inside = bundle.card.normalisation.kind != "fixed"
    assert ("fixed_zero_mean_unit_variance" in steps) != inside
    assert ("scale_linear" in steps) == (not bundle.card.unit)
    assert bool(described.authors) == (name != "small"), "only shipped ones have known authors"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blood-cells", "blood-cells-tnet", "opd-simulated"])
def test_graphs_of_bundled_models_agree_on_real_crops(
    name: str, packed: Packed, shared: Path, tmp_path: Path
) -> None:
    """What `export_onnx` wrote for the package, against the network itself."""
    bundle, path = packed(name)
    with zipfile.ZipFile(path) as archive:
        graph = Path(archive.extract("model.onnx", tmp_path))
    assert not adds_to_places(graph)
    crops = real_crops(name, shared, 24)
    assert len(crops) >= 8
    if bundle.card.normalisation.kind == "fixed":
        # Which is then no part of the graph.
        crops = bundle.card.normalisation(crops)
        plain = bundle.card.model_copy(update={"normalisation": Normalisation("fixed", 0.0, 1.0)})
        bundle = dataclasses.replace(bundle, card=plain)
    check(bundle, graph, crops, (1, 7, len(crops)))


@pytest.mark.slow
def test_a_package_that_is_refused_is_not_written(
    package: tuple[Bundle, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, whole = package
    path = tmp_path / "model.zip"
    path.write_text("older")
    with pytest.raises(ModelExportError, match=r"end in \.zip"):
        export_bioimage(bundle, tmp_path / "model.tar")
    example = bioimage._example

    def wrong(*args: Any) -> Any:
        stored, found = example(*args)
        return stored, found | {"logits": found["logits"] + 1}

    def again(_: Bundle, graph: Path, **__: Any) -> None:
        with zipfile.ZipFile(whole) as archive:
            graph.write_bytes(archive.read("model.onnx"))

    monkeypatch.setattr(bioimage, "_example", wrong)
    monkeypatch.setattr(bioimage, "export_onnx", again)
    with pytest.raises(ModelExportError, match="core refuses"):
        export_bioimage(bundle, path)
    assert path.read_text() == "older"
    assert [file.name for file in tmp_path.iterdir()] == ["model.zip"]
