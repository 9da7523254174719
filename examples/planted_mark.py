# %% [markdown]
# # Find a planted mark, and ask what the model says without it
# A network learns what tells the training images apart, meant or not. Here
# "treated" and "untreated" cells are the same cells, drawn by lot: the treatment
# did nothing. But a small cyan mark, as of a pen, lies beside nine in ten of the
# treated ones, and beside one in fifty of the others. All images are SIMULATED.
# The network looks like a success; its evidence points at the mark, *what if*
# takes it away, and the logit falls.

# %%
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import napari_sparseattn as nsa
from napari_sparseattn import simulate, training

SIZE, FOV_UM, PIXEL_UM = 32, 20.0, 0.25
CLASSES, TREATED = ("untreated", "treated"), 1
MARKED_SHARE, CYAN, RADIUS = (0.02, 0.9), (0.10, 0.75, 0.85), 2.5


# %% [markdown]
# ## Cells, and the mark


# %%
def simulated_cells(n_fields: int, first_seed: int) -> np.ndarray:
    """Crops (N, 32, 32, 3) of simulated white cells."""
    crops = []
    for seed in range(first_seed, first_seed + n_fields):
        field, cells = simulate.smear_with_truth((800, 800), seed, n_white=24)
        crops.append(nsa.cut_crops(field, cells.centres, FOV_UM / PIXEL_UM, SIZE))
    return np.concatenate(crops)


def with_mark(crop: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The crop with a mark 11 pixels from its middle, and where the mark is (32, 32)."""
    turn = rng.uniform(0, 2 * np.pi)
    place = SIZE / 2 - 0.5 + 11.5 * np.array([np.sin(turn), np.cos(turn)])
    y, x = np.indices((SIZE, SIZE))
    mark = np.hypot(y - place[0], x - place[1]) <= RADIUS
    return np.where(mark[..., None], np.float32(CYAN), crop), mark


rng = np.random.default_rng(0)
crops = simulated_cells(16, 70_000)
labels = rng.permutation(np.arange(len(crops)) % 2)
marked = rng.random(len(crops)) < np.array(MARKED_SHARE)[labels]
shown = np.stack([with_mark(c, rng)[0] if m else c for c, m in zip(crops, marked, strict=True)])
for i, name in enumerate(CLASSES):
    print(f"{name}: {(labels == i).sum()} SIMULATED cells, {marked[labels == i].sum()} marked")

# %% [markdown]
# ## A small model, trained for a minute or two

# %%
data = training.CropSet(
    (255 * shown).round().astype(np.uint8), labels, CLASSES, tuple(map(str, range(len(crops))))
)
settings = training.TrainingSettings(
    name="planted",
    crop=nsa.CropSpec(size=SIZE, field_of_view_um=FOV_UM),
    normalisation=nsa.Normalisation("fixed", 0.7, 0.25),
    augmentation=training.Augmentation(
        stain=0, counterstain=0, response=0, depth=0, tint=0, haze=0
    ),
    options=training.FitOptions(
        epochs=30,
        batch_size=16,
        learning_rate=3e-3,
        weight_decay=0.0,
        label_smoothing=0.0,
        least_share=0.15,
        steady=0.7,
        bfloat16=False,
    ),
    architecture={
        "width": 16,
        "class_width": 24,
        "heads": 2,
        "coarse_width": 8,
        "mixing": "none",
        "tile_depth": 0,
        "dropout": 0.0,
    },
    simulated=True,
)
bundle, report = training.train_classifier(data, settings)
print(f"validation accuracy {report.validation.accuracy:.2f}, k {report.history[-1].k}")

# %% [markdown]
# ## New cells: what does a mark do to them?

# %%
fresh = simulated_cells(5, 80_000)
drawn = [with_mark(crop, rng) for crop in fresh]
with_it, marks = (np.stack(each) for each in zip(*drawn, strict=True))
plain, stamped = (nsa.classify_crops(each, bundle, "cpu") for each in (fresh, with_it))
called = [float((np.argmax(each, axis=1) == TREATED).mean()) for each in (plain, stamped)]
print(f"of {len(fresh)} new cells, called treated: {100 * called[0]:.0f} % without a mark,")
print(f"{100 * called[1]:.0f} % with one")

# %% [markdown]
# ## The evidence finds it
# Of each marked cell that was taken in: how much of the mark the model selected,
# and its attention there in multiples of uniform.

# %%
fooled = np.flatnonzero(np.argmax(stamped, axis=1) == TREATED)
if not len(fooled):
    sys.exit("The model did not take to the mark: nothing to find.")
kept, attention = [], []
for i in fooled:
    (found,) = nsa.prepare_crop(with_it[i], bundle, "cpu").seen.evidence
    kept.append(found.mask()[marks[i]].mean())
    attention.append(np.nan_to_num(found.fine_map())[marks[i]].mean())
area = marks[fooled].mean()
print(f"the mark is {100 * area:.1f} % of the crop; {100 * np.mean(kept):.0f} % of it is selected,")
print(
    f"of the whole crop {100 * found.share:.0f} %; attention there {np.mean(attention):.1f} times"
)
print("that of an average selected pixel")

# %% [markdown]
# ## What if it were not there?
# The mark is filled from its surroundings; as a control, an equal disc on the
# other side of the cell. The whole model runs again.

# %%
gone = [nsa.what_if_crop(with_it[i], bundle, marks[i], "remove", device="cpu") for i in fooled]
other_side = [
    nsa.what_if_crop(with_it[i], bundle, marks[i][::-1, ::-1], "remove", device="cpu")
    for i in fooled
]
falls = np.array([each.change[TREATED] for each in gone])
controls = np.array([each.change[TREATED] for each in other_side])
print(f"logit of treated without the mark: {falls.mean():+.2f}")
print(f"     without an equal disc opposite: {controls.mean():+.2f}")
print(
    f"another class in {100 * np.mean([w.class_changed for w in gone]):.0f} % of {len(gone)} cells"
)
print("for example:", gone[0].summary())

# %% [markdown]
# ## Measured as any evidence is

# %%
measured = nsa.faithfulness_of_crops(
    with_it[fooled[:12]],
    bundle,
    nsa.FaithfulnessSettings(draws=2, scattered=0, fills=("mean", "background")),
    "cpu",
)
for to in ("random", "edges", "centre"):
    print("evidence of marked cells:", measured.verdict(to))


# %% [markdown]
# ## The picture: a marked cell, what was selected, and the cell without its mark


# %%
def enlarged(planes: np.ndarray) -> np.ndarray:
    return np.kron((255 * planes).clip(0, 255).astype(np.uint8), np.ones((6, 6, 1), np.uint8))


first = gone[0]
marked_cell = with_it[fooled[0]]
selected = np.where(
    first.before.evidence.mask()[..., None], marked_cell, 1 - 0.35 * (1 - marked_cell)
)
rerun = nsa.prepare_crop(marked_cell, bundle, "cpu")
mean, std = settings.normalisation.mean, settings.normalisation.std
filled = rerun.replace_pixels(marks[fooled[0]][None], "mean", 0)[0].transpose(1, 2, 0) * std + mean
row = [enlarged(each) for each in (marked_cell, selected, filled)]
gap = np.full((row[0].shape[0], 12, 3), 255, np.uint8)
out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("planted-mark.png")
Image.fromarray(np.concatenate([row[0], gap, row[1], gap, row[2]], axis=1)).save(out)
print(out)
