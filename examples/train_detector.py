"""Train PANet on a folder of real and fake face crops: the whole recipe in one file, to copy and to change.

    python examples/train_detector.py FOLDER --out detector.pt

FOLDER holds real/ and fake/. About a fifth of the people are for validation: image files whose names begin alike, up to
the first "_" or "-", are one person's. For videos, exact resume and full evaluation, see examples/deepfake. To load:

    saved = torch.load("detector.pt")
    model = PANet.from_config(saved["config"]).eval()
    model.load_state_dict(saved["state_dict"])
"""

import argparse
import sys
import zlib
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from panet_layers.models import PANet, PANetLoss


def load(folder: Path, size: int) -> list[Subset]:
    """The training part and the validation part: images (3, size, size) in [-1, 1], each with its class."""
    steps = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    images = ImageFolder(folder, transforms.Compose(steps))
    if images.classes != ["fake", "real"]:
        raise ValueError(f"the folders are {images.classes}; wanted 'fake' and 'real'")
    people = [Path(path).stem.replace("-", "_").split("_")[0] for path, _ in images.samples]
    validates = [zlib.crc32(name.encode()) % 5 == 0 for name in people]
    parts = [[i for i, chosen in enumerate(validates) if chosen is wanted] for wanted in (False, True)]
    if any({images.targets[i] for i in part} != {0, 1} for part in parts):
        raise ValueError(f"too few people ({len(set(people))}) for real and fake images in both parts")
    return [Subset(images, part) for part in parts]


def main(folder: Path, out: Path, variant: str, epochs: int, batch_size: int, lr: float, workers: int) -> None:
    """Train, and save the weights of the epoch with the best validation AUC."""
    try:
        training, validation = load(folder, size=299 if variant == "paper" else 64)
        out.touch()  # a file that cannot be written fails here, not after an epoch
    except (OSError, ValueError) as error:
        sys.exit(f"error: {folder}: {error}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model, loss, best = PANet(variant=variant).to(device), PANetLoss(), -1.0
    optimizer = torch.optim.Adam(model.parameters(), lr, weight_decay=1e-5)
    for epoch in range(1, epochs + 1):
        model.train()
        for images, classes in DataLoader(training, batch_size, shuffle=True, num_workers=workers):
            images, labels = images.to(device), 1 - classes.to(device)  # ImageFolder has 0 for fake, PANetLoss has 1
            optimizer.zero_grad()
            loss(model(images), images, labels).total.backward()
            optimizer.step()

        model.eval()
        logits, labels = [], []
        with torch.inference_mode():
            for images, classes in DataLoader(validation, batch_size, num_workers=workers):
                logits += model(images.to(device)).logits[:, 0].tolist()
                labels += (1 - classes).tolist()
        auc = roc_auc_score(labels, logits)
        print(f"epoch {epoch}/{epochs}: validation AUC {auc:.4f}", flush=True)
        if auc > best:
            best = auc
            torch.save({"config": model.config, "state_dict": model.state_dict()}, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds real/ and fake/")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the best weights are saved")
    parser.add_argument("--variant", choices=("tiny", "paper"), default="tiny", help="paper: 299 pixels, for a GPU")
    for name, value in {"epochs": 20, "batch-size": 32, "lr": 2e-3, "workers": 2}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"default: {value}")
    main(**vars(parser.parse_args()))
