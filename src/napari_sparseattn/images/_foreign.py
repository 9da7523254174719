"""Microscopes' own formats that are not read here: named, with what to do."""

from __future__ import annotations

from pathlib import Path

__all__ = ["foreign_format"]

_EXPORT = (
    "export it as OME-TIFF: from its own software, from QuPath or Fiji, or by bioformats2raw and "
    "raw2ometiff"
)
#: By ending: what the format is, and what of it the file itself holds.
_ENDINGS = {
    ".vsi": "an Olympus slide (cellSens VSI), of which this file holds but the overview: the "
    "pixels are in the folder _NAME_ beside it",
    ".ets": "the pixels of an Olympus slide (cellSens VSI)",
    ".czi": "a ZEISS image (CZI)",
    ".lif": "a Leica file of images (LIF)",
    ".lof": "a Leica image (LOF)",
    ".xlef": "a Leica project (XLEF), whose images are in the files beside it",
    ".nd2": "a Nikon image (ND2)",
    ".oib": "an Olympus image (FluoView OIB)",
    ".oif": "an Olympus image (FluoView OIF), whose pixels are in the folder beside it",
    ".oir": "an Olympus image (FluoView OIR)",
    ".zvi": "a ZEISS image (ZVI)",
    ".ims": "an Imaris image (IMS)",
    ".dv": "a DeltaVision image (DV)",
    ".isyntax": "a Philips slide (iSyntax)",
    ".mdsx": "a Motic slide (MDS)",
    ".mds": "a Motic slide (MDS)",
    ".kfb": "a KFBIO slide (KFB)",
    ".sdpc": "a Sqray slide (SDPC)",
    ".tmap": "a UNIC slide (TMAP)",
}
#: First bytes, where the ending does not tell.
_MAGIC = {
    b"ZISRAWFILE": ".czi",
    b"\x70\x00\x00\x00": ".lif",
    b"\xda\xce\xbe\x0a": ".nd2",
    b"\x00\x00\x00\x0cjP  ": ".nd2",  # before 2010
}
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
#: Endings of formats that are TIFF, HDF5 or the like inside, where the rest of the image is not.
_WRAPPED = (".vsi", ".ims")


def foreign_format(path: Path, head: bytes) -> str | None:
    """Return what a file is and what to do, if it is of a format that is not read; else None.

    Parameters
    ----------
    path : pathlib.Path
        The file; its ending counts where the first bytes are of no format that
        is read, or of one that would show something else in its place.
    head : bytes
        Its first bytes, at least 10.
    """
    suffix = path.suffix.lower()
    kind = next((known for magic, known in _MAGIC.items() if head.startswith(magic)), None)
    if kind == ".nd2" and suffix not in (".nd2", "") and head.startswith(b"\0\0\0\x0c"):
        kind = None  # plain JPEG 2000
    if kind is None and (suffix in _WRAPPED or _is_unread(head)):
        kind = suffix if suffix in _ENDINGS else None
    if kind is None and head.startswith(_OLE):
        what = "a compound file, as Olympus (OIB), ZEISS (ZVI) and Office write"
        return f"{path.name} is {what}, which is not read; {_EXPORT}"
    if kind is None:
        return None
    what = _ENDINGS[kind].replace("NAME", path.stem)
    return f"{path.name} is {what}. It is not read here; {_EXPORT}"


def _is_unread(head: bytes) -> bool:
    """Tell whether first bytes are of none of the formats that are read."""
    known = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\x89PNG", b"\xff\xd8\xff", b"BM")
    return not head.startswith((*known, b"\x93NUMPY", b"\x89HDF"))
