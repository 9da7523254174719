"""From an address to results: by Python and by the command line, and what they do not tell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bad_slides import halves, scene, write_ome
from napari_sparseattn.addresses import Address
from napari_sparseattn.bundle import save_bundle
from napari_sparseattn.card import CropSpec
from napari_sparseattn.cli import app as cli
from napari_sparseattn.cli.app import main
from napari_sparseattn.features.encoders import load_encoder
from napari_sparseattn.process.inputs import find_inputs, name_sources
from napari_sparseattn.process.options import ProcessOptions
from napari_sparseattn.process.process import process_file
from napari_sparseattn.training.loop.slides import encoder_spec
from slide_server import SlideServer, serving
from slides_to_write import write_slide
from small_span import small_span_bundle
from small_tnet import small_tnet_bundle

pytest.importorskip("aiohttp")

SECRET = "?token=verysecret"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SlideServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    write_ome(folder / "slide.ome.tif", halves(scene(), 3), 0.5)
    with serving(folder) as served:
        yield served


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tnet.safetensors"
    save_bundle(small_tnet_bundle(), path)
    return path


def nothing_tells(folder: Path, server: SlideServer) -> None:
    """No file of results holds the address, or has it in its name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        for text in (str(path.relative_to(folder)).encode(), path.read_bytes()):
            assert b"verysecret" not in text
            assert server.url.removeprefix("http://").encode() not in text


def test_a_tnet_answers_as_of_the_file(tmp_path: Path, server: SlideServer, model: Path) -> None:
    options = ProcessOptions(task="whole", formats=("csv", "overlay", "html", "geojson"))
    address = server.address("slide.ome.tif") + SECRET
    stages = []
    with (
        process_file(server.folder / "slide.ome.tif", model, options) as local,
        process_file(
            address, model, options, progress=lambda *stage: stages.append(stage)
        ) as remote,
    ):
        first, second = local.summary(), remote.summary()
        for key in ("class", "confidence", "crops"):
            assert first[key] == second[key]
        note = next(each for each in second["notes"] if "another machine" in each)
        assert "requests" in note
        remote.write(tmp_path / "out")
        assert remote.name == "slide.ome.tif"
        assert remote.path is None
    assert {stage for stage, _, _ in stages} <= {"opening", "crops"}
    nothing_tells(tmp_path / "out", server)
    written = json.loads((tmp_path / "out" / "slide.ome.tif.json").read_text())
    assert written["input"] == Address(address).label
    assert Address(address).digest in (tmp_path / "out" / "slide.ome.tif.html").read_text()


def test_a_span_finds_the_features_of_the_file_and_names_no_address(
    tmp_path: Path, server: SlideServer
) -> None:
    """Features are told by what the slide holds, so that the file here and there share them."""
    write_slide(server.folder / "one.tif", 0, dark=True)
    spec, crop = (
        encoder_spec(load_encoder("stain-texture", "cpu")),
        CropSpec(size=224, field_of_view_um=112.0),
    )
    bundle = small_span_bundle(encoder=spec, crop=crop)
    options, store = ProcessOptions(task="slide", device="cpu"), tmp_path / "features"
    with process_file(server.folder / "one.tif", bundle, options, store=store) as local:
        expected = local.summary()
    kept = sorted(store.iterdir())
    server.latency = 0.01
    with process_file(server.address("one.tif") + SECRET, bundle, options, store=store) as remote:
        assert remote.summary()["class"] == expected["class"]
    assert sorted(store.iterdir()) == kept
    nothing_tells(store, server)


@pytest.mark.slow
def test_the_command_line(tmp_path: Path, server: SlideServer, model: Path) -> None:
    arguments = ["classify", server.address("slide.ome.tif") + SECRET, "--whole"]
    arguments += ["--model", str(model), "--out", str(tmp_path / "out"), "--device", "cpu"]
    found = CliRunner().invoke(cli.app, [*arguments, "--json"], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    (row,) = json.loads(found.stdout)
    assert row["image"] == Address(arguments[1]).label
    assert "verysecret" not in found.output
    nothing_tells(tmp_path / "out", server)
    # The same again replaces it; another slide of that name does not.
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    other = tmp_path / "served" / "b"
    other.mkdir()
    write_ome(other / "slide.ome.tif", halves(scene(), 2), 0.5)
    arguments[1] = server.address("b/slide.ome.tif")
    refused = CliRunner().invoke(cli.app, arguments)
    assert "holds other results" in str(refused.exception)


def test_failures_are_one_line(
    server: SlideServer,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.status = 403
    arguments = ["napari-sparseattn", "classify", server.address("slide.ome.tif") + SECRET]
    arguments += ["--whole", "--model", str(model), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: slide.ome.tif may not be loaded")
    assert "verysecret" not in said


def test_cells_are_not_looked_for_at_an_address(server: SlideServer) -> None:
    with pytest.raises(ValueError, match="cells are not searched for"):
        process_file(server.address("slide.ome.tif"), "blood-cells")
    with pytest.raises(ValueError, match="from where only slides are read"):
        process_file(server.address("slide.ome.tif"), None)


def test_results_of_addresses_have_names(tmp_path: Path) -> None:
    one, two = Address("https://a/x.svs"), Address("https://b/x.svs")
    assert name_sources([one]) == ("x.svs",)
    assert name_sources([one, two]) == (f"x.svs-{one.digest}", f"x.svs-{two.digest}")
    assert name_sources([tmp_path / "x.svs", one]) == ("x.svs", f"x.svs-{one.digest}")


def test_a_batch_says_that_it_works_on_files() -> None:
    with pytest.raises(ValueError, match="another machine") as caught:
        find_inputs(["https://host/a.svs" + SECRET])
    assert "verysecret" not in str(caught.value)
    assert "host" not in str(caught.value)
