"""Trains a YOLO from a YAML in two worker processes of ultralytics', and goes on with the training in two others.

python tests/insertion/check_workers.py FOLDER    # of test_ultralytics.py

ultralytics starts workers for several GPUs only. The trainer below has it start two on a CPU: its own file of settings
and command, torch.distributed.run. The device, the backend gloo and DDP's device_ids are other ones, and the last
evaluation, which looks for a GPU in each worker, is left out.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer

FOLDER = sys.argv[1]


class OnCPU(nn.parallel.DistributedDataParallel):
    """Takes no device_ids, as on a CPU there are none."""

    def __init__(self, module: nn.Module, device_ids: Any = None, **options: Any) -> None:
        super().__init__(module, **options)


class TwoWorkers(DetectionTrainer):
    """Starts two worker processes. (ultralytics pickles this class for them, by value.)"""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.world_size, self.ddp = 2, "LOCAL_RANK" not in os.environ

    def _setup_ddp(self) -> None:
        torch.distributed.init_process_group("gloo")
        nn.parallel.DistributedDataParallel = OnCPU

    def final_eval(self) -> None:
        pass


def note(trainer: Any) -> None:
    """Write what a worker has: the registered names, and the layers that it trains, with the sum of their weights."""
    from ultralytics.nn import tasks

    model = trainer.model.module
    layers = [module for module in model.modules() if type(module).__name__ in ("EMAM", "SCAM")]
    kinds = [f"{type(layer).__module__}.{type(layer).__name__}" for layer in layers]
    weights = [sum(p.double().sum().item() for p in layer.parameters()) for layer in layers]
    found = {"registered": hasattr(tasks, "EMAM"), "layers": kinds, "weights": weights, "epoch": trainer.epoch}
    name = f"{Path(trainer.save_dir).name}-{trainer.start_epoch}-{os.environ['RANK']}.json"
    (Path(trainer.args.project) / name).write_text(json.dumps(found))


def workers(name: str) -> list[dict[str, Any]]:
    """What the two workers noted at the end: the same weights, as gradients are averaged over both."""
    found = [json.loads((Path(FOLDER) / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]
    assert all(worker["registered"] for worker in found), found
    assert all(worker["layers"] == ["panet_layers.emam.EMAM", "panet_layers.scam.SCAM"] for worker in found), found
    assert found[0] == found[1], found
    return found


def main() -> None:
    from panet_layers.integrations.ultralytics import register

    register()
    model = YOLO("yolo11n-emam.yaml")
    model.add_callback("on_train_batch_end", note)
    options = {"imgsz": 64, "batch": 2, "workers": 0, "plots": False, "verbose": False, "device": "cpu"}
    model.train(
        trainer=TwoWorkers,
        **{"data": "data.yaml", "epochs": 2, "save_period": 1, "project": FOLDER, "name": "shared", **options},
    )
    assert {worker["epoch"] for worker in workers("shared-0")} == {1}

    resumed = YOLO(f"{FOLDER}/shared/weights/epoch0.pt")
    resumed.add_callback("on_train_batch_end", note)
    resumed.train(trainer=TwoWorkers, resume=True)
    assert {worker["epoch"] for worker in workers("shared-1")} == {1}
    print("all checks passed")


if __name__ == "__main__":
    main()
