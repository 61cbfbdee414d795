"""Layers that the agents' papers add to torch's: noisy, normalising, spectral; and their start."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MANY_ROWS = 64  # above it, making a noisy matrix costs less than a second product


class NoisyLinear(nn.Module):
    """A linear layer with learned factorised noise (https://arxiv.org/abs/1706.10295, section 3).

    y = (mu_w + sigma_w * f(e_out) f(e_in)^T) x + mu_b + sigma_b * f(e_out), f(e) = sign(e) sqrt|e|

    The noise comes from outside. The product is taken as (x * f(e_in)) sigma_w^T * f(e_out), so
    that each row of a batch may have its own; where one serves many rows its matrix is made.

    One rule holds for all who use it: an actor draws noise at every step, for each env its own; an
    update draws it anew and independently for the online network, the target and the choice of the
    next action, one draw for the whole batch (equations 15 and 16); an evaluation has none and
    takes the means.

    Args:
        dim: features in.
        out: features out.
        sigma: sigma_0 of the paper; every sigma starts at sigma / sqrt(dim).
    """

    def __init__(self, dim: int, out: int, sigma: float) -> None:
        super().__init__()
        self.dim, self.out = dim, out
        bound = dim**-0.5
        self.weight = nn.Parameter(torch.empty(out, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((out, dim), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((out,), sigma * bound))

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """[..., dim] to [..., out]; noise [..., dim + out] standard normal, None for the means."""
        if noise is None:
            return F.linear(x, self.weight, self.bias)
        scaled = noise.sign() * noise.abs().sqrt()
        inwards, outwards = scaled.split([self.dim, self.out], dim=-1)
        if noise.ndim == 1 and x.numel() > _MANY_ROWS * self.dim:
            weight = torch.addcmul(self.weight, self.weight_sigma, torch.outer(outwards, inwards))
            return F.linear(x, weight, torch.addcmul(self.bias, self.bias_sigma, outwards))
        y = F.linear(x, self.weight, self.bias)
        return y + F.linear(x * inwards, self.weight_sigma, self.bias_sigma) * outwards


class SpectralConv2d(nn.Module):
    """A convolution whose weight is divided by its largest singular value.

    Miyato et al. 2018, https://arxiv.org/abs/1802.05957. `power_iteration` improves the estimate in
    place and is the agent's to call, once an update; `forward` itself changes nothing.

    Args:
        channels: in.
        out: channels out.
        kernel: side of the filter, odd; the picture keeps its size.
    """

    u: Tensor
    v: Tensor

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(channels, out, kernel)
        self.weight, self.bias = convolution.weight, convolution.bias
        self._padding = kernel // 2
        self.register_buffer("u", F.normalize(torch.randn(out), dim=0))
        self.register_buffer("v", torch.zeros(channels * kernel**2))
        for _ in range(15):
            self.power_iteration()

    @torch.no_grad()
    def power_iteration(self) -> None:
        """One step towards the singular vectors of the largest singular value."""
        matrix = self.weight.flatten(1)  # [out, channels * kernel^2]
        self.v.copy_(F.normalize(matrix.t() @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] to [N, out, H, W]."""
        sigma = torch.dot(self.u, self.weight.flatten(1) @ self.v)
        return F.conv2d(x, self.weight / sigma, self.bias, padding=self._padding)


class Normalise(nn.Module):
    """Numbers less their running mean, over their running deviation, cut off at 10 of them.

    `observe` takes rows into the statistics and is the agent's to call; `forward` changes nothing,
    so that an evaluation sees what the last training step saw.

    Args:
        shape: of one observation.
        alike: all numbers share one deviation, as suits a picture, where most pixels hardly ever
            change and a filter must find the same shape everywhere.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...], alike: bool = False) -> None:
        super().__init__()
        self._alike = alike
        mean = torch.zeros(shape)
        if alike and len(shape) == 3:  # as pictures lie in memory: channels last
            mean = torch.zeros(*shape[1:], shape[0]).permute(2, 0, 1)
        self.register_buffer("mean", mean)
        self.register_buffer("variance", torch.ones(() if alike else shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update_statistics(self, rows: Tensor) -> None:
        """Take rows [N, *obs] in (Chan et al. 1979, parallel variance)."""
        if self._alike:
            mean = rows.mean(0)
            variance = (rows - mean).square_().mean()
        else:
            rows = rows.to(torch.float64)
            mean, variance = rows.mean(0), rows.var(0, correction=0)
        total = self.count + len(rows)
        share = len(rows) / total
        apart = mean - self.mean
        between = apart.square().mean() if self._alike else apart.square()
        merged = self.variance * (1 - share) + variance * share + between * share * (1 - share)
        self.mean.copy_(self.mean + apart * share)
        self.variance.copy_(merged)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        """[N, *obs] to the same, float32."""
        return ((x - self.mean) * (self.variance + 1e-8).rsqrt()).clamp(-10, 10)

    def in_place(self, x: Tensor, unit: float) -> Tensor:
        """`forward` of x / unit for x [N, *obs] float32 that no one else needs: 3 passes, not 5."""
        scale = (self.variance + 1e-8).rsqrt() / unit
        return x.sub_(self.mean * unit).mul_(scale).clamp_(-10, 10)


def start_orthogonal(module: nn.Module, gain: float) -> None:
    """Orthogonal weights and zero biases for all linear layers and convolutions in a module."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            start = torch.empty(layer.weight.shape)  # torch's own start takes no other layout
            with torch.no_grad():
                layer.weight.copy_(nn.init.orthogonal_(start, gain))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
