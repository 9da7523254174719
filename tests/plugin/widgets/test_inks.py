"""Colours of words and edges, against the colours of napari's own themes."""

from __future__ import annotations

import pytest
from napari.utils.theme import get_theme

from napari_sparseattn.plugin.widgets.inks import INKS

#: What is no letter, and so needs less.
_EDGES = {"edge"}


def luminance(colour: tuple[int, ...]) -> float:
    """By WCAG 2.2, written out for one colour."""
    parts = []
    for value in colour:
        share = value / 255
        parts.append(share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4)
    red, green, blue = parts
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def test_black_on_white_is_21() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("name", INKS)
@pytest.mark.parametrize(("theme", "index"), [("dark", 0), ("light", 1)])
def test_it_stands_out_on_the_theme(name: str, theme: str, index: int) -> None:
    ground = get_theme(theme)
    # Tables have another ground than the dock.
    for of in ("background", "foreground"):
        lies_on = tuple(getattr(ground, of).as_rgb_tuple()[:3])
        found = contrast(rgb(INKS[name][index]), lies_on)
        assert found >= (3.0 if name in _EDGES else 4.5), (of, found)


@pytest.mark.parametrize(("theme", "index"), [("dark", 0), ("light", 1)])
def test_what_a_field_asks_for_can_be_read(theme: str, index: int) -> None:
    field = tuple(get_theme(theme).primary.as_rgb_tuple()[:3])
    assert contrast(rgb(INKS["placeholder"][index]), field) >= 4.5


def test_curves_stand_out_on_both_themes_and_differ_without_colours() -> None:
    from qtpy.QtGui import QColor

    from napari_sparseattn.plugin.evidence.plots import COLOURS, pen_of
    from napari_sparseattn.plugin.widgets.axes import AXIS_COLOUR

    for colour in (*COLOURS.values(), AXIS_COLOUR.name(), "#2f86c8", "#b5780f", "#008f68"):
        for theme in ("dark", "light"):
            ground = tuple(get_theme(theme).background.as_rgb_tuple()[:3])
            assert contrast(QColor(colour).getRgb()[:3], ground) >= 3.0, (colour, theme)
    styles = [pen_of(name, False).style() for name in COLOURS if name != "own"]
    assert len(set(styles)) == len(styles)
