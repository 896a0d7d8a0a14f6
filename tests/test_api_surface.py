"""The public names and signatures, against a file: a change of the API shows in review.

After an intended change, write the file again: `python tests/test_api_surface.py`.
"""

import inspect
import json
from pathlib import Path

import panet_layers
from panet_layers import functional

SURFACE = Path(__file__).with_name("api_surface.json")


def surface():
    names = {name: getattr(panet_layers, name) for name in panet_layers.__all__}
    public = [name for name in vars(functional) if not name.startswith("_")]
    functions = {f"functional.{name}": getattr(functional, name) for name in public}
    functions = {
        name: f for name, f in functions.items() if inspect.isfunction(f) and f.__module__ == functional.__name__
    }
    described = {name: str(inspect.signature(o)) if callable(o) else type(o).__name__ for name, o in names.items()}
    return dict(sorted((described | {name: str(inspect.signature(f)) for name, f in functions.items()}).items()))


def test_the_surface_is_as_written():
    assert surface() == json.loads(SURFACE.read_text())


def test_every_public_name_says_what_it_is():
    for name in panet_layers.__all__:
        value = getattr(panet_layers, name)
        assert isinstance(value, str) or inspect.getdoc(value), name


if __name__ == "__main__":
    SURFACE.write_text(json.dumps(surface(), indent=2) + "\n")
