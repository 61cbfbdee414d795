"""Layers and initialisations beyond torch's own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ludus.networks.names import LayerNormName

_MANY_ROWS = 64  # above this, building a noisy matrix costs less than a second product


class NoisyLinear(nn.Module):
    """A linear layer with learned factorised noise (https://arxiv.org/abs/1706.10295, section 3).

    y = (mu_w + sigma_w * f(e_out) f(e_in)^T) x + mu_b + sigma_b * f(e_out), f(e) = sign(e) sqrt|e|

    The noise is an input. An actor samples it at every step, for each env separately. An update
    samples it independently for the online network, the target network and the choice of the next
    action, once for the whole batch (equations 15 and 16). An evaluation passes None and uses the
    means.

    Args:
        dim: input features.
        out: output features.
        sigma: sigma_0 of the paper; every sigma is initialised to sigma / sqrt(dim).
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
        """Map [..., dim] to [..., out]; noise [..., dim + out] standard normal, None for means."""
        if noise is None:
            return F.linear(x, self.weight, self.bias)
        scaled = noise.sign() * noise.abs().sqrt()
        inwards, outwards = scaled.split([self.dim, self.out], dim=-1)
        # If one noise sample serves many rows, build the noisy matrix once. Otherwise each row may
        # have its own noise: (x * f(e_in)) sigma_w^T * f(e_out) needs no matrix per row.
        if noise.ndim == 1 and x.numel() > _MANY_ROWS * self.dim:
            weight = torch.addcmul(self.weight, self.weight_sigma, torch.outer(outwards, inwards))
            return F.linear(x, weight, torch.addcmul(self.bias, self.bias_sigma, outwards))
        y = F.linear(x, self.weight, self.bias)
        return y + F.linear(x * inwards, self.weight_sigma, self.bias_sigma) * outwards


class SpectralConv2d(nn.Module):
    """Convolution whose weight is divided by its largest singular value sigma.

    Miyato et al. 2018, https://arxiv.org/abs/1802.05957. sigma = u^T W v, with the singular vectors
    u and v estimated by power iteration. The agent calls `power_iteration` once per update, and
    `forward` changes no state. PyTorch's own `spectral_norm` iterates in each training forward
    pass, so its result would depend on how often and in which mode a network is evaluated.

    Args:
        channels: input channels.
        out: output channels.
        kernel: odd side of the filter; the image keeps its size.
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
        for _ in range(15):  # near the largest singular value from the first update on
            self.power_iteration()

    @torch.no_grad()
    def power_iteration(self) -> None:
        """Move u and v one step towards the singular vectors of the largest singular value."""
        matrix = self.weight.flatten(1)  # [out, channels * kernel^2]
        self.v.copy_(F.normalize(matrix.t() @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels, H, W] to [N, out, H, W]."""
        # u and v are constants here, so the gradient flows through the weight in sigma only.
        sigma = torch.dot(self.u, self.weight.flatten(1) @ self.v)
        return F.conv2d(x, self.weight / sigma, self.bias, padding=self._padding)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel, [N, C, H, W] to the same.

    It is Flax's `LayerNorm` after a convolution, as in the code of PQN's authors.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def start_orthogonal(module: nn.Module, gain: float) -> None:
    """Initialise all linear layers and convolutions with orthogonal weights and zero biases."""

    def fill(weight: Tensor) -> None:  # `orthogonal_` needs a contiguous tensor
        weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape), gain))

    _start(module, fill)


def start_xavier(module: nn.Module) -> None:
    """Initialise all linear layers and convolutions with Xavier's uniform weights and zero biases.

    Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html, equation 16. Noisy
    layers keep their own.
    """
    _start(module, nn.init.xavier_uniform_)


@torch.no_grad()
def _start(module: nn.Module, fill: Callable[[Tensor], object]) -> None:
    """Fill the weights of all linear layers and convolutions in place, and set biases to zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            fill(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def with_relu(layer: nn.Conv2d | nn.Linear, layer_norm: LayerNormName) -> list[nn.Module]:
    """Return the layer and ReLU, with layer normalisation between them if there is any."""
    if layer_norm == "none":
        return [layer, nn.ReLU()]
    if isinstance(layer, nn.Linear):
        return [layer, nn.LayerNorm(layer.out_features), nn.ReLU()]
    channels = layer.out_channels
    over_all = layer_norm == "all"  # channels and pixels
    return [layer, nn.GroupNorm(1, channels) if over_all else ChannelNorm(channels), nn.ReLU()]
