"""From a slide to its class, without a window: a picture of the attention and a table of patches.

    python examples/slide_to_attention.py [SLIDE] [OUT]

Without a slide, a simulated one is drawn. The model was trained on simulated
tissue only: of a real slide its class means nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import napari_sparseattn as nsa
from napari_sparseattn.export.slide_map import (
    describe_attention,
    write_attention_png,
    write_csv,
)
from napari_sparseattn.simulate import simulated_slide


def main() -> None:
    if len(sys.argv) > 1:
        slide = nsa.open_slide(sys.argv[1])
    else:
        slide, _ = simulated_slide(4096, 6144, kind="tumour", seed=1)
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "slide-example")
    with slide:
        found = nsa.classify_slide(
            slide,
            nsa.load_bundle("tissue-simulated"),
            store=out / "features",
            allow_unknown_scale=True,
        )
        write_attention_png(slide, found, out / "attention.png")
    write_csv(found, out / "patches.csv")
    print(f"{found.label} ({100 * found.confidence:.1f} %), {describe_attention(found.attention)}")
    for name, share in zip(found.class_names, found.attention.level_shares().T, strict=True):
        print(f"  {name}: {', '.join(f'{value:+.2f}' for value in share)} from level 0, 1, 2")
    print(f"  {out / 'attention.png'}, {out / 'patches.csv'}")


if __name__ == "__main__":
    main()
