"""Monte-Carlo tree search in all games of a batch at once; a tree is arrays [B, N, A].

A simulation selects a path in every tree, makes one move, evaluates all B new positions in one
forward pass, and adds the values to the paths. A node's next action depends on the node alone, so
it is stored: selection follows stored actions, and the backward step recomputes them for all nodes
of all paths at once. The layout is that of mctx (https://github.com/google-deepmind/mctx). A return
changes its sign where the other player moves.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ludus.envs.board.game import Board, Game

# Positions [B] to logits [B, A], `ILLEGAL` for illegal moves, and values [B] of the next player.
Evaluate = Callable[[Board], tuple[Tensor, Tensor]]
_NEVER = -torch.inf


class Edges(NamedTuple):
    """Statistics of the actions of some nodes, [..., A] each."""

    logits: Tensor  # of the prior
    visits: Tensor  # float32
    total: Tensor  # sum of the returns, for the player who moves there
    raw: Tensor  # [...] the network's value

    def mean(self) -> Tensor:
        """Return the mean return of each action, 0 without visits."""
        return self.total / self.visits.clamp(min=1)

    def value(self) -> Tensor:
        """Return the mean of the network's value and all returns, [...]."""
        return (self.raw + self.total.sum(-1)) / (1 + self.visits.sum(-1))


