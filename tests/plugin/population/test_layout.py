"""Where the pictures of a wall lie, against placing them one by one."""

from __future__ import annotations

import pytest

from napari_sparseattn.plugin.population.layout import Spot, WallLayout

CELL, HEADING = (10, 12), 5


def placed(counts: list[int], across: int) -> dict[Spot, tuple[int, int]]:
    """The corner of each picture, by walking through them."""
    found, y = {}, 0
    for section, count in enumerate(counts):
        y += HEADING
        for index in range(count):
            if index and index % across == 0:
                y += CELL[1]
            found[Spot(section, index)] = (index % across * CELL[0], y)
        y += CELL[1] if count else 0
    return found


@pytest.mark.parametrize("counts", [[3], [7, 0, 4], [0, 0], [4, 4, 1, 9]])
@pytest.mark.parametrize("width", [5, 34, 1000])
def test_places_and_back(counts: list[int], width: int) -> None:
    layout = WallLayout(counts, width, CELL, HEADING)
    expected = placed(counts, layout.across)
    for spot, (x, y) in expected.items():
        assert layout.corner(spot) == (x, y)
        assert layout.at(x, y) == layout.at(x + 9, y + 11) == spot
    bottoms = [y + CELL[1] for _, y in expected.values()]
    assert layout.height >= max(bottoms, default=0)
    assert layout.at(0, layout.height) is None
    assert layout.at(0, -1) is None


def test_beside_the_pictures_is_the_section() -> None:
    layout = WallLayout([7, 0, 4], 34, CELL, HEADING)
    assert layout.at(31, 6) == Spot(0, -1)
    assert layout.at(15, 5 + 2 * 12 + 3) == Spot(0, -1)  # after the last of seven
    assert layout.at(3, 2) == Spot(0, -1)
    assert layout.section_at(5 + 3 * 12 + 2) == 1


@pytest.mark.parametrize(("top", "bottom"), [(0, 1), (0, 20), (17, 18), (30, 90), (-50, 500)])
def test_what_is_seen_is_what_overlaps(top: int, bottom: int) -> None:
    counts = [7, 0, 4, 30]
    layout = WallLayout(counts, 34, CELL, HEADING)
    seen = {
        Spot(section, index)
        for section, first, end in layout.visible(top, bottom)
        for index in range(first, end)
    }
    overlapping = {
        spot
        for spot, (_, y) in placed(counts, layout.across).items()
        if y < bottom and y + CELL[1] > top
    }
    assert seen == overlapping


def test_steps_go_through_all_pictures() -> None:
    layout = WallLayout([7, 0, 4], 34, CELL, HEADING)
    spot, walked = Spot(0, 0), [Spot(0, 0)]
    while (spot := layout.step(spot, 1, 0)) is not None:
        walked.append(spot)
    assert walked == list(placed([7, 0, 4], 3))
    assert layout.step(Spot(2, 0), -1, 0) == Spot(0, 6)
    assert layout.step(Spot(0, 0), -1, 0) is None
    assert layout.step(Spot(0, 1), 0, 1) == Spot(0, 4)
    # Below the last whole line is its end; below that, the next section.
    assert layout.step(Spot(0, 5), 0, 1) == Spot(0, 6)
    assert layout.step(Spot(0, 6), 0, 1) == Spot(2, 0)
    assert layout.step(Spot(2, 1), 0, -1) == Spot(0, 6)
    assert layout.step(Spot(2, 3), 0, 1) is None


def test_ten_thousand_cost_what_is_seen() -> None:
    layout = WallLayout([4000, 6000], 1000, CELL, HEADING)
    ((section, first, end),) = layout.visible(600, 700)
    assert (section, end - first) == (1, 900)
