"""Saliency of an observation's pixels, and feature maps of a network's convolutions.

Gradient saliency is Simonyan et al. 2014, https://arxiv.org/abs/1312.6034, section 3; perturbation
saliency is Greydanus et al. 2018, https://arxiv.org/abs/1711.00138, equations 1 and 2.
"""

from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from ludus.agents.agent import Advisor, HasNetwork
from ludus.networks.cores import State

Saliency = Literal["gradient", "perturbation"]
_PAPERS_SIDE, _PAPERS_MASK, _PAPERS_BLUR, _PAPERS_STRIDE = 84, 5.0, 3.0, 5  # pixels
_SMALL = 20  # pixels: in smaller images a pixel is an object, so it is set to 0, not blurred


class NetworkInspector:
    """Computes saliency and feature maps of one agent with image observations.

    Args:
        agent: the agent; without a network or images there is nothing to compute.
        space: its observation space.
    """

    def __init__(self, agent: object, space: spaces.Box) -> None:
        self._agent, self._space = agent, space
        self._layers: dict[str, nn.Conv2d] = {}
        if isinstance(agent, HasNetwork):
            encoder = agent.network.encoder
            found = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
            for i, layer in enumerate(found, 1):
                size = "x".join(map(str, layer.kernel_size))
                self._layers[f"{i}: {layer.out_channels} filters of {size}"] = layer
        image = len(space.shape) == 3
        self.layers = tuple(self._layers) if image else ()
        """names of the convolutions, for `features`"""
        kinds: list[Saliency] = ["gradient"] if self.layers else []
        if image and isinstance(agent, Advisor):
            kinds.append("perturbation")
        self.kinds: tuple[Saliency, ...] = tuple(kinds)
        """saliency methods that suit the agent"""

    def saliency(
        self, kind: Saliency, obs: np.ndarray, state: Any, first: np.ndarray
    ) -> np.ndarray:
        """Return the saliency of each pixel, [H, W] float32 from 0 to 1.

        Args:
            kind: a method in `kinds`.
            obs: one observation, [1, C, H, W].
            state: the agent's state before it; None at the start.
            first: [1] bool, the observation opens an episode.
        """
        method = self._gradient if kind == "gradient" else self._perturbation
        heat = method(obs, state, first)
        return heat / max(float(heat.max()), 1e-12)

    def features(self, layer: str, obs: np.ndarray, state: Any, first: np.ndarray) -> np.ndarray:
        """Return a layer's outputs after ReLU, [filters, H, W] float32 from 0 to 1."""
        outputs: list[Tensor] = []
        hook = self._layers[layer].register_forward_hook(
            lambda module, inputs, output: outputs.append(output)
        )
        try:
            with torch.no_grad():
                self._forward(obs, state, first)
        finally:
            hook.remove()
        maps = outputs[0][0].clamp(min=0)
        return (maps / maps.max().clamp(min=1e-12)).cpu().numpy()

    def _forward(self, obs: np.ndarray, state: State | None, first: np.ndarray) -> Any:
        """Return the network's output for one observation, [1, *obs]."""
        agent = self._agent
        assert isinstance(agent, HasNetwork)
        device = next(agent.network.parameters()).device
        state = agent.network.initial_state(1) if state is None else state
        inputs = torch.from_numpy(obs).to(device).unsqueeze(0)  # [T = 1, B = 1, *obs]
        out, _ = agent.network(inputs, state, torch.from_numpy(first).to(device).unsqueeze(0))
        return out

    def _gradient(self, obs: np.ndarray, state: Any, first: np.ndarray) -> np.ndarray:
        """Return |d score / d pixel|, the maximum over channels; the score is the best action's.

        The gradient is with respect to the input of the first convolution, which is the image as
        the encoder scales it: an observation of bytes has no gradient itself.
        """
        pixels: list[Tensor] = []

        def replace_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            pixels.append(inputs[0].detach().requires_grad_())
            return (pixels[0],)

        hook = next(iter(self._layers.values())).register_forward_pre_hook(replace_input)
        try:
            with torch.enable_grad():
                score = _score(self._forward(obs, state, first))
                (gradient,) = torch.autograd.grad(score, pixels)
        finally:
            hook.remove()
        return gradient[0].abs().amax(0).cpu().numpy()

    def _perturbation(self, obs: np.ndarray, state: Any, first: np.ndarray) -> np.ndarray:
        """Return half the squared change of the output where a spot of the image is blurred."""
        height, width = obs.shape[2:]
        scale = height / _PAPERS_SIDE  # the paper's sizes are for 84 x 84
        stride = max(1, round(_PAPERS_STRIDE * scale))
        sigma = max(_PAPERS_MASK * scale, 0.3)
        rows, columns = np.arange(0, height, stride), np.arange(0, width, stride)
        # One Gaussian mask around each grid point; R x K of them.
        down = np.exp(-((np.arange(height) - rows[:, None]) ** 2) / (2 * sigma**2))  # [R, H]
        across = np.exp(-((np.arange(width) - columns[:, None]) ** 2) / (2 * sigma**2))  # [K, W]
        mask = np.einsum("rh,kw->rkhw", down, across).reshape(-1, 1, height, width)
        image = obs.astype(np.float32)
        if height < _SMALL:
            blurred = np.zeros_like(image)
        else:
            blurred = gaussian_filter(image, (0, 0, _PAPERS_BLUR * scale, _PAPERS_BLUR * scale))
        perturbed = image * (1 - mask) + blurred * mask  # [R * K, C, H, W]
        if obs.dtype == np.uint8:
            perturbed = np.rint(perturbed)
        # One batch: the observation itself, then all perturbed ones.
        batch = np.concatenate([obs, perturbed.astype(obs.dtype)])
        agent = self._agent
        assert isinstance(agent, Advisor)
        states = None if state is None else _repeated(state, len(batch))
        advice, _ = agent.advise(batch, states, np.repeat(first, len(batch)))
        actions = advice.probability if advice.probability is not None else advice.q
        output = advice.value[:, None] if actions is None else np.nan_to_num(actions)  # [N, A]
        scores = 0.5 * ((output[1:] - output[0]) ** 2).sum(1).reshape(len(rows), len(columns))
        return _upsampled(scores.astype(np.float32), height, width)


def _score(out: Any) -> Tensor:
    """Return the best action's value or log-probability; a continuous policy's state value."""
    if hasattr(out, "q"):
        return out.q.max()
    if out.log_std is not None:  # continuous actions
        return out.value.sum()
    return torch.log_softmax(out.logits, -1).max()


def _repeated(state: Any, times: int) -> Any:
    """Repeat the state of one env, [1, ...] to [times, ...]."""
    if isinstance(state, Tensor):
        return state.expand(times, *state.shape[1:])
    return tuple(_repeated(part, times) for part in state)


def _upsampled(scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """Interpolate [R, K] to [height, width]."""
    large = nn.functional.interpolate(
        torch.from_numpy(scores)[None, None], (height, width), mode="bilinear", align_corners=True
    )
    return large[0, 0].numpy()
