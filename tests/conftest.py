"""Settings of all tests, and what the layers' tests share as fixtures."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before the package looks at it

from panet_layers import functional

# The same examples every time, on machines of any speed.
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


@pytest.fixture(scope="module")
def by_hand_at_any_size():
    """Let the collapsed backend run its own derivatives on small inputs too, which it leaves to the formulas."""
    with pytest.MonkeyPatch.context() as patch:
        nothing = functional.Small(inference=-1, training=-1)
        patch.setattr(functional, "SMALL_EMAM", nothing)
        patch.setattr(functional, "SMALL_SCAM", nothing)
        yield
