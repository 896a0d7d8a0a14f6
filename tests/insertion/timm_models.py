"""The smallest model of every module of timm.models, by timm's registry, so that modules of a new timm are tested too.

Finding them takes minutes, so the result is stored in timm_models.json; `python -m tests.insertion.timm_models` writes
it again. For a module that is not stored, the smallest model is searched.
"""

import json
from pathlib import Path

import timm
import torch
from timm.models import list_models, list_modules

SMALLEST = Path(__file__).with_name("timm_models.json")
_WRITTEN = json.loads(SMALLEST.read_text()) if SMALLEST.exists() else {}


def modules():
    """The names of timm's model modules."""
    return sorted(list_modules())


def smallest(module):
    """(name, number of parameters) of the module's smallest model."""
    written = _WRITTEN.get(module)
    if written and written["model"] in list_models(module=module):
        return written["model"], written["parameters"]
    return min(((name, _parameters(name)) for name in list_models(module=module)), key=lambda pair: pair[1])


def _parameters(name):
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name).parameters())


if __name__ == "__main__":
    _WRITTEN.clear()
    found = {module: dict(zip(("model", "parameters"), smallest(module))) for module in modules()}
    SMALLEST.write_text(json.dumps(found, indent=1) + "\n")
