"""Write a trained detector as an ONNX file: face crops in, the logit of being fake out, for any batch and image size.

    python examples/deepfake/export.py runs/demo --out detector.onnx

The file's metadata say how to prepare an image, and how to read the logit (PROCESSING below).
"""

from __future__ import annotations

import json
from pathlib import Path

from deepfake.common import cli  # isort: skip (first: Ctrl-C during the imports below then ends in one line)

import torch
from torch import Tensor, nn

from deepfake.common.cli import Parser, UserError, reading_input
from deepfake.common.files import replacing
from deepfake.evaluating.metrics import THRESHOLD
from deepfake.evaluating.summary_table import model_name
from deepfake.media.faces import CROP_SCALE
from deepfake.training.checkpoint import load_run
from panet_layers.extras import needs

PROCESSING = {
    "crop": f"a square around the largest face, {CROP_SCALE} times the larger side of its box, as prepare.py cuts it",
    "resize": "to image_size x image_size pixels, bicubic with antialiasing",
    "input": "images: RGB as float32 (batch, 3, height, width), pixel / 127.5 - 1, so in [-1, 1]; at least 64 x 64",
    "output": f"logits: (batch, 1); 1 / (1 + exp(-logit)) is the probability of fake, called fake from {THRESHOLD} up",
}


class Logits(nn.Module):
    """A detector without its reconstruction and embeddings."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        return self.detector(images).logits


def export(run: Path, out: Path) -> None:
    """Write the best model of a run to `out`. UserError if the run can't be read; exit without ONNX's packages."""
    with needs("example", "export"):
        import onnxscript  # noqa: F401  (torch.onnx needs it, but fails late without it)
    with reading_input():
        detector, config = load_run(run)
        if config["model"].get("num_classes", 1) != 1:
            raise UserError(f'{run}: the model has {config["model"]["num_classes"]} outputs; export needs one, "fake"')
    size = config["image_size"]
    program = torch.onnx.export(
        Logits(detector).eval(),
        (torch.zeros(2, 3, size, size),),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
    )
    assert program
    metadata = PROCESSING | {"image_size": str(size), "model": model_name(config["model"])}
    program.model.metadata_props.update(metadata | {"config": json.dumps(config["model"])})
    with replacing(out) as file:
        file.write(program.model_proto.SerializeToString())


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = Parser(description=__doc__)
    parser.add_argument("run", type=cli.path, metavar="RUN", help="run folder of train.py, or one of save_pretrained")
    parser.add_argument("--out", type=cli.path, metavar="FILE", help="default: RUN/model.onnx")
    args = parser.parse_args(argv)
    out = args.out or args.run / "model.onnx"
    if args.out and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise UserError(f"--out {out}: wanted a file in a folder that exists", 2)
    export(args.run, out)
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    cli.run(main)
