"""What needs which package: the layers need torch and einops only; what needs another one says so in one line."""

import subprocess
import sys
import textwrap

import pytest


def run(code: str) -> str:
    """Return what the code prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_layers_import_torch_and_einops_only() -> None:
    added = run("""
        import sys, torch, einops
        einops.rearrange(torch.ones(1), "a -> a")  # some versions of einops import torch's compiler here
        before = set(sys.modules)
        import panet_layers
        x = torch.randn(2, 16, 5, 4, requires_grad=True)
        for layer in (panet_layers.EMAM(16), panet_layers.SCAM(16)):
            layer(x).sum().backward()
        names = {name.split(".")[0] for name in set(sys.modules) - before}
        print(*sorted(names - {"torch", "einops"} - set(sys.stdlib_module_names)))
    """)
    assert added == "panet_layers"


@pytest.mark.parametrize("missing", ["timm", "huggingface_hub", "safetensors"])
@pytest.mark.parametrize("use", ["import panet_layers.models", "panet_layers.checkpoints.recce_state_dict({})"])
def test_what_needs_another_package_names_it(missing: str, use: str) -> None:
    said = run(f"""
        import sys
        sys.modules[{missing!r}] = None  # importing it raises ModuleNotFoundError
        import panet_layers
        try:
            {use}
        except ImportError as error:
            print(error)
    """)
    assert said.splitlines()[-1] == (  # huggingface-hub may have printed something before
        f"panet_layers.models needs the package {missing}, which is not installed: "
        "pip install timm huggingface-hub safetensors"
    )
