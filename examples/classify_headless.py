# %% [markdown]
# # Classify the cells of a field of view, without a window
# Open an image, find its cells, classify them, and look at what decided.

# %%
import sys

import napari_sparseattn as nsa

# %% [markdown]
# Your own image goes in as an argument. Give `pixel_size` (µm per pixel) where
# the file does not hold it: crops are then cut at the scale the model knows.

# %%
given = sys.argv[1:]
field = nsa.open_image(given[0], pixel_size=0.25) if given else nsa.simulate.smear(seed=3)
cells = nsa.find_cells(field)
bundle = nsa.load_bundle("blood-cells")
print(bundle.card.summary())

# %%
predictions = nsa.classify_cells(field, cells, bundle)
print(predictions.to_frame()[["id", "row", "column", "class", "confidence"]])
print(f"The classifier saw {100 * predictions.ledger.share:.1f} % of the crops' pixels.")

# %% [markdown]
# Each prediction holds its evidence: the selected pixels, their weights, and
# the whole coarse attention map.

# %%
if len(predictions):
    evidence = predictions[0].evidence
    heaviest = evidence.places[evidence.weights().argmax()]
    row, column = evidence.frame.to_image(heaviest)
    print(f"{evidence.k} pixels; the heaviest lies at row {row:.0f}, column {column:.0f}")

# %% [markdown]
# The same in one step, with a table, a summary and a picture as files.

# %%
with nsa.process_image(field, bundle, nsa.ProcessOptions(formats=("csv", "overlay"))) as result:
    result.write("results")
