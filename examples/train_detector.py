"""Train PANet on a folder of real and fake face crops: a trainer to copy. Flips, schedule, resume: examples/deepfake.

    pip install -e ".[example]" && python examples/train_detector.py FOLDER --out detector.pt

FOLDER holds real/ and fake/ only. About a fifth of the people are for validation. A person is a file's name up to the
first "_" or "-"; if frames are in folders, the folder's name (fake/METHOD/ is no such folder). To use the result:

    saved = torch.load("detector.pt", map_location="cpu")
    model = PANet.from_config(saved["config"]).eval()
    model.load_state_dict(saved["state_dict"])
"""

import re
import zlib
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision import datasets
from torchvision import transforms as T

from panet_layers.command_line import Parser, path
from panet_layers.extras import needs
from panet_layers.models import PANet, PANetLoss


def load(folder: Path, size: int) -> list[Subset]:
    """The training part and the validation part: images (3, size, size) in [-1, 1], each with its class."""
    steps = [partial(Image.Image.convert, mode="RGB"), T.Resize((size, size)), T.ToTensor(), T.Normalize(0.5, 0.5)]
    read = partial(Image.open, formats=("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"))  # EPS would run Ghostscript
    images = datasets.ImageFolder(folder, T.Compose(steps), loader=read)
    paths = [Path(path).relative_to(folder).as_posix() for path, _ in images.samples]
    people = [re.split("^real/|^fake/(?:[^/]+/)?|[_./-]", path)[1] for path in paths]
    parts = [[i for i, p in enumerate(people) if (zlib.crc32(p.encode()) % 5 == 0) is val] for val in (False, True)]
    if images.classes != ["fake", "real"] or any({images.targets[i] for i in part} != {0, 1} for part in parts):
        raise ValueError(f"{folder}: wanted real/ and fake/, no other folder, and more people than {len(set(people))}")
    return [Subset(images, part) for part in parts]


def main(folder: Path, out: Path, variant: str, epochs: int, batch_size: int, lr: float, workers: int) -> None:
    """Train, and save the weights of the epoch with the best validation AUC."""
    with needs("example"):
        from sklearn.metrics import roc_auc_score
    if min(epochs, batch_size) < 1 or out.is_dir() or not out.parent.is_dir():
        raise ValueError("wanted --epochs and --batch-size of at least 1, and for --out a file in a folder that exists")
    train, val = load(folder, size=299 if variant == "paper" else 64)
    device, layout = ("cuda", torch.contiguous_format) if torch.cuda.is_available() else ("cpu", torch.channels_last)
    torch.manual_seed(0)
    model = PANet(variant=variant, encoder_pretrained=variant == "paper").to(device).to(memory_format=layout)
    optimizer, best = torch.optim.Adam(model.parameters(), lr, weight_decay=1e-5), -1.0
    for epoch in range(1, epochs + 1):
        model.train()
        for images, classes in DataLoader(train, batch_size, shuffle=True, num_workers=workers, timeout=workers and 60):
            images, labels = images.to(device), 1 - classes.to(device)  # ImageFolder has 0 for fake, PANetLoss has 1
            optimizer.zero_grad()
            PANetLoss()(model(images), images, labels).total.backward()
            optimizer.step()
        logits, labels = [], [1 - val.dataset.targets[i] for i in val.indices]  # type: ignore[attr-defined]
        with torch.inference_mode():
            for images, _ in DataLoader(val, batch_size, num_workers=workers, timeout=workers and 60):
                logits += model.eval()(images.to(device)).logits[:, 0].tolist()
        print(f"epoch {epoch}/{epochs}: validation AUC {(auc := roc_auc_score(labels, logits)):.4f}", flush=True)
        if auc > best:
            best = auc
            torch.save({"config": model.config, "state_dict": model.state_dict()}, out)


if __name__ == "__main__":
    parser = Parser(description=__doc__)
    parser.add_argument("folder", type=path)
    parser.add_argument("--out", type=path, required=True, metavar="FILE")
    parser.add_argument("--variant", choices=("tiny", "paper"), default="tiny", help="paper: for a GPU, with --lr 2e-4")
    for name, value in {"epochs": 20, "batch-size": 32, "lr": 2e-3, "workers": 2}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"default: {value}")
    try:
        main(**vars(parser.parse_args()))
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {str(error).splitlines()[-1]}\n")
