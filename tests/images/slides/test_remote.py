"""Slides on another machine: a server of our own on this one."""

from __future__ import annotations

import datetime as dt
import functools
import os
import shutil
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from bad_slides import scene, write_ome, write_svs
from napari_sparseattn.addresses import Address, as_source
from napari_sparseattn.features.hashes import slide_hash
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.opening import open_image
from napari_sparseattn.images.slides._remote import ByteCache, RemoteFile
from napari_sparseattn.images.slides.opening import NetworkSettings, open_slide
from napari_sparseattn.images.slides.pyramid import Pyramid, read_window
from napari_sparseattn.progress import while_waiting
from slide_server import SlideServer, serving

pytest.importorskip("aiohttp")

QUICK = NetworkSettings(timeout=0.5, tries=2)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SlideServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as served:
        yield served


def same_pixels(one: Pyramid, other: Pyramid) -> None:
    assert one.levels == other.levels
    assert (one.pixel_size, one.channels, one.dtype) == (
        other.pixel_size,
        other.channels,
        other.dtype,
    )
    for number, at in enumerate(one.levels):
        first = one.read_region(0, 0, number, at.height, at.width)
        second = other.read_region(0, 0, number, at.height, at.width)
        np.testing.assert_array_equal(first.pixels, second.pixels)
        np.testing.assert_array_equal(first.valid, second.valid)


def write_sparse(path: Path) -> Path:
    """A slide of which hardly anything compresses, so that its size is that of its pixels."""
    _, made = _sparse()
    try:
        os.link(made, path)
    except OSError:
        shutil.copyfile(made, path)
    return path


