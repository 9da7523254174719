"""``python -m napari_sparseattn.cli`` is ``napari-sparseattn``."""

from .app import main

if __name__ == "__main__":
    main()
