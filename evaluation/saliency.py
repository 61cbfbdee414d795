"""What a network looks at: saliency of an observation's pixels, and the feature maps of its layers.

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
_SMALL = 20  # pixels: below, a pixel stands for a thing of its own and is taken away, not blurred


class NetworkInspector:
    """Looks into one agent that sees pictures.

    Args:
        agent: whose network is looked into.
        space: of its observations.
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
        picture = len(space.shape) == 3
        self.layers = tuple(self._layers) if picture else ()
        """names of the layers that have feature maps"""
        kinds: list[Saliency] = ["gradient"] if self.layers else []
        if picture and isinstance(agent, Advisor):
            kinds.append("perturbation")
        self.kinds: tuple[Saliency, ...] = tuple(kinds)
        """the saliencies that there are"""

    def saliency(
        self, kind: Saliency, obs: np.ndarray, state: Any, first: np.ndarray
    ) -> np.ndarray:
        """How much each pixel matters to what the agent does, [H, W] float32 from 0 to 1.

        Args:
            kind: one of `kinds`.
            obs: one observation, [1, C, H, W].
            state: the agent's before it; None at the start.
            first: [1] bool.
        """
        found = self._gradient if kind == "gradient" else self._perturbation
        heat = found(obs, state, first)
        return heat / max(float(heat.max()), 1e-12)

    def features(self, layer: str, obs: np.ndarray, state: Any, first: np.ndarray) -> np.ndarray:
        """What the filters of a layer answer after ReLU, [filters, H, W] float32 from 0 to 1."""
        kept: list[Tensor] = []
        hook = self._layers[layer].register_forward_hook(lambda *told: kept.append(told[2]))
        try:
            with torch.no_grad():
                self._forward(obs, state, first)
        finally:
            hook.remove()
        maps = kept[0][0].clamp(min=0)
        return (maps / maps.max().clamp(min=1e-12)).cpu().numpy()

    def _forward(self, obs: np.ndarray, state: State | None, first: np.ndarray) -> Any:
        """What the network says of [1, 1, *obs]."""
        agent = self._agent
        assert isinstance(agent, HasNetwork)
        device = next(agent.network.parameters()).device
        state = agent.network.initial_state(1) if state is None else state
        seen = torch.from_numpy(obs).to(device).unsqueeze(0)
        out, _ = agent.network(seen, state, torch.from_numpy(first).to(device).unsqueeze(0))
        return out

    def _gradient(self, obs: np.ndarray, state: Any, first: np.ndarray) -> np.ndarray:
        """|d score / d pixel|, the largest over channels; the score is of the best action.

        The pixels are those that enter the first convolution, scaled as the encoder scales them.
        """
        entered: list[Tensor] = []

        def enter(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            entered.append(inputs[0].detach().requires_grad_())
            return (entered[0],)

        hook = next(iter(self._layers.values())).register_forward_pre_hook(enter)
        try:
            with torch.enable_grad():
                score = _score(self._forward(obs, state, first))
                (gradient,) = torch.autograd.grad(score, entered)
        finally:
            hook.remove()
        return gradient[0].abs().amax(0).cpu().numpy()

    def _perturbation(self, obs: np.ndarray, state: Any, first: np.ndarray) -> np.ndarray:
        """Half the squared change of the answer where a spot of the picture is blurred."""
        height, width = obs.shape[2:]
        scale = height / _PAPERS_SIDE
        stride = max(1, round(_PAPERS_STRIDE * scale))
        sigma = max(_PAPERS_MASK * scale, 0.3)
        rows, columns = np.arange(0, height, stride), np.arange(0, width, stride)
        down = np.exp(-((np.arange(height) - rows[:, None]) ** 2) / (2 * sigma**2))  # [R, H]
        across = np.exp(-((np.arange(width) - columns[:, None]) ** 2) / (2 * sigma**2))  # [K, W]
        mask = np.einsum("rh,kw->rkhw", down, across).reshape(-1, 1, height, width)
        seen = obs.astype(np.float32)
        if height < _SMALL:
            veiled = np.zeros_like(seen)
        else:
            veiled = gaussian_filter(seen, (0, 0, _PAPERS_BLUR * scale, _PAPERS_BLUR * scale))
        changed = seen * (1 - mask) + veiled * mask  # [R * K, C, H, W]
        if obs.dtype == np.uint8:
            changed = np.rint(changed)
        batch = np.concatenate([obs, changed.astype(obs.dtype)])
        agent = self._agent
        assert isinstance(agent, Advisor)
        many = None if state is None else _repeated(state, len(batch))
        advice, _ = agent.advise(batch, many, np.repeat(first, len(batch)))
        told = advice.probability if advice.probability is not None else advice.q
        answer = advice.value[:, None] if told is None else np.nan_to_num(told)
        scores = 0.5 * ((answer[1:] - answer[0]) ** 2).sum(1).reshape(len(rows), len(columns))
        return _enlarged(scores.astype(np.float32), height, width)


def _score(out: Any) -> Tensor:
    """What the best action is worth: its value, or its log-probability; else the state's value."""
    if hasattr(out, "q"):
        return out.q.max()
    if out.log_std is not None:  # continuous actions
        return out.value.sum()
    return torch.log_softmax(out.logits, -1).max()


def _repeated(state: Any, times: int) -> Any:
    """The state of one env for many, [1, ...] to [times, ...]."""
    if isinstance(state, Tensor):
        return state.expand(times, *state.shape[1:])
    return tuple(_repeated(part, times) for part in state)


def _enlarged(scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """[R, K] to [height, width], between its points."""
    picture = torch.from_numpy(scores)[None, None]
    size = (height, width)
    return nn.functional.interpolate(picture, size, mode="bilinear", align_corners=True)[
        0, 0
    ].numpy()
