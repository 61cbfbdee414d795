"""GTrXL: a gated transformer over a window of past steps (Parisotto et al. 2019).

https://arxiv.org/abs/1910.06764. Each block begins with layer normalisation, and a GRU-like gate
replaces the residual sum. Positions are relative (Transformer-XL,
https://arxiv.org/abs/1901.02860). A row attends to itself and to the `window` rows before it in its
episode, and to none further back, so acting row by row gives the same result as a whole rollout.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = tuple[Tensor, ...]


class _Gate(nn.Module):
    """GRU gate between a block's input x and its output y (section 3.2); passes x at first."""

    def __init__(self, dim: int, bias: float = 2.0) -> None:
        super().__init__()
        self.of_y = nn.Linear(dim, 3 * dim, bias=False)
        self.of_x = nn.Linear(dim, 2 * dim, bias=False)
        self.of_reset = nn.Linear(dim, dim, bias=False)
        self.bias = nn.Parameter(torch.full((dim,), bias))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map x and y [..., dim] to [..., dim]."""
        y_r, y_z, y_h = self.of_y(y).chunk(3, dim=-1)
        x_r, x_z = self.of_x(x).chunk(2, dim=-1)
        reset = torch.sigmoid(y_r + x_r)
        update = torch.sigmoid(y_z + x_z - self.bias)  # small at first: x passes
        candidate = torch.tanh(y_h + self.of_reset(reset * x))
        return x.lerp(candidate, update)


class _Block(nn.Module):
    """Attention over the window, then two linear layers, each followed by its gate.

    Args:
        dim: input and output features.
        heads: number of attention heads, H, a divisor of dim.
        window: W.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self._heads, self._each, self._window = heads, dim // heads, window
        self.attention_norm, self.layers_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.out = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.position = nn.Parameter(torch.randn(window + 1, heads, self._each) * dim**-0.5)
        self.content_bias = nn.Parameter(torch.zeros(heads, self._each))
        self.position_bias = nn.Parameter(torch.zeros(heads, self._each))
        self.layers = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))
        self.attention_gate, self.layers_gate = _Gate(dim), _Gate(dim)

    def forward(self, rows: Tensor, attends: Tensor, distance: Tensor) -> Tensor:
        """Return the block's output for the last T of W + T rows, [B, T, dim].

        Args:
            rows: [B, W + T, dim], the W past rows and the T new ones.
            attends: [B, T, W + T] bool, row t attends to row s.
            distance: [T, W + T] int64, how many rows s lies before t, clamped to 0 .. W.
        """
        x = rows[:, self._window :]  # [B, T, dim]
        normed = self.attention_norm(rows)
        query = self.query(normed[:, self._window :]).unflatten(-1, (self._heads, self._each))
        keys, values = (
            self.key_value(normed).unflatten(-1, (2 * self._heads, self._each)).chunk(2, dim=2)
        )  # [B, W + T, H, each]
        # score(t, s) = (q_t + u) k_s + (q_t + v) r_{t - s}, as in Transformer-XL, section 3.3, but
        # with learned embeddings r of the W + 1 distances. The second term is computed once per
        # distance and gathered, which is cheaper than an embedding per pair (t, s).
        content = torch.einsum("bthe,bshe->bhts", query + self.content_bias, keys)
        position = torch.einsum("bthe,whe->bhtw", query + self.position_bias, self.position)
        index = distance.expand(*position.shape[:2], *distance.shape)
        score = (content + position.gather(-1, index)) / math.sqrt(self._each)  # [B, H, T, W + T]
        weight = score.masked_fill(~attends.unsqueeze(1), -1e9).softmax(-1)
        attended = torch.einsum("bhts,bshe->bthe", weight, values).flatten(2)
        x = self.attention_gate(x, F.relu(self.out(attended)))
        return self.layers_gate(x, F.relu(self.layers(self.layers_norm(x))))


class Transformer(nn.Module):
    """GTrXL of L layers as a core; its state holds the inputs of each layer for the last W rows.

    Args:
        dim: input features.
        units: output features.
        layers: number of layers, L.
        heads: number of attention heads, a divisor of units.
        window: number of past rows that a row attends to in each layer, W.
    """

    def __init__(self, dim: int, units: int, layers: int, heads: int, window: int) -> None:
        super().__init__()
        self.dim, self._window, self._count = units, window, layers
        self.embedding = nn.Linear(dim, units)
        self.blocks = nn.ModuleList(_Block(units, heads, window) for _ in range(layers))

    def initial_state(self, batch: int) -> State:
        """Return zeros [B, W, L, units] and the number of valid rows among them, 0 [B]."""
        weight = self.embedding.weight
        rows = weight.new_zeros(batch, self._window, self._count, self.dim)
        return rows, torch.zeros(batch, dtype=torch.int64, device=weight.device)

    def forward(self, x: Tensor, state: State, first: Tensor) -> tuple[Tensor, State]:
        """Map [T, B, dim] to [T, B, units]; env b attends to no row before one with first[t, b]."""
        past, count = state  # [B, W, L, units], [B]
        attends, distance = self._attends(count, first)
        rows = F.relu(self.embedding(x)).transpose(0, 1)  # [B, T, units]
        inputs = []
        for depth, block in enumerate(self.blocks):
            rows = torch.cat([past[:, :, depth], rows], dim=1)  # [B, W + T, units]
            # Of W + T rows the last W are the next state. As in Transformer-XL, no gradient flows
            # into rows of an earlier call.
            inputs.append(rows[:, len(x) :].detach())
            rows = block(rows, attends, distance)
        return rows.transpose(0, 1), (torch.stack(inputs, dim=2), self._next_count(count, first))

    def _attends(self, count: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of W + T rows each of T rows attends to [B, T, W + T], and the distances."""
        window, steps = self._window, len(first)
        at = torch.arange(window + steps, device=first.device)  # the new rows begin at W
        distance = at[window:, None] - at[None]  # [T, W + T]
        near = (distance >= 0) & (distance <= window)
        # Rows attend only within their episode. Episodes are numbered within the call: 0 is the one
        # that was running, and the number rises where one begins. Of the W past rows the last
        # `count` belong to the running episode, the others to none (-1).
        episode = first.to(torch.int64).cumsum(0).t()  # [B, T]
        running = at[:window] >= window - count.unsqueeze(-1)  # [B, W]
        episodes = torch.cat([torch.where(running, 0, -1), episode], dim=1)  # [B, W + T]
        same = episodes.unsqueeze(1) == episode.unsqueeze(2)  # [B, T, W + T]
        return same & near, distance.clamp(0, window)

    def _next_count(self, count: Tensor, first: Tensor) -> Tensor:
        """Return the rows of the running episode after these T rows, at most W, [B]."""
        steps = len(first)
        at = torch.arange(1, steps + 1, device=first.device).unsqueeze(-1)  # [T, 1]
        began = (first * at).amax(0)  # [B] last row that began an episode, from 1; 0 for none
        since = torch.where(began > 0, steps + 1 - began, count + steps)
        return since.clamp(max=self._window)
