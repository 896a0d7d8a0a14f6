"""The numbers that layers are measured on: parameters, maps, and maps whose maxima rounding does not change."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

SEED = 2024


@torch.no_grad()
def draw_parameters(target: nn.Module, source: nn.Module, dtype: torch.dtype) -> None:
    """Copy the parameters of `source`, with noise on the vectors, into those of `target`, rounded to dtype.

    Not the ones and zeros of a new layer, which would hide mistakes.
    """
    generator = torch.Generator().manual_seed(SEED)
    for its, drawn in zip(target.parameters(), source.parameters(), strict=True):
        noise = torch.randn(drawn.shape, generator=generator) * (0.1 if drawn.dim() == 1 else 0.0)
        its.copy_((drawn + noise).to(dtype).view_as(its))


@lru_cache(maxsize=2)
def normal(shape: tuple[int, ...], seed: int = SEED) -> Tensor:
    """Return numbers of the standard normal distribution."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@lru_cache(maxsize=2)
def clear_maxima(shape: tuple[int, int, int, int], seed: int = SEED) -> Tensor:
    """Return random maps (B, C, H, W) whose maxima, over channels and over pixels, are well above the other values.

    Which of two nearly equal values is the maximum depends on rounding and decides where the gradient goes; the gate
    would report that as an error. Here values are in (-1, 1), except: each pixel's largest channel is 3, and each
    channel's largest pixel is 5 (one of its threes) or 2 (if it has none).
    """
    batch, channels, height, width = shape
    pixels = height * width
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((batch, channels, pixels), generator=generator) * 2 - 1
    winner = torch.randint(channels, (batch, 1, pixels), generator=generator)
    spare = torch.randint(pixels, (batch, channels, 1), generator=generator)
    won = torch.full((batch, channels), -1)
    won.scatter_reduce_(1, winner[:, 0], torch.arange(pixels).expand(batch, -1), "amax")
    has_won = (won >= 0)[..., None]
    x.scatter_(2, spare, torch.where(has_won, x.gather(2, spare), 2.0))
    x.scatter_(1, winner, 3.0)
    peak = won.clamp_min(0)[..., None]
    x.scatter_(2, peak, torch.where(has_won, 5.0, x.gather(2, peak)))
    return x.view(shape)
