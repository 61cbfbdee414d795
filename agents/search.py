"""Monte-Carlo tree search for all games of a batch at once; a tree is arrays [B, N, A].

One simulation goes down every tree, makes one move, asks the network once for all B positions, and
adds what it says to the path. Which action a node tries next depends on nothing but the node, so
it is kept there: going down follows it, and going up computes it anew for all nodes of the path in
one go. Layout as in mctx (https://github.com/google-deepmind/mctx); a return turns its sign where
the other player moves.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ludus.envs.board.game import Board, Game

# Positions [B] to logits [B, A], `ILLEGAL` where a move is, and values [B] of the mover.
Evaluate = Callable[[Board], tuple[Tensor, Tensor]]
_NEVER = -torch.inf


class Edges(NamedTuple):
    """What some nodes know of their actions, [..., A] each."""

    logits: Tensor  # of the prior
    visits: Tensor  # float32
    total: Tensor  # sum of the returns, of who moves there
    raw: Tensor  # [...] the network's value

    def mean(self) -> Tensor:
        """Mean return of each action, 0 where it was not tried."""
        return self.total / self.visits.clamp(min=1)

    def value(self) -> Tensor:
        """Mean of the network's value and all returns, [...]."""
        return (self.raw + self.total.sum(-1)) / (1 + self.visits.sum(-1))


