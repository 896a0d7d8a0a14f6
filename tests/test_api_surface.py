"""The public names and signatures, against a file: a change of the API shows in review.

After an intended change, write the file again: `python tests/test_api_surface.py`.
"""

import inspect
import json
from pathlib import Path

import panet_layers
from panet_layers import checkpoints, functional, insertion, models
from panet_layers.integrations import timm, ultralytics

SURFACE = Path(__file__).with_name("api_surface.json")
MODULES = (panet_layers, checkpoints, functional, insertion, models, timm, ultralytics)


def public(module):
    """Return what `__all__` names, or else the functions that the module defines, by name from panet_layers on."""
    functions = inspect.getmembers(module, lambda o: inspect.isfunction(o) and o.__module__ == module.__name__)
    names = getattr(module, "__all__", [name for name, _ in functions if not name.startswith("_")])
    return {f"{module.__name__}.{name}".removeprefix("panet_layers."): getattr(module, name) for name in names}


def surface():
    values = {name: value for module in MODULES for name, value in public(module).items()}
    return {name: described(value) for name, value in sorted(values.items())}


def described(value):
    """Return a signature, or the fields of a named tuple, whose types each version of Python prints differently."""
    if hasattr(value, "_fields"):
        return f"({', '.join(value._fields)})"
    return str(inspect.signature(value)) if callable(value) else type(value).__name__


def test_the_surface_is_as_written():
    assert surface() == json.loads(SURFACE.read_text())


def test_every_public_name_says_what_it_is():
    for name, value in {name: value for module in MODULES for name, value in public(module).items()}.items():
        assert isinstance(value, str) or inspect.getdoc(value), name


if __name__ == "__main__":
    SURFACE.write_text(json.dumps(surface(), indent=2) + "\n")
