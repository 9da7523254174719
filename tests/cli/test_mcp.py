"""The door for agents: through the protocol's own client, in memory and in a process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_sparseattn import load_bundle, process_image, simulate
from napari_sparseattn.bundle import save_bundle
from napari_sparseattn.cli.agent import MOST_BYTES, Agent, Folders, bounded
from napari_sparseattn.process.options import ProcessOptions
from small_tnet import small_tnet_bundle

pytest.importorskip("mcp")

from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client

from napari_sparseattn.cli.mcp import make_server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a smear and a field, and beside it what is not shared."""
    folder = tmp_path_factory.mktemp("agents") / "shared"
    folder.mkdir()
    Image.fromarray(simulate.smear().plane(0, 0)[:400, :400]).save(folder / "smear.png")
    field = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    tifffile.imwrite(folder / "field.tif", field, photometric="rgb")
    save_bundle(small_tnet_bundle(), folder / "tnet.safetensors")
    Image.fromarray(field).save(folder.parent / "private.png")
    return folder


def talk(agent: Agent, ask: Callable[[Client], Awaitable[Any]]) -> Any:
    async def session() -> Any:
        async with Client(make_server(agent)) as client:
            return await ask(client)

    try:
        return asyncio.run(session())
    finally:
        agent.close()


def called(agent: Agent, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool by the protocol; what failed is an AssertionError with its text."""

    async def ask(client: Client) -> Any:
        return await client.call_tool(tool, arguments)

    answer = talk(agent, ask)
    text = "".join(part.text for part in answer.content)
    assert not answer.is_error, text
    assert len(text.encode()) <= 2 * MOST_BYTES
    found: dict[str, Any] = json.loads(text)
    return found


def refused(agent: Agent, tool: str, **arguments: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        called(agent, tool, **arguments)
    return str(caught.value)


def test_tools_read_only_unless_asked(shared: Path) -> None:
    async def names(client: Client) -> Any:
        return (await client.list_tools()).tools

    tools = talk(Agent(Folders([shared])), names)
    assert {tool.name for tool in tools} == {
        "list_images",
        "list_models",
        "model_card",
        "classify",
        "evidence",
        "batch_status",
    }
    assert all(tool.annotations.read_only_hint for tool in tools)
    assert all(tool.description for tool in tools)
    more = talk(Agent(Folders([shared]), writes=True), names)
    (writing,) = [tool for tool in more if not tool.annotations.read_only_hint]
    assert writing.name == "write_results"


def test_models_and_images_are_listed(shared: Path) -> None:
    agent = Agent(Folders([shared]))
    models = {each["name"]: each for each in called(agent, "list_models")["models"]}
    assert "cells" in models["blood-cells"]["takes"]
    assert len(models["blood-cells"]["classes"]) >= 2
    assert called(agent, "list_images")["images"] == ["field.tif", "smear.png"]
    card = called(agent, "model_card", model="blood-cells")
    assert "architecture" not in card["card"]
    assert card["card"]["name"] == "blood-cells"


def test_cells_are_classified_as_python_does(shared: Path) -> None:
    agent = Agent(Folders([shared]), device="cpu")
    answer = called(agent, "classify", image="smear.png", rows=3)
    from napari_sparseattn import open_image

    options = ProcessOptions(device="cpu")
    with process_image(
        open_image(shared / "smear.png"), load_bundle("blood-cells"), options
    ) as expected:
        summary = expected.summary()
    assert answer["summary"]["counts"] == summary["counts"]
    assert answer["summary"]["flagged"] == summary["flagged"]
    assert answer["rows_in_table"] == summary["cells"]
    assert len(answer["rows"]) == min(3, summary["cells"])
    assert 0 < answer["confidence"]["median"] <= 1
    flagged = called(agent, "classify", image="smear.png", flagged_only=True)
    assert flagged["rows_in_table"] == summary["flagged"]
    assert [row["table_row"] for row in answer["rows"]] == list(range(len(answer["rows"])))
    # A page of some rows names each as `evidence` knows it.
    for row in flagged["rows"][-2:]:
        seen = called(agent, "evidence", image="smear.png", row=row["table_row"])["evidence"]
        assert (seen["crop"]["row"], seen["crop"]["column"]) == pytest.approx(
            (row["row"], row["column"]), abs=1e-4
        )


@pytest.mark.slow
def test_evidence_of_a_cell_and_of_a_field(shared: Path) -> None:
    agent = Agent(Folders([shared]), device="cpu")
    cell = called(agent, "evidence", image="smear.png", row=0)["evidence"]
    assert cell["kind"] == "pixel-selection"
    assert 0 < cell["share"] < 1
    assert len(cell["heaviest_pixels_of_crop"]) == 10
    assert "give the table_row" in refused(agent, "evidence", image="smear.png")
    field = called(
        agent, "evidence", image="field.tif", model="tnet.safetensors", whole=True, measure=True
    )
    assert field["evidence"]["kind"] == "traversal"
    assert field["measured"]["sentence"]


@pytest.mark.parametrize(
    "given",
    [
        "../private.png",
        "/etc/passwd",
        "link.png",
        "folder/private.png",
        "https://host/a.png",
        "file:///etc/passwd",
        "sub/../../private.png",
        "a\0b",
    ],
)
def test_what_is_not_shared_is_refused(shared: Path, given: str) -> None:
    for name, target in (("link.png", "private.png"), ("folder", ".")):
        link = shared / name
        if not link.is_symlink():
            link.symlink_to(shared.parent / target)
    try:
        text = refused(Agent(Folders([shared])), "classify", image=given)
        assert "shared" in text
        if given.startswith("file:"):
            assert "outside" in text or "no '" in text
        listed = called(Agent(Folders([shared])), "list_images")["images"]
        assert listed == ["field.tif", "smear.png"]
    finally:
        (shared / "link.png").unlink()
        (shared / "folder").unlink()


def test_a_slide_with_parts_elsewhere_is_refused(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    (folder / "a.zarr" / "0").mkdir(parents=True)
    (folder / "a.zarr" / "0" / "0.0.0").symlink_to(shared.parent / "private.png")
    assert "leads out" in refused(Agent(Folders([folder])), "classify", image="a.zarr")
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="P:0" DimensionOrder="XYCZT" Type="uint8" SizeX="64" SizeY="64" SizeC="1" '
        'SizeZ="1" SizeT="1"><TiffData IFD="0"><UUID FileName="../../elsewhere.tif">urn:uuid:1'
        "</UUID></TiffData></Pixels></Image></OME>"
    )
    image = np.zeros((64, 64), np.uint8)
    tifffile.imwrite(folder / "a.ome.tif", image, description=xml, metadata=None)
    assert "leads out" in refused(Agent(Folders([folder])), "classify", image="a.ome.tif")


def test_models_come_from_here_only(shared: Path) -> None:
    agent = Agent(Folders([shared]))
    assert "shared" in refused(agent, "classify", image="smear.png", model="hf://owner/name@abc")
    assert "shared" in refused(agent, "model_card", model="/etc/passwd")


def test_nothing_is_written_without_being_allowed(shared: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in shared.rglob("*"))
    agent = Agent(Folders([shared]), device="cpu")
    called(agent, "classify", image="field.tif", model="tnet.safetensors", whole=True)
    assert "write_results" in refused(
        agent, "write_results", image="field.tif", out="results", model="tnet.safetensors"
    )
    with pytest.raises(PermissionError):
        agent.write_results("field.tif", "results")
    assert sorted(path.name for path in shared.rglob("*")) == before


def test_results_are_written_into_shared_folders(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    agent = Agent(Folders([shared, folder]), writes=True, device="cpu")
    asked = {"image": "field.tif", "model": "tnet.safetensors", "whole": True}
    inside, outside = str(folder / "results"), str(tmp_path / "elsewhere")
    written = called(agent, "write_results", out=inside, **asked)["written"]
    assert "results/field.tif.json" in written
    assert (folder / "results" / "field.tif.csv").is_file()
    assert "outside" in refused(agent, "write_results", out=outside, **asked)
    assert not Path(outside).exists()


def test_the_status_of_a_batch(tmp_path: Path) -> None:
    (tmp_path / "batch.csv").write_text(
        "item,state,found,reason\na.tif,done,2 cells,\nb.tif,failed,,no\u202e cells\x1b[31m\n",
        encoding="utf-8",
    )
    told = called(Agent(Folders([tmp_path])), "batch_status", folder=".")
    assert told["states"] == {"done": 1, "failed": 1}
    # What somebody wrote into a file cannot turn the reader's text around.
    (failed,) = told["failed"]
    assert "\u202e" not in failed["reason"]
    assert "\x1b" not in failed["reason"]


def test_answers_are_bounded() -> None:
    answer = {"rows": [{"text": "x" * 10_000, "n": n} for n in range(100_000)], "nan": float("nan")}
    cut = bounded(answer)
    assert len(json.dumps(cut).encode()) <= MOST_BYTES
    assert cut["nan"] is None
    assert cut["cut"]["rows"].endswith("more")
    deep: dict[str, Any] = {f"k{n}": "y" * 300 for n in range(5000)}
    assert len(json.dumps(bounded({"deep": [deep] * 3})).encode()) <= MOST_BYTES


@pytest.mark.slow
def test_a_process_speaks_the_protocol(shared: Path) -> None:
    """As a client starts it; what libraries print must not get into the answers."""
    command = [sys.executable, "-m", "napari_sparseattn.cli", "mcp", "--folder", str(shared)]
    server = StdioServerParameters(
        command=command[0], args=[*command[1:], "--device", "cpu"], env=dict(os.environ)
    )

    async def session() -> Any:
        async with Client(stdio_client(server)) as client:
            tools = await client.list_tools()
            answer = await client.call_tool(
                "classify", {"image": "field.tif", "model": "tnet.safetensors", "whole": True}
            )
            wrong = await client.call_tool("classify", {"image": "../private.png"})
            return tools.tools, answer, wrong

    tools, answer, wrong = asyncio.run(session())
    assert len(tools) == 6
    assert json.loads(answer.content[0].text)["summary"]["class"] in ("left", "middle", "right")
    assert wrong.is_error
