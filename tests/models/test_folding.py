"""Batch normalisation folded into convolutions: the detectors' outputs to rounding, and what stays as it is."""

import pytest
import torch
from torch import nn

from panet_layers.models import PANet, fold_batch_norm
from tests.models.test_panet_parts import randomise_batch_norm
