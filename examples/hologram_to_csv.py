"""From an off-axis hologram to a table of cells: python examples/hologram_to_csv.py [FILE]."""

import sys

import napari_sparseattn as nsa

if len(sys.argv) > 1:
    recording = nsa.open_hologram(sys.argv[1])  # or wavelength=633 (nm), pixel_size=0.12 (µm)
else:
    recording, *_ = nsa.simulate.hologram_with_truth((512, 512), background=True)  # simulated
opd = nsa.reconstruct(recording)  # a field of view in nm
predictions = nsa.classify_cells(opd, nsa.find_cells(opd), nsa.load_bundle("opd-simulated"))
predictions.to_frame().to_csv("cells.csv", index=False)
print(predictions.to_frame()[["class", "confidence", "dry_mass_pg", "area_um2", "peak_opd_nm"]])
