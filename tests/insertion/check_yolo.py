"""Checks of examples/insertion/into_yolo.py, run by test_clients.py: the layers in every step of ultralytics.

PYTHONPATH=examples/insertion python tests/insertion/check_yolo.py EMPTY_FOLDER
"""

import sys
from pathlib import Path

import into_yolo
import torch
from ultralytics import YOLO

from panet_layers import EMAM

X = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
folder = Path(sys.argv[1])


def layers(model):
    return [module for module in model.modules() if isinstance(module, EMAM)]


def weights_of(model):
    return {key: value.float().clone() for key, value in model.state_dict().items() if ".inserted_attention" in key}


class Watched(into_yolo.TrainerWithEMAM):
    def get_model(self, *args, **options):
        model = super().get_model(*args, **options)
        self.started = weights_of(model)
        return model


into_yolo.main()

# Trained: the averaged weights and the saved ones hold the layers, and the optimiser moved them.
into_yolo.TrainerWithEMAM = Watched
trained = into_yolo.train(folder, lr0=0.1, optimizer="SGD", warmup_epochs=0, nbs=2)
trainer = trained.trainer
assert len(layers(trainer.model)) == len(layers(trainer.ema.ema)) == len(layers(trained.model)) == 3
now = weights_of(trainer.model)
for stage in into_yolo.STAGES:
    assert any(not torch.equal(now[k], v) for k, v in trainer.started.items() if k.startswith(f"{stage}.")), stage

# A checkpoint holds the layers, which stay when convolutions and normalisations are fused.
best = folder / "run/weights/best.pt"
model = YOLO(best)
saved = weights_of(model.model)
assert len(layers(model.model)) == 3 and not model.model.is_fused()
network = model.model.float().eval()
expected = network(X)[0]
torch.testing.assert_close(network.fuse(verbose=False)(X)[0], expected, rtol=1e-4, atol=1e-3)
assert len(layers(network)) == 3
assert len(YOLO(best).predict(str(folder / "images/0.png"), imgsz=64, device="cpu", verbose=False)) == 1

# Exported, it computes the same.
traced = torch.jit.load(YOLO(best).export(format="torchscript", imgsz=64, device="cpu"))
torch.testing.assert_close(traced(X)[0] if isinstance(traced(X), tuple) else traced(X), expected, rtol=1e-4, atol=1e-3)

# A second training starts from the layers' weights, and a plain network's checkpoint loads.
into_yolo.train(folder, str(best), name="again", lr0=0.0, optimizer="SGD", warmup_epochs=0)
again = weights_of(YOLO(folder / "again/weights/last.pt").model)
assert saved.keys() == again.keys() and all(torch.equal(saved[key], again[key]) for key in saved)
plain = YOLO("yolo11n.yaml").model
refined = trainer.get_model("yolo11n.yaml", plain)
first = next(iter(plain.state_dict()))
assert torch.equal(refined.state_dict()[first], plain.state_dict()[first]) and len(layers(refined)) == 3
print("all checks passed")