class Chooser(Protocol):
    """The rule by which a search selects actions."""

    def prepare(self, logits: Tensor) -> Tensor:
        """Return the root's prior logits [B, A] for the search."""

    def inside(self, edges: Edges) -> Tensor:
        """Return the next actions [...] of nodes below the root."""

    def at_root(self, edges: Edges, simulation: int, simulations: int) -> Tensor:
        """Return the next actions [B] at the root."""

    def result(self, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
        """Return the improved policy [B, A], the action to play [B], and the policy's value [B]."""


class SearchResult(NamedTuple):
    """The result of a search of B games."""

    policy: Tensor  # [B, A] improved
    action: Tensor  # [B] int64, to play
    value: Tensor  # [B] of that policy, for the player to move
    root_mean: Tensor  # [B] of the network's value and all returns, for the player to move
    visits: Tensor  # [B, A] float32
    mean: Tensor  # [B, A] mean return of each action


class Tree:
    """Trees of B games with up to N nodes each; node 0 is the root.

    Args:
        game: the rules.
        board: positions [B] at the roots.
        nodes: N.
        device: where the arrays live.
    """

    def __init__(self, game: Game, board: Board, nodes: int, device: torch.device) -> None:
        batch, actions = len(board), game.num_actions
        self.batch, self.nodes, self.actions = batch, nodes, actions
        rows = batch * nodes + 1  # the last row is no node: writes without a target go there
        self.logits = torch.zeros(rows, actions, device=device)
        self.visits = torch.zeros(rows, actions, device=device)
        self.total = torch.zeros(rows, actions, device=device)
        # Row of the node that an action leads to; -1 without one, or where the game is over.
        self.child = torch.full((rows, actions), -1, device=device)
        self.raw = torch.zeros(rows, device=device)
        self.discount_sign = torch.ones(rows, device=device)  # of the move into the node
        self.parent = torch.full((rows,), -1, device=device)  # row of the parent; -1 for none
        self.choice = torch.zeros(rows, dtype=torch.int64, device=device)  # next action
        self.boards = game.init(batch * nodes)
        self.root = torch.arange(batch, device=device) * nodes  # [B] rows
        self.used = torch.ones_like(self.root)  # [B] number of nodes
        self.nowhere = rows - 1
        self.put(self.root, board)

    def put(self, rows: Tensor, board: Board) -> None:
        """Store positions in rows."""
        self.boards[self._index(rows)] = board

    def get(self, rows: Tensor) -> Board:
        """Return the positions of rows."""
        return self.boards[self._index(rows)]

    def _index(self, rows: Tensor) -> Any:
        return rows.cpu().numpy() if isinstance(self.boards, np.ndarray) else rows

    def arrays(self) -> tuple[Tensor, ...]:
        """Return everything but the positions, [rows, ...] each."""
        return (
            self.logits,
            self.visits,
            self.total,
            self.raw,
            self.discount_sign,
            self.child,
            self.parent,
            self.choice,
        )

    def edges(self, rows: Tensor) -> Edges:
        """Return the statistics of the nodes in rows [...]."""
        return Edges(self.logits[rows], self.visits[rows], self.total[rows], self.raw[rows])


@torch.no_grad()
def search(
    game: Game,
    board: Board,
    evaluate: Evaluate,
    chooser: Chooser,
    simulations: int,
    device: torch.device | None = None,
    tree: Tree | None = None,
) -> SearchResult:
    """Search B games.

    Args:
        game: the rules.
        board: positions [B]; the result is undefined where the game is over.
        evaluate: the network.
        chooser: PUCT or Gumbel.
        simulations: number of simulations, 1 or more.
        device: where the arrays live; the CPU by default.
        tree: trees of these positions to continue, with room for `simulations` nodes.
    """
    device = device or torch.device("cpu")
    if tree is None:
        tree = Tree(game, board, simulations + 1, device)
    logits, value = evaluate(board)
    tree.logits[tree.root], tree.raw[tree.root] = chooser.prepare(logits), value
    for i in range(simulations):
        tree.choice[tree.root] = chooser.at_root(tree.edges(tree.root), i, simulations)
        simulate(game, tree, evaluate, chooser)
    edges = tree.edges(tree.root)
    policy, action, value = chooser.result(edges)
    return SearchResult(policy, action, value, edges.value(), edges.visits, edges.mean())


def simulate(game: Game, tree: Tree, evaluate: Evaluate, chooser: Chooser) -> None:
    """Do one simulation in every tree, which adds one node to each."""
    new = tree.root + tree.used  # [B] rows
    tree.used += 1
    nodes, actions = select(tree)  # [D, B] each
    last, action = _last(tree, nodes, actions)
    move = game.step(tree.get(last), action)
    board, device = move.board, new.device
    reward, terminated = move.reward.to(device), move.terminated.to(device)
    sign = move.discount_sign.to(device)
    logits, value = evaluate(board)
    tree.put(new, board)
    tree.logits[new], tree.raw[new], tree.discount_sign[new] = logits, value, sign
    # A terminal node is never entered: its edge stays without a child, and each later simulation
    # that ends there adds the outcome again.
    tree.child[last, action] = torch.where(terminated, -1, new)
    tree.parent[new] = last
    # The return of the player who made the last move: the outcome, or the value of the position as
    # the next player sees it with its sign turned.
    returns = torch.where(terminated, reward.sign(), sign * value)  # [B]
    backward(tree, nodes, actions, returns)
    touched = torch.cat([nodes, new.unsqueeze(0)])  # [D + 1, B]
    tree.choice[touched] = chooser.inside(tree.edges(touched))


def select(tree: Tree) -> tuple[Tensor, Tensor]:
    """Follow the stored actions from the roots to edges without a child.

    Returns:
        The nodes and the actions of the paths, [D, B] each; `tree.nowhere` below the end of a path
        that is shorter than the longest.
    """
    here, going = tree.root, torch.ones_like(tree.root, dtype=torch.bool)
    child, choice = tree.child.view(-1), tree.choice
    nodes, actions = [], []
    while True:
        action = choice[here]
        nodes.append(torch.where(going, here, tree.nowhere))
        actions.append(action)
        following = child[here * tree.actions + action]
        going = following >= 0  # a path that has ended stays at its last node
        if not going.any():
            return torch.stack(nodes), torch.stack(actions)
        here = torch.where(going, following, here)


def _last(tree: Tree, nodes: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last node and action of each path, [B] each."""
    depth = (nodes != tree.nowhere).sum(0, keepdim=True) - 1  # [1, B]
    return nodes.gather(0, depth)[0], actions.gather(0, depth)[0]


def backward(tree: Tree, nodes: Tensor, actions: Tensor, returns: Tensor) -> None:
    """Add a return to every edge of the paths, for the player who moves there.

    Args:
        tree: the trees.
        nodes: [D, B].
        actions: [D, B].
        returns: [B], for the player who made the last move.
    """
    # The sign of an edge is the product of the signs of all moves after it: a cumulative product
    # from the last edge to the first. `tree.nowhere` has the sign 1.
    signs = tree.discount_sign[nodes[1:]]  # [D - 1, B] of the move into each node
    signs = torch.cat([signs, torch.ones_like(returns).unsqueeze(0)])
    signs = signs.flip(0).cumprod(0).flip(0)  # [D, B]
    edge = (nodes * tree.actions + actions).flatten()
    tree.visits.view(-1).index_add_(0, edge, torch.ones_like(signs).flatten())
    tree.total.view(-1).index_add_(0, edge, (signs * returns).flatten())


def subtree(game: Game, tree: Tree, chosen: Tensor, board: Board, most: int) -> Tree:
    """Return new trees whose roots are nodes of the given ones, with the nodes below them.

    Args:
        game: the rules.
        tree: the given trees.
        chosen: [B] rows of the nodes that become roots; -1 for an empty tree.
        board: [B] positions of the new roots.
        most: maximum number of nodes to copy, oldest first; the visits of an action remain even if
            its node is not copied.
    """
    nodes = tree.nodes
    under = torch.zeros(tree.batch, nodes, dtype=torch.bool, device=chosen.device)
    under.view(-1)[chosen[chosen >= 0]] = True
    parent = tree.parent[:-1].view_as(under)  # rows; -1 at the roots
    has, before = parent >= 0, parent.clamp(min=0)
    while True:  # each round adds the nodes one level deeper
        more = under | (has & under.view(-1)[before])
        if torch.equal(more, under):
            break
        under = more
    index = under.cumsum(1) - 1  # a node comes after its parent in both trees
    kept = under & (index < most)
    old = kept.flatten().nonzero().squeeze(1)  # [M] rows
    new = (index + tree.root.unsqueeze(1)).flatten()
    where = torch.full((len(tree.raw),), -1, device=chosen.device)  # [rows] old row to new row
    where[old] = new[old]
    after = Tree(game, board, nodes, chosen.device)
    rows = where[old]
    for name in ("logits", "visits", "total", "raw", "discount_sign", "choice"):
        getattr(after, name)[rows] = getattr(tree, name)[old]
    for name in ("child", "parent"):
        there = getattr(tree, name)[old]
        getattr(after, name)[rows] = torch.where(there >= 0, where[there.clamp(min=0)], -1)
    after.discount_sign[after.root], after.parent[after.root] = 1, -1
    after.put(rows, tree.get(old))
    after.used = kept.sum(1).clamp(min=1)
    return after


class Puct(NamedTuple):
    """PUCT, the rule of AlphaZero (https://arxiv.org/abs/1712.01815): Q + c P sqrt(N) / (1 + n).

    c = log((1 + N + 19,652) / 19,652) + `c_puct`. The Q of an unvisited action is the node's mean.
    The action to play is the most visited one; the policy is the fraction of visits.
    """

    c_puct: float = 1.25
    noise: Tensor | None = None  # [B, A] Dirichlet sample over the legal moves
    noise_share: float = 0.25  # fraction of noise in the root's prior

    def prepare(self, logits: Tensor) -> Tensor:
        """Mix noise into the prior."""
        if self.noise is None:
            return logits
        prior = (1 - self.noise_share) * logits.softmax(-1) + self.noise_share * self.noise
        return prior.log().maximum(logits.min())  # illegal moves stay finite

    def inside(self, edges: Edges) -> Tensor:
        """Return the actions of the highest score."""
        visited = edges.visits.sum(-1, keepdim=True) + 1
        mean = torch.where(edges.visits > 0, edges.mean(), edges.value().unsqueeze(-1))
        rate = ((1 + visited + 19_652) / 19_652).log() + self.c_puct
        prior = edges.logits.softmax(-1)
        score = mean + rate * prior * visited.sqrt() / (1 + edges.visits)
        return torch.where(_legal(edges.logits), score, _NEVER).argmax(-1)

    def at_root(self, edges: Edges, simulation: int, simulations: int) -> Tensor:
        """Return the actions of the highest score."""
        return self.inside(edges)

    def result(self, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
        """Return the fractions of visits and the most visited action; the mean breaks ties."""
        policy = edges.visits / edges.visits.sum(-1, keepdim=True).clamp(min=1)
        rank = edges.visits + 0.25 * edges.mean().clamp(-1, 1)
        action = torch.where(_legal(edges.logits), rank, _NEVER).argmax(-1)
        return policy, action, edges.value()


class Gumbel(NamedTuple):
    """Policy improvement by planning with Gumbel (https://openreview.net/forum?id=bERaNdoegnO).

    Root: sequential halving among the actions of the highest logit plus Gumbel noise. Below: visits
    in proportion to the improved policy, softmax(logits + sigma(completed Q)), equation 11.
    """

    noise: Tensor | None = None  # [B, A] Gumbel sample; None to play greedily
    considered: int = 16  # maximum number of actions at the root
    c_visit: float = 50.0
    c_scale: float = 1.0

    def prepare(self, logits: Tensor) -> Tensor:
        """Return the logits unchanged."""
        return logits

    def _completed(self, edges: Edges) -> Tensor:
        """Return mean returns [..., A]; those of unvisited actions as in appendix D."""
        prior = edges.logits.softmax(-1)
        tried = edges.visits > 0
        known = (prior * tried).sum(-1)
        mean, visited = edges.mean(), edges.visits.sum(-1)
        share = (prior * mean).sum(-1) / known.clamp(
            min=1e-12
        )  # of the visited actions under the prior
        mixed = (edges.raw + visited * share) / (1 + visited)
        return torch.where(tried, mean, mixed.unsqueeze(-1))

    def _improved(self, edges: Edges, completed: Tensor) -> Tensor:
        """Return the logits of the improved policy [..., A]."""
        most = edges.visits.max(-1, keepdim=True).values
        unit = (completed + 1) / 2  # in [0, 1], the scale of the constants
        return edges.logits + (self.c_visit + most) * self.c_scale * unit

    def inside(self, edges: Edges) -> Tensor:
        """Return the actions furthest below their share of the improved policy (equation 14)."""
        policy = self._improved(edges, self._completed(edges)).softmax(-1)
        apart = policy - edges.visits / (1 + edges.visits.sum(-1, keepdim=True))
        return torch.where(_legal(edges.logits), apart, _NEVER).argmax(-1)

    def _score(self, edges: Edges) -> Tensor:
        score = self._improved(edges, self._completed(edges))
        return score if self.noise is None else score + self.noise

    def at_root(self, edges: Edges, simulation: int, simulations: int) -> Tensor:
        """Return the best of the actions whose visits equal those of this stage of the halving."""
        legal = _legal(edges.logits)
        column = [row[simulation] for row in halving(self.considered, simulations)]
        counts = torch.tensor(column, device=legal.device)  # [considered + 1]
        due = counts[legal.sum(-1).clamp(max=self.considered)]  # [B]
        allowed = legal & (edges.visits == due.unsqueeze(-1))
        return torch.where(allowed, self._score(edges), _NEVER).argmax(-1)

    def result(self, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
        """Return the improved policy, the best of the most visited actions, and the policy's value.

        The mean over the root's visits would be far below that value: sequential halving spreads
        visits over bad actions too.
        """
        completed = self._completed(edges)
        logits = self._improved(edges, completed)
        most = edges.visits.max(-1, keepdim=True).values
        allowed = _legal(edges.logits) & (edges.visits == most)
        score = logits if self.noise is None else logits + self.noise
        action = torch.where(allowed, score, _NEVER).argmax(-1)
        policy = logits.softmax(-1)
        return policy, action, (policy * completed).sum(-1)


def _legal(logits: Tensor) -> Tensor:
    return logits > -1e8


@cache
def halving(considered: int, simulations: int) -> tuple[tuple[int, ...], ...]:
    """Return the visits of the next action in each simulation, for 0 to `considered` actions.

    Sequential halving: all actions get the same visits, then the better half, and so on down to two
    actions; the stages share the simulations evenly.
    """
    return tuple(_halving(count, simulations) for count in range(considered + 1))


def _halving(count: int, simulations: int) -> tuple[int, ...]:
    if count <= 1:
        return tuple(range(simulations))
    rounds, due = math.ceil(math.log2(count)), list[int]()
    visits, left = [0] * count, count
    while len(due) < simulations:
        for _ in range(max(1, simulations // (rounds * left))):
            due += visits[:left]
            visits[:left] = [v + 1 for v in visits[:left]]
        left = max(2, left // 2)
    return tuple(due[:simulations])
