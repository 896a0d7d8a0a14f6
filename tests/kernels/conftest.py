"""Where the kernels' tests run: on a GPU if there is one, else on the CPU in Triton's interpreter."""

import pytest
import torch


@pytest.fixture(scope="session")
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