@functools.cache
def _sparse(side: int = 8192) -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """Write 200 MB once for all tests, which change no file in place."""
    folder = tempfile.TemporaryDirectory(prefix="napari-sparseattn-tests-")
    path = Path(folder.name) / "sparse.tif"
    noise = np.random.default_rng(0).integers(0, 255, (side // 4, side // 4, 3), np.uint8)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for n, factor in enumerate((1, 4, 16)):
            image = np.tile(noise, (4, 4, 1))[: side // factor, : side // factor]
            kind = {} if n == 0 else {"subfiletype": 1}
            file.write(image, tile=(256, 256), photometric="rgb", compression="zstd", **kind)
    return folder, path


def put_older(path: Path) -> None:
    """Put another file in the place of one: as long, and older."""
    other = path.with_suffix(".new")
    shutil.copy(path, other)
    os.utime(other, (1, 1))
    other.replace(path)


def write_levels(path: Path) -> Path:
    image = scene(1024, 1024)
    return write_ome(path, [image, image[::2, ::2]], 0.5)


@pytest.mark.parametrize(
    "write", [write_svs, write_levels, pytest.param(write_sparse, marks=pytest.mark.slow)]
)
def test_pixels_are_those_of_the_file(server: SlideServer, write: Any) -> None:
    path = write(server.folder / "a.tif")
    with open_slide(server.address("a.tif")) as slide, open_slide(path) as local:
        same_pixels(slide, local)
        assert slide.name == local.name
        assert sorted(slide.associated) == sorted(local.associated)
        for name in local.associated:
            np.testing.assert_array_equal(slide.associated[name], local.associated[name])
        assert slide_hash(slide) == slide_hash(local)
        assert slide.path is None
        assert slide.is_stored


def test_little_of_a_large_file_is_loaded(server: SlideServer) -> None:
    path = write_sparse(server.folder / "a.tif")
    with open_slide(server.address("a.tif")) as slide:
        read_window(slide, 4000, 4000, 256, 256, 256, 256)
        traffic = slide.traffic
    assert traffic is not None
    # At most four tiles, and the tables.
    assert traffic.n_bytes < 4 * 256 * 256 * 3 + 2**18 < 0.05 * path.stat().st_size
    assert traffic.n_bytes == server.n_bytes
    assert traffic.size == path.stat().st_size


def test_what_is_read_again_is_not_loaded_again(server: SlideServer) -> None:
    write_sparse(server.folder / "a.tif")
    with open_slide(server.address("a.tif")) as slide:
        first = slide.read_region(0, 0, 0, 300, 300)
        server.clear()
        slide._cache.clear()
        second = slide.read_region(0, 0, 0, 300, 300)
    assert not server.asked
    np.testing.assert_array_equal(first.pixels, second.pixels)


@pytest.mark.slow
def test_windows_are_fetched_ahead_side_by_side(server: SlideServer) -> None:
    write_sparse(server.folder / "a.tif")
    server.latency = 0.2
    windows = [(y, x, 200, 200, 200, 200) for y in range(0, 6000, 2000) for x in (0, 3000, 6000)]
    with open_slide(server.address("a.tif")) as slide:
        begin = time.perf_counter()
        slide.fetch_ahead(windows)
        together = time.perf_counter() - begin
        server.clear()
        for window in windows:
            read_window(slide, *window)
    assert not server.asked
    assert together < 0.2 * len(windows)


def test_memory_is_bounded() -> None:
    cache = ByteCache(100)
    for n in range(50):
        cache.put(n, bytes(30))
    assert cache.n_bytes <= 100
    assert cache.get(49) is not None
    assert cache.get(0) is None


def test_a_slide_keeps_no_more_than_it_may(server: SlideServer) -> None:
    write_sparse(server.folder / "a.tif")
    network = NetworkSettings(cache_bytes=2**20)
    with open_slide(server.address("a.tif"), network=network) as slide:
        slide.read_region(0, 0, 0, 4096, 4096)
        assert slide._source._file.n_cached <= 2**20  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", [404, 401, 403, 500, 418])
def test_refusals_are_said_in_a_sentence(server: SlideServer, status: int) -> None:
    write_svs(server.folder / "a.svs")
    server.status = status
    kind = FileNotFoundError if status == 404 else ImageError
    with pytest.raises(kind, match=r"a\.svs") as caught:
        open_slide(server.address("a.svs") + "?token=secret", network=QUICK)
    text = str(caught.value)
    assert text.endswith(".")
    if status != 404:
        assert str(status) in text
    # Neither it nor what led to it tells the address.
    assert "secret" not in text
    assert "127.0.0.1" not in text
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_no_route_no_answer_no_ranges(server: SlideServer) -> None:
    big = write_sparse(server.folder / "a.tif")
    assert big.stat().st_size > 2**24
    server.ranges = False
    with pytest.raises(ImageError, match="only whole files"):
        open_slide(server.address("a.tif"), network=QUICK)
    assert server.n_bytes < big.stat().st_size
    server.ranges, server.stalls = True, True
    with pytest.raises(ImageError, match=r"no answer within 0\.5 s"):
        open_slide(server.address("a.tif"), network=QUICK)
    with pytest.raises(ImageError, match="cannot be reached") as caught:
        open_slide("http://127.0.0.1:9/a.tif", network=QUICK)
    assert "127" not in str(caught.value)


def test_a_small_file_is_read_whole_where_there_are_no_ranges(server: SlideServer) -> None:
    path = write_svs(server.folder / "a.svs")
    server.ranges = False
    with open_slide(server.address("a.svs")) as slide, open_slide(path) as local:
        same_pixels(slide, local)
    assert len(server.asked) == 1


def test_answers_cut_short_and_compressed(server: SlideServer) -> None:
    write_svs(server.folder / "a.svs")
    server.compressed = True
    with pytest.raises(ImageError, match="sends it compressed"):
        open_slide(server.address("a.svs"), network=QUICK)
    server.compressed, server.cut = False, True
    with pytest.raises(ImageError, match="broke off"):
        open_slide(server.address("a.svs"), network=QUICK)


def test_a_failure_while_opening_is_none_of_the_file(server: SlideServer) -> None:
    """tifffile passes over pages that it cannot read; a slide must not lose levels by that."""
    write_sparse(server.folder / "a.tif")
    with open_slide(server.address("a.tif")):
        needed = len(server.asked)
    for after in range(1, needed):
        server.clear()
        server.status, server.fault_after = 403, after
        with pytest.raises(ImageError, match="403"):
            open_slide(server.address("a.tif"), network=QUICK)


def test_one_failure_is_tried_again(server: SlideServer, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svs(server.folder / "a.svs")
    server.status = 503
    threading.Timer(0.15, lambda: setattr(server, "status", 0)).start()
    with open_slide(server.address("a.svs"), network=NetworkSettings(tries=4)) as slide:
        assert len(slide.levels) == 3


@pytest.mark.parametrize("etags", [True, False])
def test_a_file_that_changes_is_noticed(server: SlideServer, etags: bool) -> None:
    path = write_sparse(server.folder / "a.tif")
    server.etags = etags
    with open_slide(server.address("a.tif")) as slide:
        slide.read_region(0, 0, 0, 10, 10)
        put_older(path)
        with pytest.raises(ImageError, match="changed or replaced"):
            slide.read_region(5000, 5000, 0, 10, 10)


def test_a_server_that_fails_later_is_no_damaged_tile(server: SlideServer) -> None:
    write_sparse(server.folder / "a.tif")
    with open_slide(server.address("a.tif"), network=QUICK) as slide:
        server.status = 500
        with pytest.raises(ImageError, match="500"):
            slide.read_region(5000, 5000, 0, 10, 10)
        assert slide.ledger.n_failed == 0
        server.status = 0
        assert slide.read_region(5000, 5000, 0, 10, 10).valid.all()


class StoppedError(Exception):
    pass


def test_opening_and_reading_stop_when_they_are_told_to(server: SlideServer) -> None:
    write_sparse(server.folder / "a.tif")
    heard = []

    def progress(stage: str, done: int, total: int) -> None:
        heard.append(stage)
        raise StoppedError

    server.stalls = True
    with pytest.raises(StoppedError):
        open_slide(server.address("a.tif"), progress=progress)
    assert heard == ["opening"]
    server.stalls = False
    with open_slide(server.address("a.tif")) as slide:
        server.stalls = True

        def stop() -> None:
            raise StoppedError

        with while_waiting(stop), pytest.raises(StoppedError):
            slide.read_region(5000, 5000, 0, 10, 10)


def test_closing_ends_what_waits(server: SlideServer) -> None:
    write_sparse(server.folder / "a.tif")
    slide = open_slide(server.address("a.tif"))
    server.clear()
    server.stalls = True
    failed: list[BaseException] = []

    def read() -> None:
        try:
            slide.read_region(5000, 5000, 0, 10, 10)
        except ImageError as error:
            failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    while not server.asked:
        time.sleep(0.01)
    slide.close()
    thread.join(10)
    assert not thread.is_alive()
    assert "closed" in str(failed[0])


def certificate(folder: Path) -> ssl.SSLContext:
    """A server's certificate for this machine, which nobody has signed."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, day = ec.generate_private_key(ec.SECP256R1()), dt.timedelta(days=1)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )
    file, plain = folder / "server.pem", serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    file.write_bytes(
        signed.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def test_https_needs_a_known_certificate_and_is_not_left_for_plain_http(
    server: SlideServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec.config

    path = write_svs(server.folder / "a.svs")
    with serving(server.folder, certificate(tmp_path)) as safe:
        with pytest.raises(ImageError, match="certificate"):
            open_slide(safe.address("a.svs"), network=QUICK)
        # As somebody may allow for a server of the house.
        monkeypatch.setattr(fsspec.config, "conf", {"https": {"ssl": False}})
        with open_slide(safe.address("a.svs")) as slide, open_slide(path) as local:
            same_pixels(slide, local)
        safe.redirect = server.address("a.svs")
        with pytest.raises(ImageError, match="without encryption"):
            open_slide(safe.address("b.svs"), network=QUICK)


def test_redirects_are_followed(server: SlideServer) -> None:
    path = write_svs(server.folder / "a.svs")
    with serving(server.folder) as second:
        second.redirect = server.address("a.svs")
        with open_slide(second.address("b.svs")) as slide, open_slide(path) as local:
            same_pixels(slide, local)
        assert slide.name == "b"


def test_credentials_are_those_of_fsspec(
    server: SlideServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec.config

    write_svs(server.folder / "a.svs")
    server.token = "Bearer secret"
    with pytest.raises(ImageError, match="401"):
        open_slide(server.address("a.svs"), network=QUICK)
    settings = {"http": {"headers": {"Authorization": server.token}}}
    monkeypatch.setattr(fsspec.config, "conf", settings)
    with open_slide(server.address("a.svs")) as slide:
        assert len(slide.levels) == 3


def test_other_files_are_told_from_slides(server: SlideServer, tmp_path: Path) -> None:
    (server.folder / "a.html").write_text("<html>sign in</html>")
    with pytest.raises(ImageError, match="web page"):
        open_slide(server.address("a.html"))
    (server.folder / "a.png").write_bytes(b"\x89PNG" + bytes(200))
    with pytest.raises(ImageError, match="copy any other file"):
        open_image(server.address("a.png"))
    (server.folder / "a.czi").write_bytes(b"ZISRAWFILE" + bytes(200))
    with pytest.raises(ImageError, match="ZEISS"):
        open_slide(server.address("a.czi"))
    (server.folder / "a.svs").write_bytes(b"")
    with pytest.raises(ImageError):
        open_slide(server.address("a.svs"))


def test_a_description_opens_no_file_of_this_computer(
    server: SlideServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OME-XML names further files of an image; of a remote one they are not looked for here."""
    monkeypatch.chdir(tmp_path)
    other = np.full((64, 64), 200, np.uint8)
    tifffile.imwrite(tmp_path / "secret.ome.tif", other, photometric="minisblack")
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="64" SizeY="64" '
        'SizeC="1" SizeZ="2" SizeT="1"><TiffData FirstZ="0" IFD="0" PlaneCount="1">'
        '<UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData>'
        '<TiffData FirstZ="1" IFD="0" PlaneCount="1">'
        '<UUID FileName="secret.ome.tif">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>'
    )
    opened: list[str] = []
    tifffile.imwrite(
        server.folder / "a.ome.tif", np.zeros((64, 64), np.uint8), description=xml, metadata=None
    )
    real = tifffile.TiffFile.__init__

    def init(self: Any, file: Any, *args: Any, **options: Any) -> None:
        opened.append(str(file))
        real(self, file, *args, **options)

    monkeypatch.setattr(tifffile.TiffFile, "__init__", init)
    with open_slide(server.address("a.ome.tif")) as slide:
        slide.read_region(0, 0, 0, 64, 64)
    assert not any("secret" in name for name in opened)


def write_zarr(folder: Path, version: int, shards: bool) -> Path:
    zarr = pytest.importorskip("zarr")
    image, found = scene(512, 512), []
    root = zarr.open_group(folder, mode="w", zarr_format=version)
    for n in range(2):
        planes = np.ascontiguousarray(image[:: 2**n, :: 2**n].transpose(2, 0, 1))
        options = {"shards": (3, 256, 256)} if shards else {}
        array = root.create_array(
            str(n), shape=planes.shape, chunks=(1, 128, 128), dtype="u1", **options
        )
        # The last tile is never written.
        array[:, :, : -128 if n == 0 else None] = planes[:, :, : -128 if n == 0 else None]
        scale = [{"type": "scale", "scale": [1, 0.5 * 2**n, 0.5 * 2**n]}]
        found.append({"path": str(n), "coordinateTransformations": scale})
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    multiscales = [{"version": "0.4", "axes": axes, "datasets": found}]
    root.attrs.update(
        {"multiscales": multiscales} if version == 2 else {"ome": {"multiscales": multiscales}}
    )
    return folder


@pytest.mark.parametrize(("version", "shards"), [(2, False), (3, False), (3, True)])
def test_ome_zarr(server: SlideServer, version: int, shards: bool) -> None:
    path = write_zarr(server.folder / "a.zarr", version, shards)
    address = server.address("a.zarr") + "?token=secret"
    with open_slide(address, network=QUICK) as slide, open_slide(path) as local:
        same_pixels(slide, local)
        assert (slide.pixel_size, slide.name) == (0.5, "a")
        # What gives access goes with each file's address.
        assert all(asked[1].endswith("?token=secret") for asked in server.asked)
        server.status = 500
        slide._cache.clear()
        slide._folder._cache.clear()  # type: ignore[attr-defined]
        with pytest.raises(ImageError, match="500"):
            slide.read_region(0, 0, 0, 100, 100)


def test_ome_zarr_that_is_not_there(server: SlideServer) -> None:
    with pytest.raises(ImageError, match="without an OME image"):
        open_slide(server.address("a.zarr"), network=QUICK)


def test_addresses_tell_themselves_by_name_and_hash() -> None:
    url = "https://user:pass@host.org/a%20b/Slide%201.svs?X-Amz-Signature=1234&id=7#x"
    address = Address(url)
    assert address.name == "Slide 1.svs"
    for told in (str(address), repr(address), address.label, f"{address}"):
        assert "host" not in told
        assert "1234" not in told
        assert "Slide 1.svs" in told
        assert address.digest in told
    signed_anew = Address(url.replace("1234", "9999").replace("pass", "word"))
    assert signed_anew.digest == address.digest
    assert Address(url.replace("id=7", "id=8")).digest != address.digest
    assert Address("https://host.org/download/3f786850e387550fdab836ed7e6dc881de23001b").name == (
        "slide"
    )
    assert Address("s3://bucket/images/x.zarr/0").name == "x.zarr"
    assert Address("https://h/x.zarr?a=b").below("0", ".zattrs").url == (
        "https://h/x.zarr/0/.zattrs?a=b"
    )


@pytest.mark.parametrize("text", ["https://", "http:///a.svs", "https://h/a b.svs", "https://h:x/"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        as_source(text)


def test_schemes_that_are_not_read_are_named() -> None:
    with pytest.raises(ValueError, match="gs://"):
        as_source("gs://bucket/a.svs")
    assert as_source("a.svs") == Path("a.svs")
    # No chains of fsspec: another file system would be opened by an address.
    with pytest.raises(ValueError, match="not read"):
        as_source("zip://a.svs::https://host/a.zip")


@pytest.fixture
def bucket(server: SlideServer, monkeypatch: pytest.MonkeyPatch) -> SlideServer:
    """S3 as s3fs speaks it, to our server: signed, by paths and not by names of hosts."""
    pytest.importorskip("s3fs")
    import fsspec.config

    settings = {"s3": {"key": "k", "secret": "s", "endpoint_url": server.url}}
    monkeypatch.setattr(fsspec.config, "conf", settings)
    return server


def test_s3(bucket: SlideServer) -> None:
    (bucket.folder / "images").mkdir()
    path = write_svs(bucket.folder / "images" / "a.svs")
    with open_slide("s3://images/a.svs") as slide, open_slide(path) as local:
        same_pixels(slide, local)
        assert slide.address == Address("s3://images/a.svs")
    write_zarr(bucket.folder / "images" / "b.zarr", 3, False)
    with open_slide("s3://images/b.zarr") as slide:
        assert slide.read_region(0, 0, 1, 256, 256).valid.all()


def test_s3_refusals(bucket: SlideServer) -> None:
    with pytest.raises(FileNotFoundError, match=r"no a\.svs"):
        open_slide("s3://images/a.svs")
    bucket.status = 403
    with pytest.raises(ImageError, match="S3 refuses"):
        open_slide("s3://images/a.svs")


def test_s3_changes_are_noticed(bucket: SlideServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_sparseattn.images.slides import _remote

    monkeypatch.setattr(_remote, "_CHECK_SECONDS", 0.0)
    (bucket.folder / "images").mkdir()
    path = write_sparse(bucket.folder / "images" / "a.tif")
    with open_slide("s3://images/a.tif") as slide:
        put_older(path)
        with pytest.raises(ImageError, match="changed or replaced"):
            slide.read_region(5000, 5000, 0, 10, 10)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ImageError, match=r"napari-sparseattn\[remote\]"):
        RemoteFile(Address("https://host/a.svs"))