class Chooser(Protocol):
    """How a search chooses the action to try next."""

    def prepare(self, logits: Tensor) -> Tensor:
        """The root's logits [B, A] as they are searched with."""

    def inside(self, edges: Edges) -> Tensor:
        """Actions [...] of nodes below the root."""

    def at_root(self, edges: Edges, simulation: int, simulations: int) -> Tensor:
        """Actions [B] at the root."""

    def result(self, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
        """The improved policy [B, A], the action to play [B], and the policy's value [B]."""


class SearchResult(NamedTuple):
    """The result of a search of B games."""

    policy: Tensor  # [B, A] improved
    action: Tensor  # [B] int64, the one to play
    value: Tensor  # [B] of that policy, for the mover
    visits: Tensor  # [B, A] float32
    mean: Tensor  # [B, A] mean returns of the actions


class Tree:
    """The trees of B games, of up to N nodes each; node 0 is the root.

    Args:
        game: the rules.
        board: the positions [B] at the roots.
        nodes: N.
        device: where the arrays live.
    """

    def __init__(self, game: Game, board: Board, nodes: int, device: torch.device) -> None:
        batch, actions = len(board), game.num_actions
        self.batch, self.nodes, self.actions = batch, nodes, actions
        rows = batch * nodes + 1  # the last is no node: what has no place is written there
        self.logits = torch.zeros(rows, actions, device=device)
        self.visits = torch.zeros(rows, actions, device=device)
        self.total = torch.zeros(rows, actions, device=device)
        # the row of the node that an action leads to; -1 where there is none or the game is over
        self.child = torch.full((rows, actions), -1, device=device)
        self.raw = torch.zeros(rows, device=device)
        self.discount_sign = torch.ones(rows, device=device)  # of the move into the node
        self.parent = torch.full((rows,), -1, device=device)  # row of the node before; -1: none
        self.choice = torch.zeros(rows, dtype=torch.int64, device=device)  # action to try next
        self.boards = game.init(batch * nodes)
        self.root = torch.arange(batch, device=device) * nodes  # [B] rows
        self.used = torch.ones_like(self.root)  # [B] nodes so far
        self.nowhere = rows - 1
        self.put(self.root, board)

    def put(self, rows: Tensor, board: Board) -> None:
        """Keep the positions of some rows."""
        self.boards[self._index(rows)] = board

    def get(self, rows: Tensor) -> Board:
        """Their positions."""
        return self.boards[self._index(rows)]

    def _index(self, rows: Tensor) -> Any:
        return rows.cpu().numpy() if isinstance(self.boards, np.ndarray) else rows

    def arrays(self) -> tuple[Tensor, ...]:
        """All that is known of the nodes but their positions, [rows, ...] each."""
        numbers = (self.logits, self.visits, self.total, self.raw, self.discount_sign)
        return (*numbers, self.child, self.parent, self.choice)

    def edges(self, rows: Tensor) -> Edges:
        """What the nodes in `rows` [...] know."""
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
        board: positions [B]; of one whose game is over nothing of use comes out.
        evaluate: the network.
        chooser: PUCT or Gumbel.
        simulations: positions that are looked at, 1 or more.
        device: where the arrays live; the CPU if not given.
        tree: of these positions, to go on with and to fill; with room for `simulations` nodes.
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
    return SearchResult(policy, action, value, edges.visits, edges.mean())


def simulate(game: Game, tree: Tree, evaluate: Evaluate, chooser: Chooser) -> None:
    """One simulation of every tree, which adds one node to each."""
    new = tree.root + tree.used  # [B] rows
    tree.used += 1
    nodes, actions = select(tree)  # [D, B] each
    last, action = _last(tree, nodes, actions)
    board, *told = game.step(tree.get(last), action)
    reward, terminated, sign = (x.to(new.device) for x in told)
    logits, value = evaluate(board)
    tree.put(new, board)
    tree.logits[new], tree.raw[new], tree.discount_sign[new] = logits, value, sign
    tree.child[last, action] = torch.where(terminated, -1, new)
    tree.parent[new] = last
    worth = torch.where(terminated, reward.sign(), sign * value)  # [B] a win counts 1
    backward(tree, nodes, actions, worth)
    touched = torch.cat([nodes, new.unsqueeze(0)])  # [D + 1, B]
    tree.choice[touched] = chooser.inside(tree.edges(touched))


def select(tree: Tree) -> tuple[Tensor, Tensor]:
    """Go down from the roots to where a node has no child yet.

    Returns:
        The nodes on the way and the actions taken there, [D, B] each; rows of `tree.nowhere` where
        a path is shorter than the longest.
    """
    here, going = tree.root, torch.ones_like(tree.root, dtype=torch.bool)
    child, choice = tree.child.view(-1), tree.choice
    nodes, actions = [], []
    while True:
        action = choice[here]
        nodes.append(torch.where(going, here, tree.nowhere))
        actions.append(action)
        following = child[here * tree.actions + action]
        going = following >= 0  # a path that has ended stays where it is
        if not going.any():
            return torch.stack(nodes), torch.stack(actions)
        here = torch.where(going, following, here)


def _last(tree: Tree, nodes: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """The end of each path: node and action, [B] each."""
    depth = (nodes != tree.nowhere).sum(0, keepdim=True) - 1  # [1, B]
    return nodes.gather(0, depth)[0], actions.gather(0, depth)[0]


def backward(tree: Tree, nodes: Tensor, actions: Tensor, worth: Tensor) -> None:
    """Add a return to every edge of the paths, as the mover there sees it.

    Args:
        tree: whose edges they are.
        nodes: [D, B].
        actions: [D, B].
        worth: [B] the return of who made the last move.
    """
    signs = tree.discount_sign[
        nodes[1:]
    ]  # [D - 1, B] of the move into each node; 1 where there is none
    turns = torch.cat([signs, torch.ones_like(worth).unsqueeze(0)])
    turned = turns.flip(0).cumprod(0).flip(0)  # [D, B] product of the signs that follow
    edge = (nodes * tree.actions + actions).flatten()
    tree.visits.view(-1).index_add_(0, edge, torch.ones_like(turned).flatten())
    tree.total.view(-1).index_add_(0, edge, (turned * worth).flatten())


def subtree(game: Game, tree: Tree, chosen: Tensor, board: Board, most: int) -> Tree:
    """Trees whose roots are nodes of others, with what is known below these.

    Args:
        game: the rules.
        tree: the others.
        chosen: [B] rows of the nodes that become roots; -1 for a tree that knows nothing.
        board: [B] the positions there.
        most: nodes that are taken over, the oldest; an action whose node is left keeps its visits.
    """
    nodes = tree.nodes
    under = torch.zeros(tree.batch, nodes, dtype=torch.bool, device=chosen.device)
    under.view(-1)[chosen[chosen >= 0]] = True
    parent = tree.parent[:-1].view_as(under)  # rows; -1 at the roots
    has, before = parent >= 0, parent.clamp(min=0)
    while True:  # a round takes in one depth more
        more = under | (has & under.view(-1)[before])
        if torch.equal(more, under):
            break
        under = more
    place = under.cumsum(1) - 1  # a node comes after its parent, there and here
    kept = under & (place < most)
    old = kept.flatten().nonzero().squeeze(1)  # [M] rows
    new = (place + tree.root.unsqueeze(1)).flatten()
    where = torch.full((len(tree.raw),), -1, device=chosen.device)  # [rows] there to rows here
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
    """The rule of AlphaZero (https://arxiv.org/abs/1712.01815): argmax Q + c P sqrt(N) / (1 + n).

    c = log((1 + N + 19,652) / 19,652) + `c_puct`; an action that was not tried has the node's own
    mean. The most visited action is played; the policy is the share of the visits.
    """

    c_puct: float = 1.25
    noise: Tensor | None = None  # [B, A] a Dirichlet draw over the legal moves
    noise_share: float = 0.25  # of the root's prior

    def prepare(self, logits: Tensor) -> Tensor:
        """The prior with noise in it."""
        if self.noise is None:
            return logits
        prior = (1 - self.noise_share) * logits.softmax(-1) + self.noise_share * self.noise
        return prior.log().maximum(logits.min())  # illegal moves stay so, and finite

    def inside(self, edges: Edges) -> Tensor:
        """The highest score."""
        visited = edges.visits.sum(-1, keepdim=True) + 1
        mean = torch.where(edges.visits > 0, edges.mean(), edges.value().unsqueeze(-1))
        rate = ((1 + visited + 19_652) / 19_652).log() + self.c_puct
        prior = edges.logits.softmax(-1)
        score = mean + rate * prior * visited.sqrt() / (1 + edges.visits)
        return torch.where(_legal(edges.logits), score, _NEVER).argmax(-1)

    def at_root(self, edges: Edges, simulation: int, simulations: int) -> Tensor:
        """The same as inside."""
        return self.inside(edges)

    def result(self, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
        """Shares of the visits, and the most visited; the higher mean decides between equals."""
        policy = edges.visits / edges.visits.sum(-1, keepdim=True).clamp(min=1)
        rank = edges.visits + 0.25 * edges.mean().clamp(-1, 1)
        action = torch.where(_legal(edges.logits), rank, _NEVER).argmax(-1)
        return policy, action, edges.value()


class Gumbel(NamedTuple):
    """Policy improvement by planning with Gumbel (https://openreview.net/forum?id=bERaNdoegnO).

    At the root, sequential halving among the actions of the highest logit + Gumbel noise; inside,
    the visits follow the improved policy, softmax(logits + sigma(completed Q)), equation 11.
    """

    noise: Tensor | None = None  # [B, A] of the Gumbel distribution; none plays the best
    considered: int = 16  # actions at the root, at most
    c_visit: float = 50.0
    c_scale: float = 1.0

    def prepare(self, logits: Tensor) -> Tensor:
        """As they are."""
        return logits

    def _completed(self, edges: Edges) -> Tensor:
        """Mean returns [..., A]; of actions not tried, what appendix D makes of the others."""
        prior = edges.logits.softmax(-1)
        tried = edges.visits > 0
        known = (prior * tried).sum(-1)
        mean, visited = edges.mean(), edges.visits.sum(-1)
        share = (prior * mean).sum(-1) / known.clamp(min=1e-12)  # the policy's return, as tried
        mixed = (edges.raw + visited * share) / (1 + visited)
        return torch.where(tried, mean, mixed.unsqueeze(-1))

    def _improved(self, edges: Edges, completed: Tensor) -> Tensor:
        """Logits of the improved policy [..., A]."""
        most = edges.visits.max(-1, keepdim=True).values
        unit = (completed + 1) / 2  # from 0 to 1, as the constants are meant
        return edges.logits + (self.c_visit + most) * self.c_scale * unit

    def inside(self, edges: Edges) -> Tensor:
        """Where the share of the visits is farthest below the improved policy (equation 14)."""
        policy = self._improved(edges, self._completed(edges)).softmax(-1)
        apart = policy - edges.visits / (1 + edges.visits.sum(-1, keepdim=True))
        return torch.where(_legal(edges.logits), apart, _NEVER).argmax(-1)

    def _score(self, edges: Edges) -> Tensor:
        score = self._improved(edges, self._completed(edges))
        return score if self.noise is None else score + self.noise

    def at_root(self, edges: Edges, simulation: int, simulations: int) -> Tensor:
        """The best of those whose number of visits is due."""
        legal = _legal(edges.logits)
        column = [row[simulation] for row in halving(self.considered, simulations)]
        counts = torch.tensor(column, device=legal.device)  # [considered + 1]
        due = counts[legal.sum(-1).clamp(max=self.considered)]  # [B]
        allowed = legal & (edges.visits == due.unsqueeze(-1))
        return torch.where(allowed, self._score(edges), _NEVER).argmax(-1)

    def result(self, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
        """The improved policy, and the best of those visited most.

        The value is the policy's: the mean over the root's visits, which halving spreads over bad
        actions too, is far below it.
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
    """Visits that the action to try next has, for 0 to `considered` actions, in each simulation.

    Sequential halving: all are tried alike, then the better half, and so on down to two; the rounds
    share the simulations evenly.
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
