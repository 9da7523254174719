"""Train the ``blood-cells-tnet`` model: TNet on the cells that SparseAttnNet is trained on.

    python scripts/train_blood_cells_tnet.py --data pbc.zip --epochs 14 --out first.safetensors
    python scripts/train_blood_cells_tnet.py --data pbc.zip --epochs 6 --rate 5e-4 \\
        --weights first.unfinished.safetensors --out second.safetensors
    python scripts/train_blood_cells_tnet.py --data pbc.zip --epochs 9 --rate 7e-4 --laboratories \
        --weights second.unfinished.safetensors

made the model that ships; the third step shows it what other laboratories' colours,
magnification and surroundings are like. The split is that of ``train_blood_cells.py``: by the
SHA-256 of class and file name. On one CPU core an epoch takes about two minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import torch
from blood_cells import default_archive, read_blood_cells
from safetensors.torch import load_file, save_file

from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.card import CropSpec
from napari_sparseattn.device import choose_device
from napari_sparseattn.files import replacing
from napari_sparseattn.models.tnet.network import TNet
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.loop.augment import Augmentation
from napari_sparseattn.training.loop.classifier import TrainingSettings, split_folds
from napari_sparseattn.training.loop.fit import EpochReport
from napari_sparseattn.training.loop.laboratories import LaboratoryChanges
from napari_sparseattn.training.loop.tnet import TNetOptions
from napari_sparseattn.training.loop.tnet_cells import measure_locations, new_tnet, train_tnet

SETTINGS = TrainingSettings(
    name="blood-cells-tnet",
    description="Eight kinds of stained blood cell: one look at the cell, then closer ones.",
    crop=CropSpec(size=128, field_of_view_um=32.0, cell_diameters=2.5),
    augmentation=Augmentation(counterstain=0, response=0),
    data="PBC: 15,326 stained blood cells of 8 kinds, 128 x 128 px at about 0.25 µm per "
    "pixel (CellaVision DM96; scale estimated from red cells)",
    citation="Acevedo et al. 2020, Data in Brief 30, 105474, doi 10.17632/snkd93bnjr.1",
    licence="CC BY 4.0",
    recipe="scripts/train_blood_cells_tnet.py",
)
#: As in ``train_blood_cells.py``, at twice the pixels; crops have no margin to be moved far in.
CHANGES = LaboratoryChanges(
    strength=0.8, counterstain=1.0, tint=0.5, saturation=0.9, response=1.0, scale=(0.8, 1.35),
    shift=0.2, blur=1.6, swap=0.25, noise=0.03, jpeg=0.03,
)  # fmt: skip


def train(
    data: CropSet,
    model: TNet,
    history: list[EpochReport],
    options: TNetOptions,
    changes: LaboratoryChanges | None,
    out: Path,
) -> None:
    """Train, keeping the best weights in a file as training goes on, and write the model."""
    weights, epochs = out.with_suffix(".unfinished.safetensors"), list(history)

    def keep(epoch: EpochReport) -> None:
        epochs.append(epoch)
        print(epoch, flush=True)
        if epoch.best:
            state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
            with replacing(weights) as temporary:
                save_file(state, temporary)
        with replacing(weights.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps([dataclasses.asdict(each) for each in epochs]))

    bundle, report = train_tnet(
        data, SETTINGS, options, keep, model=model, history=history, changes=changes
    )
    save_bundle(bundle, out)
    print(json.dumps({"test accuracy": report.test.accuracy, "macro F1": report.test.macro_f1}))
    print(json.dumps(bundle.card.metrics["by_locations"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=default_archive())
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument(
        "--laboratories", action="store_true", help="change crops as other laboratories do"
    )
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--dial", action="store_true", help="only measure the settings of a finished model"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="begin with these; with --epochs 0, only measure and write what training left",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "src/napari_sparseattn/weights/blood-cells-tnet.safetensors",
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = read_blood_cells(arguments.data)
    if arguments.dial:
        bundle = load_bundle(arguments.out)
        save_bundle(measure_locations(bundle, split_folds(data)["validation"]), arguments.out)
        return
    torch.manual_seed(0)
    model = new_tnet(data, SETTINGS)
    if arguments.weights:
        model.load_state_dict(load_file(arguments.weights))
    history = []
    if arguments.weights and (kept := arguments.weights.with_suffix(".json")).exists():
        history = [EpochReport(**each) for each in json.loads(kept.read_text())]
    # Noise is for finding out where to look: a second run knows.
    options = TNetOptions(
        epochs=arguments.epochs,
        learning_rate=arguments.rate,
        noise=0.0 if history else 0.3,
        steady=0.3 if history else 0.5,
        device=choose_device("auto"),
        seed=len(history),
    )
    changes = CHANGES if arguments.laboratories else None
    train(data, model, history, options, changes, arguments.out)
    print(f"{sum(p.numel() for p in model.parameters())} weights, {arguments.out}")


if __name__ == "__main__":
    main()
