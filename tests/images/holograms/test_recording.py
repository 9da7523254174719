from __future__ import annotations

import numpy as np
import pytest

from napari_sparseattn.images.holograms.recording import Recording

STACK = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


def test_frames_and_backgrounds_are_read_one_by_one() -> None:
    one = Recording(STACK, "phase", background=STACK[:1])
    each = Recording(STACK, "phase", background=STACK)
    assert len(one) == 2
    assert one.shape == (3, 4)
    assert np.array_equal(one.frame(1), STACK[1])
    assert np.array_equal(one.background_of(1), STACK[0])
    assert np.array_equal(each.background_of(1), STACK[1])
    assert Recording(STACK, "phase").background_of(0) is None
    with pytest.raises(IndexError, match="no frame 2"):
        one.frame(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": STACK[0]}, "stack"),
        ({"frames": STACK[:0]}, "empty"),
        ({"kind": "field"}, "cannot be of type"),
        ({"kind": "image"}, "kind must be"),
        ({"frames": STACK.astype(complex)}, "cannot be of type"),
        ({"background": STACK[:, :2]}, "background"),
        ({"background": np.concatenate([STACK, STACK])}, "background"),
        ({"amplitude": STACK[:1]}, "amplitude"),
        ({"wavelength": 0.0}, "wavelength"),
        ({"pixel_size": float("nan")}, "pixel_size"),
    ],
)
def test_what_does_not_agree_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recording(**{"frames": STACK, "kind": "phase", **changes})


def test_what_is_given_replaces_what_the_file_says() -> None:
    recording = Recording(STACK, "phase", pixel_size=0.1, wavelength=500.0)
    known = recording.with_known(wavelength=633.0)
    assert (known.pixel_size, known.wavelength, known.medium_index) == (0.1, 633.0, None)
