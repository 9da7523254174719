"""Train the ``blood-cells-tnet`` model: TNet on the cells that SparseAttnNet is trained on.

    python scripts/train_blood_cells_tnet.py --data pbc.zip --epochs 14 --out first.safetensors
    python scripts/train_blood_cells_tnet.py --data pbc.zip --epochs 6 --rate 5e-4 \\
        --weights first.unfinished.safetensors

made the model that ships. The split is that of ``train_blood_cells.py``: by the
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
import torch.nn.functional as F
from blood_cells import default_archive, read_blood_cells
from safetensors.torch import load_file, save_file

from napari_sparseattn.bundle import Bundle, load_bundle, save_bundle
from napari_sparseattn.card import Card, CropSpec, Training
from napari_sparseattn.files import replacing
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.inference.device import choose_device
from napari_sparseattn.metrics import classification_report
from napari_sparseattn.models.tnet import TNet, TNetConfig
from napari_sparseattn.models.tnet_crops import TNetOutput
from napari_sparseattn.training.augment import Augmentation
from napari_sparseattn.training.classifier import SPLIT, fit_temperature, split_folds
from napari_sparseattn.training.datasets import CropSet
from napari_sparseattn.training.fit import EpochReport, predict_logits
from napari_sparseattn.training.tnet import AugmentedCrops, TNetOptions, fit_tnet

SIZE = 128
CONFIG = TNetConfig(image_size=SIZE, base=32, grid=3, overlap=0.5, locations=(3, 1), dropout=0.2)
NORMALISATION = Normalisation()

#: Settings of the dial that are measured for the card.
DIAL = ((1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (3, 2), (5, 2), (5, 3))


def train(
    model: TNet, parts: dict[str, CropSet], options: TNetOptions, weights: Path
) -> list[EpochReport]:
    """Train, and keep the best weights in a file as training goes on."""
    validation = parts["validation"]
    truth = torch.from_numpy(validation.labels)

    def validate(net: TNet) -> tuple[float, float]:
        logits = predict_logits(
            net, validation.crops, NORMALISATION, SIZE, device=options.device, batch_size=128
        )
        right = (logits.argmax(1) == truth).float().mean()
        return float(F.cross_entropy(logits, truth)), float(right)

    batches = AugmentedCrops(
        parts["train"].crops,
        parts["train"].labels,
        normalisation=NORMALISATION,
        augmentation=Augmentation(counterstain=0, response=0),
        size=SIZE,
        seed=options.seed,
    )
    history = []
    for epoch in fit_tnet(model, batches, validate, options):
        history.append(epoch)
        print(epoch, flush=True)
        if epoch.best:
            state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
            with replacing(weights) as temporary:
                save_file(state, temporary)
        with replacing(weights.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps([dataclasses.asdict(each) for each in history]))
    return history


def bundle_of(
    model: TNet, data: CropSet, parts: dict[str, CropSet], history: list[EpochReport]
) -> Bundle:
    """Calibrate, measure on the held-out tenth, and write the card."""
    logits = {
        name: predict_logits(model, parts[name].crops, NORMALISATION, SIZE, batch_size=128)
        for name in ("validation", "test")
    }
    temperature = fit_temperature(
        logits["validation"], torch.from_numpy(parts["validation"].labels)
    )
    probabilities = (logits["test"] / temperature).softmax(1).numpy()
    report = classification_report(probabilities, parts["test"].labels, data.class_names)
    print(json.dumps({"test accuracy": report.accuracy, "macro F1": report.macro_f1}))
    rows = [
        {key: value for key, value in dataclasses.asdict(epoch).items() if key != "best"}
        for epoch in history
    ]
    card = {
        "kind": "tnet",
        "name": "blood-cells-tnet",
        "description": "Eight kinds of stained blood cell: one look at the cell, then closer ones.",
        "class_names": data.class_names,
        "channels": ("red", "green", "blue"),
        "modality": "brightfield",
        "crop": CropSpec(size=SIZE, field_of_view_um=32.0, cell_diameters=2.5),
        "normalisation": NORMALISATION,
        "architecture": dataclasses.asdict(model.config),
        "temperature": temperature,
        "training": Training(
            data="PBC: 15,326 stained blood cells of 8 kinds, 128 x 128 px at about 0.25 µm per "
            "pixel (CellaVision DM96; scale estimated from red cells)",
            citation="Acevedo et al. 2020, Data in Brief 30, 105474, doi 10.17632/snkd93bnjr.1",
            licence="CC BY 4.0",
            split=SPLIT,
            recipe="scripts/train_blood_cells_tnet.py",
            n_train=len(parts["train"]),
            n_validation=len(parts["validation"]),
            n_test=len(parts["test"]),
            epochs=len(history),
            history=rows,
        ),
        "metrics": report.to_dict(),
    }
    return Bundle(Card.model_validate(card), model.state_dict())


def with_dial(bundle: Bundle, validation: CropSet) -> Bundle:
    """Note on the card how often the model is right at each setting of its dial.

    On the validation cells: the test cells are for one setting only.
    """
    net = bundle.model()
    rows = []
    for locations in DIAL:
        model = _AtSetting(net, locations).eval()
        logits = predict_logits(model, validation.crops, NORMALISATION, SIZE, batch_size=128)
        accuracy = float((logits.argmax(1).numpy() == validation.labels).mean())
        rows.append({"locations": list(locations), "accuracy": accuracy, "n": len(validation)})
        print(json.dumps(rows[-1]), flush=True)
    metrics = bundle.card.metrics | {"by_locations": rows}
    return dataclasses.replace(bundle, card=bundle.card.model_copy(update={"metrics": metrics}))


class _AtSetting(torch.nn.Module):
    def __init__(self, net: torch.nn.Module, locations: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.locations = net, locations

    def forward(self, crops: torch.Tensor) -> TNetOutput:
        output: TNetOutput = self.net(crops, self.locations)
        return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=default_archive())
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
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
    parts = dict(split_folds(data))
    if arguments.dial:
        bundle = load_bundle(arguments.out)
        save_bundle(with_dial(bundle, parts["validation"]), arguments.out)
        return
    torch.manual_seed(0)
    model = TNet(CONFIG).to(memory_format=torch.channels_last)
    if arguments.weights:
        model.load_state_dict(load_file(arguments.weights))
    history = []
    if arguments.weights and (kept := arguments.weights.with_suffix(".json")).exists():
        history = [EpochReport(**each) for each in json.loads(kept.read_text())]
    if arguments.epochs:
        # Noise is for finding out where to look: a second run knows.
        options = TNetOptions(
            epochs=arguments.epochs,
            learning_rate=arguments.rate,
            noise=0.0 if history else 0.3,
            steady=0.3 if history else 0.5,
            device=choose_device("auto"),
            seed=len(history),
        )
        unfinished = arguments.out.with_suffix(".unfinished.safetensors")
        history += train(model, parts, options, unfinished)
        model.cpu()
    bundle = with_dial(bundle_of(model.eval(), data, parts, history), parts["validation"])
    save_bundle(bundle, arguments.out)
    print(f"{sum(p.numel() for p in model.parameters())} weights, {arguments.out}")


if __name__ == "__main__":
    main()
