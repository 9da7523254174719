"""From a slide to its class, without a window: a picture of the attention and a table of patches.

    python examples/slide_to_attention.py [SLIDE] [OUT]

Without a slide, a simulated one is drawn. The model was trained on simulated
tissue only: of a real slide its class means nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import napari_sparseattn as nsa


def main() -> None:
    if len(sys.argv) > 1:
        slide = nsa.open_slide(sys.argv[1])
    else:
        slide, _ = nsa.simulate.simulated_slide(4096, 6144, kind="tumour", seed=1)
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "slide-example")
    options = nsa.ProcessOptions(formats=("csv", "overlay"), allow_unknown_scale=True)
    bundle = nsa.load_bundle("tissue-simulated")
    with slide, nsa.process_image(slide, bundle, options, store=out / "features") as result:
        files = result.write(out)
        found = result.prediction
    print(f"{found.label} ({100 * found.confidence:.1f} %)")
    for name, share in zip(found.class_names, found.attention.level_shares().T, strict=True):
        print(f"  {name}: {', '.join(f'{value:+.2f}' for value in share)} from level 0, 1, 2")
    for paths in files.values():
        print(f"  {paths[0]}")


if __name__ == "__main__":
    main()
