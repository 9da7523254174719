# %% [markdown]
# # Open the window on a simulated smear and classify all its cells
# What a user does by hand: open an image, add the *Sparse attention* dock, and
# press *Classify all*.

# %%
import napari

viewer = napari.Viewer()
viewer.open_sample("napari-sparseattn", "simulated-smear")
viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")

# %%
if __name__ == "__main__":
    napari.run()
