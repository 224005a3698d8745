"""Blocks of the authors' scSMD: convolutions of cells as images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm(channels: int) -> nn.GroupNorm:
    """Over all channels and places of one cell."""
    return nn.GroupNorm(1, channels)


class MultiDilatedGate(nn.Module):
    """The multi-dilated attention gate (MDSAB): four 3x3 convolutions of dilation 2, 4, 6 and 8, side by side, ReLU, a
    1x1 convolution, a sigmoid: x + x * g (cells x channels x height x width in and out)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=rate, dilation=rate), norm(channels))
            for rate in (2, 4, 6, 8)
        )
        self.vote = nn.Sequential(nn.Conv2d(4 * channels, channels, 1), norm(channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x + x * self.vote(F.relu(torch.cat([scale(x) for scale in self.dilated], dim=1)))


class Bottleneck(nn.Module):
    """A residual block around the gate: 1x1 convolution to ``inner`` channels, gate, 1x1 convolution back."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, inner, 1, bias=False), norm(inner), nn.ReLU()),
            *(MultiDilatedGate(inner), norm(inner), nn.ReLU()),
            *(nn.Conv2d(inner, channels, 1, bias=False), norm(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class SqueezeAttention(nn.Module):
    """y * a(x) + y, where y is b(x) at half the resolution, and a and b are two 3x3 convolutions each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fine, self.coarse = (
            nn.Sequential(*(layer for _ in range(2) for layer in self._convolution(channels))) for _ in range(2)
        )

    @staticmethod
    def _convolution(channels: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, channels, 3, padding=1), norm(channels), nn.ReLU()]

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.coarse(F.avg_pool2d(x, 2)), size=x.shape[-2:])
        return y * self.fine(x) + y


class Decoder(nn.Module):
    """Latent -> ReLU -> three transposed convolutions, each to twice the resolution: cells x latent -> cells x 1 x
    height x width, at least four times ``quarter``, the side of the image after two halvings."""

    def __init__(self, latent: int, channels: tuple[int, int, int], quarter: int, eighth: int) -> None:
        super().__init__()
        first, second, third = channels
        self.quarter, self.eighth = quarter, eighth
        self.spread = nn.Linear(latent, third * eighth**2)
        self.enlarge = nn.ConvTranspose2d(third, second, 3, stride=2)
        self.finish = nn.Sequential(
            *(nn.ReLU(), nn.ConvTranspose2d(second, first, 5, stride=2, padding=1)),
            *(nn.ReLU(), nn.ConvTranspose2d(first, 1, 4, stride=2, padding=2)),
        )

    def forward(self, latent: Tensor) -> Tensor:
        x = F.relu(self.spread(latent)).view(len(latent), -1, self.eighth, self.eighth)
        return self.finish(self.enlarge(x, output_size=[self.quarter, self.quarter]))


def encoder(latent: int, channels: tuple[int, int, int], gate: int, eighth: int) -> nn.Sequential:
    """cells x 1 x height x width -> cells x latent; ``eighth`` is the side after three halvings."""
    first, second, third = channels
    return nn.Sequential(
        *(nn.Conv2d(1, first, 5, stride=2, padding=2, bias=False), SqueezeAttention(first), norm(first), nn.ReLU()),
        *(Bottleneck(first, gate), nn.Conv2d(first, second, 5, stride=2, padding=2), nn.ReLU()),
        *(Bottleneck(second, gate), nn.Conv2d(second, third, 3, stride=2), nn.ReLU()),
        *(Bottleneck(third, gate), nn.Flatten(), nn.Linear(third * eighth**2, latent)),
    )
