"""GTrXL: a gated transformer over a window of past steps (Parisotto et al. 2019).

https://arxiv.org/abs/1910.06764. Layer normalisation comes first in each block and a GRU-like gate
takes the place of the residual sum; positions are relative (Transformer-XL,
https://arxiv.org/abs/1901.02860). A row attends to itself and the `window` rows before it of its
episode, and to none further back, so acting a row at a time gives what a whole rollout gives.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = tuple[Tensor, ...]


class _Gate(nn.Module):
    """A GRU's gate between a block's input x and its output y (section 3.2); x wins at first."""

    def __init__(self, dim: int, bias: float = 2.0) -> None:
        super().__init__()
        self.of_y = nn.Linear(dim, 3 * dim, bias=False)
        self.of_x = nn.Linear(dim, 2 * dim, bias=False)
        self.of_reset = nn.Linear(dim, dim, bias=False)
        self.bias = nn.Parameter(torch.full((dim,), bias))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[..., dim] each to the same."""
        y_r, y_z, y_h = self.of_y(y).chunk(3, dim=-1)
        x_r, x_z = self.of_x(x).chunk(2, dim=-1)
        reset = torch.sigmoid(y_r + x_r)
        update = torch.sigmoid(y_z + x_z - self.bias)
        candidate = torch.tanh(y_h + self.of_reset(reset * x))
        return x.lerp(candidate, update)


class _Block(nn.Module):
    """Attention over the window, then two linear layers, each behind its gate.

    Args:
        dim: features in and out.
        heads: H, which divide dim.
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

    def forward(self, rows: Tensor, seen: Tensor, distance: Tensor) -> Tensor:
        """The last T of W + T rows.

        Args:
            rows: [B, W + T, dim], the W before and the T that are asked for.
            seen: [B, T, W + T] bool, the row attends to that one.
            distance: [T, W + T] int64, how far back that one lies, within 0 .. W.
        """
        x = rows[:, self._window :]  # [B, T, dim]
        normed = self.attention_norm(rows)
        query = self.query(normed[:, self._window :]).unflatten(-1, (self._heads, self._each))
        keys, values = (
            self.key_value(normed).unflatten(-1, (2 * self._heads, self._each)).chunk(2, dim=2)
        )  # [B, W + T, H, each]
        content = torch.einsum("bthe,bshe->bhts", query + self.content_bias, keys)
        position = torch.einsum("bthe,whe->bhtw", query + self.position_bias, self.position)
        index = distance.expand(*position.shape[:2], *distance.shape)
        score = (content + position.gather(-1, index)) / math.sqrt(self._each)  # [B, H, T, W + T]
        weight = score.masked_fill(~seen.unsqueeze(1), -1e9).softmax(-1)
        found = torch.einsum("bhts,bshe->bthe", weight, values).flatten(2)
        x = self.attention_gate(x, F.relu(self.out(found)))
        return self.layers_gate(x, F.relu(self.layers(self.layers_norm(x))))


class Transformer(nn.Module):
    """A GTrXL of L layers as a core; its state is what each layer was given, W rows back.

    Args:
        dim: features in.
        units: features out.
        layers: L.
        heads: of the attention; they divide units.
        window: W, rows before its own that a row attends to in each layer.
    """

    def __init__(self, dim: int, units: int, layers: int, heads: int, window: int) -> None:
        super().__init__()
        self.dim, self._window, self._count = units, window, layers
        self.embedding = nn.Linear(dim, units)
        self.blocks = nn.ModuleList(_Block(units, heads, window) for _ in range(layers))

    def initial_state(self, batch: int) -> State:
        """Nothing seen: rows [B, W, L, units], and how many of them count [B]."""
        weight = self.embedding.weight
        rows = weight.new_zeros(batch, self._window, self._count, self.dim)
        return rows, torch.zeros(batch, dtype=torch.int64, device=weight.device)

    def forward(self, x: Tensor, state: State, first: Tensor) -> tuple[Tensor, State]:
        """[T, B, dim] to [T, B, units]; env b sees nothing from before a row where first[t, b]."""
        past, count = state  # [B, W, L, units], [B]
        seen, distance = self._seen(count, first)
        rows = F.relu(self.embedding(x)).transpose(0, 1)  # [B, T, units]
        given = []
        for depth, block in enumerate(self.blocks):
            rows = torch.cat([past[:, :, depth], rows], dim=1)  # [B, W + T, units]
            given.append(rows[:, len(x) :].detach())  # the last W of them
            rows = block(rows, seen, distance)
        return rows.transpose(0, 1), (torch.stack(given, dim=2), self._counted(count, first))

    def _seen(self, count: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Which of W + T rows each of T rows attends to [B, T, W + T], and their distance."""
        window, steps = self._window, len(first)
        at = torch.arange(window + steps, device=first.device)  # the rows asked for begin at W
        back = at[window:, None] - at[None]  # [T, W + T]
        near = (back >= 0) & (back <= window)
        episode = first.to(torch.int64).cumsum(0).t()  # [B, T], 0 is the one that goes on
        goes_on = at[:window] >= window - count.unsqueeze(-1)  # [B, W]
        of = torch.cat([torch.where(goes_on, 0, -1), episode], dim=1)  # [B, W + T]
        same = of.unsqueeze(1) == episode.unsqueeze(2)  # [B, T, W + T]
        return same & near, back.clamp(0, window)

    def _counted(self, count: Tensor, first: Tensor) -> Tensor:
        """Rows of the running episode after these [B], W at most."""
        steps = len(first)
        at = torch.arange(1, steps + 1, device=first.device).unsqueeze(-1)  # [T, 1]
        opened = (first * at).amax(0)  # [B] the last row that opened one, from 1; 0 for none
        since = torch.where(opened > 0, steps + 1 - opened, count + steps)
        return since.clamp(max=self._window)
