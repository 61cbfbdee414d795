"""The batched search against one for a single game, and against hand-made numbers."""

import math
from itertools import takewhile

import numpy as np
import pytest
import torch

from ludus.agents.search import Edges, Tree, search
from ludus.agents.search_rules import Gumbel, Puct, halving, rounds
from ludus.envs.board.opponents import MinimaxOpponent
from ludus.envs.board.spiel import SpielGame, load, make_game
from ludus.networks.heads import ILLEGAL

GAMES = {
    "tic_tac_toe": lambda: make_game("tic_tac_toe"),
    "connect_four": lambda: make_game("connect_four"),
    "breakthrough": lambda: SpielGame(load("breakthrough(rows=4,columns=4)")),
    "mancala": lambda: SpielGame(load("mancala")),  # who moves may move again
}


def oracle(game):
    """A network of noise: any position has its own logits and value, the same in every batch."""

    def evaluate(board):
        parts = game.observation(board)["board"].flatten(1).to(torch.int64)  # [B, size]
        key = (parts * torch.arange(3, 3 + parts.shape[1])).sum(1) % 10_007
        actions = torch.arange(1, game.num_actions + 1)
        logits = ((key.unsqueeze(1) * (actions * 31 + 7)) % 997).float() / 250  # 0 to 4
        value = ((key * 53) % 1_009).float() / 504.5 - 1
        return logits.masked_fill(~game.legal_actions(board), ILLEGAL), value

    return evaluate


def positions(game, count, seed):
    """Positions some moves into games at random, none of them over."""
    generator = np.random.default_rng(seed)
    boards = []
    while len(boards) < count:
        board = game.init(1)
        for _ in range(int(generator.integers(0, 6))):
            legal = np.flatnonzero(game.legal_actions(board)[0])
            move = game.step(board, torch.tensor([generator.choice(legal)]))
            if move.terminated:
                break
            board = move.board
        boards.append(board)
    return torch.cat(boards) if isinstance(boards[0], torch.Tensor) else np.concatenate(boards)


class Node:
    """One node of a tree of nodes, for one game."""

    def __init__(self, board, logits, value):
        self.board, self.raw = board, float(value)
        self.logits = [float(x) for x in logits]
        self.legal = [a for a, x in enumerate(self.logits) if x > -1e8]
        most = max(self.logits)
        weight = [math.exp(x - most) for x in self.logits]
        self.prior = [w / sum(weight) for w in weight]
        self.visits = [0] * len(self.logits)
        self.pending = [0] * len(self.logits)
        self.total = [0.0] * len(self.logits)
        self.child = {}

    def count(self, a):
        return self.visits[a] + self.pending[a]

    def value(self):
        return (self.raw + sum(self.total)) / (1 + sum(self.visits))

    def mean(self, a):
        """Pending paths are taken to return the node's value."""
        return (self.total[a] + self.pending[a] * self.value()) / self.count(a)


def puct(node):
    """Equation of AlphaZero's appendix, one action at a time."""
    count = 1 + sum(map(node.count, node.legal))
    rate = math.log((1 + count + 19_652) / 19_652) + 1.25
    best = {
        a: (node.mean(a) if node.count(a) else node.value())
        + rate * node.prior[a] * math.sqrt(count) / (1 + node.count(a))
        for a in node.legal
    }
    return max(best, key=best.get)


def completed(node):
    """Gumbel AlphaZero's returns of all actions, one at a time."""
    tried = [a for a in node.legal if node.count(a)]
    count = sum(map(node.count, tried))
    mixed = node.raw
    if tried:
        mass = sum(node.prior[a] for a in tried)
        share = sum(node.prior[a] * node.mean(a) for a in tried) / mass
        mixed = (node.raw + count * share) / (1 + count)
    return {a: node.mean(a) if node.count(a) else mixed for a in node.legal}


def improved(node):
    """The logits of its improved policy."""
    factor = 50 + max(map(node.count, node.legal))
    return {a: node.logits[a] + factor * (q + 1) / 2 for a, q in completed(node).items()}


def gumbel_inside(node):
    logits = improved(node)
    most = max(logits.values())
    weight = {a: math.exp(x - most) for a, x in logits.items()}
    mass, count = sum(weight.values()), sum(map(node.count, node.legal))
    apart = {a: weight[a] / mass - node.count(a) / (1 + count) for a in logits}
    return max(apart, key=apart.get)


def naive(game, board, rule, simulations, noise=None, leaves=1):
    """The search of one game, one path at a time."""
    evaluate = oracle(game)
    root = Node(board, *(x[0] for x in evaluate(board)))
    due = halving(min(16, len(root.legal)), simulations)

    def next_round(done):
        if done == simulations:
            return []
        if rule is puct:
            return [puct(root)]
        logits = {a: x + noise[a] for a, x in improved(root).items() if root.count(a) == due[done]}
        best = sorted(logits, key=lambda a: -logits[a])
        return best[: len(list(takewhile(lambda visits: visits == due[done], due[done:])))]

    def until(done):
        """Simulations after the last of the rounds with the same actions."""
        if rule is puct:
            return simulations
        sizes = [size for size in (due.count(visits) for visits in sorted(set(due)))]
        ends = np.cumsum(sizes)
        last = int(np.searchsorted(ends, done, side="right"))
        while last + 1 < len(sizes) and sizes[last + 1] == sizes[last]:
            last += 1
        return int(ends[last])

    def descend(action):
        """Nodes and actions from the root to an edge without a child."""
        node, path = root, []
        while True:
            path.append((node, action))
            if action not in node.child:
                return path
            node = node.child[action][0]
            action = rule(node)

    def expand(path):
        node, action = path[-1]
        move = game.step(node.board, torch.tensor([action]))
        worth = float(move.reward)
        if not move.terminated:
            logits, value = evaluate(move.board)
            node.child[action] = Node(move.board, logits[0], value[0]), float(move.discount_sign)
            worth += float(move.discount_sign * value)
        for node, action in reversed(path):
            if action in node.child and node is not path[-1][0]:
                worth *= node.child[action][1]  # of the move into the next node of the path
            node.visits[action] += 1
            node.total[action] += worth
            node.pending[action] = 0

    done = 0
    while done < simulations:
        rest = until(done) - done
        paths, free = [], True
        most = done + math.ceil(rest / max(1, round(rest / leaves)))
        actions = next_round(done)
        while True:
            for action in actions:
                path = descend(action)
                node, last = path[-1]
                if node.pending[last] and not node.visits[last]:
                    free = False
                    continue
                paths.append(path)
                done += 1
                for node, action in path:
                    node.pending[action] += 1
            if not free or done >= most:
                break
            actions = next_round(done)[: most - done]
        for path in paths:
            expand(path)
    return root


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("rule", ["puct", "gumbel"])
@pytest.mark.parametrize("leaves", [1, 3, 8])
def test_a_batched_search_is_the_search_of_each_game_alone(name, rule, leaves):
    game = GAMES[name]()
    boards = positions(game, 6, seed=3)
    noise = torch.rand(6, game.num_actions, generator=torch.Generator().manual_seed(5)) * 3
    chooser = Puct() if rule == "puct" else Gumbel(noise)
    found = search(game, boards, oracle(game), chooser, 40, leaves=leaves)
    for i in range(6):
        inside = puct if rule == "puct" else gumbel_inside
        single = naive(game, boards[i : i + 1], inside, 40, noise[i], leaves)
        assert found.visits[i].tolist() == single.visits
        means = [single.mean(a) if v else 0.0 for a, v in enumerate(single.visits)]
        np.testing.assert_allclose(found.mean[i], means, atol=1e-5)
        value = (single.raw + sum(single.total)) / 41
        assert float(found.root_mean[i]) == pytest.approx(value, abs=1e-5)
        if rule == "gumbel":
            logits = improved(single)
            policy = torch.tensor(list(logits.values())).softmax(0)
            value = float(policy @ torch.tensor(list(completed(single).values())))
            np.testing.assert_allclose(found.policy[i][single.legal], policy, atol=1e-4)
            most = max(single.visits)
            ranks = {
                a: x + float(noise[i][a]) for a, x in logits.items() if single.visits[a] == most
            }
            assert int(found.action[i]) == max(ranks, key=ranks.get)
        else:
            np.testing.assert_allclose(found.policy[i], np.array(single.visits) / 40, atol=1e-6)
            assert single.visits[int(found.action[i])] == max(single.visits)
        assert float(found.value[i]) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("chooser", [Puct(), Gumbel()])
@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("simulations", [1, 2, 7, 33])
@pytest.mark.parametrize("leaves", [1, 8])
def test_visits_sum_to_the_simulations_and_none_is_illegal(name, chooser, simulations, leaves):
    game = GAMES[name]()
    boards = positions(game, 9, seed=1)
    found = search(game, boards, oracle(game), chooser, simulations, leaves=leaves)
    assert (found.visits.sum(1) == simulations).all()
    assert (found.visits[~game.legal_actions(boards)] == 0).all()
    assert (found.policy[~game.legal_actions(boards)] == 0).all()
    torch.testing.assert_close(found.policy.sum(1), torch.ones(9))
    assert game.legal_actions(boards).gather(1, found.action.unsqueeze(1)).all()


# of two games: visits of the root's actions, visits of each node's actions, the action to play
GOLDEN = {
    ("tic_tac_toe", "puct"): [
        [{0: 1, 5: 15, 6: 8}, {0: 3, 2: 6, 4: 5, 6: 7, 8: 3}],
        [
            [24, 7, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [24, 2, 6, 4, 5, 3, 0, 2, 0, 4, 2, 1, 1, 0, 1, 0, 0, 0, 1, 0, 2, 0, 1, 0, 0],
        ],
        [5, 6],
    ],
    ("tic_tac_toe", "gumbel"): [
        [{0: 1, 4: 10, 5: 11, 6: 1, 7: 1}, {0: 3, 1: 7, 2: 7, 3: 3, 4: 1, 6: 1, 7: 1, 8: 1}],
        [
            [24, 0, 0, 0, 0, 9, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [24, 0, 0, 0, 6, 2, 0, 2, 6, 1, 5, 5, 1, 1, 0, 4, 0, 1, 3, 0, 2, 0, 0, 0, 0],
        ],
        [5, 1],
    ],
    ("connect_four", "puct"): [
        [{1: 13, 3: 3, 4: 1, 5: 6, 6: 1}, {0: 3, 2: 1, 3: 1, 4: 18, 5: 1}],
        [
            [24, 5, 2, 12, 8, 4, 0, 2, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            [24, 17, 0, 1, 5, 2, 0, 0, 0, 0, 0, 2, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        ],
        [1, 4],
    ],
    ("connect_four", "gumbel"): [
        [{0: 3, 1: 9, 2: 1, 3: 8, 4: 1, 5: 1, 6: 1}, {0: 3, 1: 1, 2: 1, 3: 1, 4: 9, 5: 1, 6: 8}],
        [
            [24, 0, 7, 8, 0, 0, 0, 2, 7, 1, 5, 3, 0, 1, 2, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0],
            [24, 8, 0, 2, 0, 0, 0, 7, 6, 1, 0, 5, 0, 0, 0, 4, 0, 0, 0, 2, 2, 1, 0, 0, 0],
        ],
        [1, 4],
    ],
    ("breakthrough", "puct"): [
        [
            {2: 2, 5: 1, 25: 18, 28: 1, 36: 1, 120: 1},
            {154: 9, 164: 1, 174: 1, 176: 11, 178: 1, 186: 1},
        ],
        [
            [24, 1, 17, 0, 2, 6, 1, 1, 2, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
            [24, 10, 8, 0, 0, 7, 0, 0, 5, 0, 3, 0, 0, 0, 0, 0, 5, 0, 0, 3, 0, 1, 0, 0, 0],
        ],
        [25, 176],
    ],
    ("breakthrough", "gumbel"): [
        [
            {2: 1, 5: 2, 25: 2, 26: 1, 28: 1, 36: 1, 38: 1, 120: 8, 125: 7},
            {152: 1, 154: 6, 162: 1, 164: 2, 166: 1, 174: 1, 176: 7, 178: 2, 186: 2, 188: 1},
        ],
        [
            [24, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [24, 6, 5, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ],
        [120, 176],
    ],
    ("mancala", "puct"): [
        [{1: 5, 3: 1, 4: 7, 5: 11}, {9: 8, 10: 3, 11: 1, 12: 1, 13: 11}],
        [
            [24, 10, 4, 3, 6, 7, 0, 4, 0, 1, 1, 1, 0, 0, 0, 0, 3, 0, 0, 0, 1, 1, 0, 0, 0],
            [24, 7, 5, 2, 0, 0, 3, 1, 0, 0, 0, 10, 7, 1, 3, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0],
        ],
        [5, 13],
    ],
    ("mancala", "gumbel"): [
        [{1: 9, 3: 3, 4: 3, 5: 9}, {8: 3, 9: 9, 10: 1, 11: 1, 12: 1, 13: 9}],
        [
            [24, 8, 8, 2, 2, 6, 1, 0, 0, 4, 0, 0, 0, 0, 1, 0, 0, 3, 0, 2, 0, 0, 0, 0, 0],
            [24, 8, 0, 0, 0, 8, 2, 6, 6, 1, 0, 4, 0, 4, 1, 0, 0, 0, 0, 2, 1, 1, 0, 0, 0],
        ],
        [1, 13],
    ],
}


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("rule", ["puct", "gumbel"])
def test_trees_of_fixed_seeds_do_not_change(name, rule):
    game = GAMES[name]()
    chooser = Puct() if rule == "puct" else Gumbel()
    boards = positions(game, 2, seed=8)
    tree = Tree(game, boards, 25, torch.device("cpu"))
    found = search(game, boards, oracle(game), chooser, 24, tree=tree)
    inner = tree.visits[:-1].view(2, 25, -1).sum(-1).int()  # [B, N]
    results = [found.visits.int().tolist(), inner.tolist(), found.action.tolist()]
    visits = [{a: v for a, v in enumerate(row) if v} for row in results[0]]
    assert [visits, *results[1:]] == GOLDEN[name, rule]


def _forced_wins():
    """All positions of tic-tac-toe where the mover wins by force; value and moves by minimax."""
    spiel, game = load("tic_tac_toe"), make_game("tic_tac_toe")
    solver = MinimaxOpponent(spiel)
    seen, boards, wins, values = {}, [], [], {}
    stack = [(spiel.new_initial_state(), game.init(1))]
    while stack:
        state, board = stack.pop()
        key = tuple(board[0].tolist())
        if state.is_terminal() or key in seen:
            continue
        seen[key] = True
        mover = state.current_player()
        values[key] = solver.value(state, mover)
        good = [a for a in state.legal_actions() if solver.value(state.child(a), mover) > 0]
        if values[key] > 0:
            boards.append(board)
            wins.append(good)
        for a in state.legal_actions():
            stack.append((state.child(a), game.step(board, torch.tensor([a])).board))
    return game, torch.cat(boards), wins, values


# the most visited action of PUCT needs a few visits more than there are actions to be the best, and
# more in passes of several
@pytest.mark.parametrize(
    ("chooser", "simulations", "leaves"),
    [
        (Gumbel(), 16, 1),
        (Gumbel(), 16, 8),
        pytest.param(Gumbel(), 40, 1, marks=pytest.mark.slow),
        (Puct(), 40, 1),
        pytest.param(Puct(), 200, 8, marks=pytest.mark.slow),
    ],
)
def test_with_perfect_values_every_forced_win_is_found(chooser, simulations, leaves):
    game, boards, wins, values = _forced_wins()
    assert len(boards) > 1_000

    def evaluate(board):
        value = torch.tensor([float(values.get(tuple(b), 0.0)) for b in board.tolist()])
        return torch.zeros(len(board), 9).masked_fill(~game.legal_actions(board), ILLEGAL), value

    found = search(game, boards, evaluate, chooser, simulations, leaves=leaves)
    missed = [i for i, good in enumerate(wins) if int(found.action[i]) not in good]
    assert not missed


def test_sequential_halving_by_hand():
    # 4 actions, 8 simulations: each once, then the better two twice more
    assert halving(4, 8) == (0, 0, 0, 0, 1, 1, 2, 2)
    # 3 actions, 8 simulations: 2 rounds of 8 // 6 = 1 visit each, then the best two
    assert halving(3, 8) == (0, 0, 0, 1, 1, 2, 2, 3)
    assert halving(1, 5) == (0, 1, 2, 3, 4)
    assert halving(16, 4) == (0, 0, 0, 0)


def test_a_round_is_all_that_is_left_at_one_number_of_visits():
    visits, length, until = rounds(4, 8, torch.device("cpu")).unbind(-1)
    assert visits[4].tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 0]
    assert length[4].tolist() == [4, 3, 2, 1, 2, 1, 2, 1, 0]
    assert length[1].tolist() == [1] * 8 + [0]
    # the better two of four are the same in both of their rounds
    assert until[4].tolist() == [4, 4, 4, 4, 8, 8, 8, 8, 0]
    assert until[3].tolist() == [3, 3, 3, 7, 7, 7, 7, 8, 0]  # the last round has one of the two
    assert until[1].tolist() == [8] * 8 + [0]


def test_a_round_is_one_forward_pass():
    """Each game has rounds of its own; one with a single legal move has as many as simulations."""
    game, sizes = make_game("connect_four"), []
    network = oracle(game)

    def evaluate(board):
        sizes.append(len(board))
        return network(board)

    search(game, game.init(2), evaluate, Gumbel(), 12)
    # the roots; 7 actions once; the better 3 (12 // 9 = 1 time), then 2 until the end
    assert sizes == [2, 14, 6, 4]


def _sizes(prior, simulations, leaves):
    """Positions of each forward pass in a game of connect four, and the result.

    Args:
        prior: logit of the middle move in any position; that of the others is 0.
    """
    game, sizes = make_game("connect_four"), []

    def evaluate(board):
        sizes.append(len(board))
        logits = torch.zeros(len(board), 7)
        logits[:, 3] = prior
        return logits.masked_fill(~game.legal_actions(board), ILLEGAL), torch.zeros(len(board))

    return sizes, search(game, game.init(1), evaluate, Gumbel(), simulations, leaves=leaves)


def test_a_pass_has_about_so_many_leaves_of_rounds_with_the_same_actions():
    # 7 actions once, 3 of them three times, 2 of them eight times
    assert _sizes(0.0, 32, 1)[0] == [1, 7, 3, 3, 3] + [2] * 8
    assert _sizes(0.0, 32, 2)[0] == [1, 7, 3, 3, 3] + [2] * 8  # a round is never divided
    assert _sizes(0.0, 32, 5)[0] == [1, 7, 5, 4, 6, 5, 5]
    assert _sizes(0.0, 32, 8)[0] == [1, 7, 9, 8, 8]


def test_a_path_that_would_evaluate_a_position_again_is_left_to_the_next_pass():
    """Where one reply is certain, each path of a move goes where the one before it went."""
    sizes, found = _sizes(40.0, 20, 8)
    before, alone = _sizes(40.0, 20, 1)
    assert sizes == before
    for ours, theirs in zip(found, alone, strict=True):
        assert torch.equal(ours, theirs)


def test_the_improved_policy_by_hand():
    edges = Edges(
        logits=torch.zeros(1, 3),
        visits=torch.tensor([[2.0, 1.0, 0.0]]),
        total=torch.tensor([[1.0, -0.5, 0.0]]),
        raw=torch.tensor([0.1]),
    )
    # tried actions return (0.5 - 0.5) / 2 = 0, so the third has (0.1 + 3 * 0) / 4 = 0.025
    policy, action, value = Gumbel(c_visit=2.0, c_scale=1.0).result(edges)
    returns = torch.tensor([0.5, -0.5, 0.025])
    scores = 4 * (returns + 1) / 2
    assert value.item() == pytest.approx((scores.softmax(0) @ returns).item())
    torch.testing.assert_close(policy[0], scores.softmax(0))
    assert int(action) == 0
    assert float(edges.value()) == pytest.approx((0.1 + 0.5) / 4)


def test_noise_at_the_root_is_a_share_of_the_prior_and_stays_within_the_rules():
    logits = torch.tensor([[0.0, math.log(3.0), ILLEGAL]])
    noise = torch.tensor([[1.0, 0.0, 0.0]])
    prior = Puct(noise=noise, noise_share=0.25).prepare(logits).softmax(-1)
    torch.testing.assert_close(prior, torch.tensor([[0.4375, 0.5625, 0.0]]))


def test_gumbel_noise_decides_what_is_tried():
    game = make_game("connect_four")
    noise = torch.zeros(1, 7)
    noise[0, 5] = 1_000.0
    found = search(game, game.init(1), oracle(game), Gumbel(noise, considered=2), 4)
    assert found.visits[0, 5] > 0
    assert int(found.action) == 5
    assert (found.visits[0] > 0).sum() == 2


def test_a_game_that_is_over_disturbs_no_other():
    game = make_game("tic_tac_toe")
    over = torch.tensor([[0b111_000, 0b000_000_111], [0, 0]])  # the other has three in a row
    found = search(game, over, oracle(game), Gumbel(), 12)
    alone = search(game, over[1:], oracle(game), Gumbel(), 12)
    assert found.visits[1].tolist() == alone.visits[0].tolist()


@pytest.mark.parametrize("simulations", [1, 5, 24])
@pytest.mark.parametrize("name", ["tic_tac_toe", "connect_four", "othello"])
@pytest.mark.parametrize("rule", ["puct", "gumbel", "gumbel of 3"])
def test_a_search_of_fixed_operations_has_the_same_result(name, rule, simulations):
    """The positions have different numbers of legal moves, so their rounds differ; one is over."""
    game = make_game(name)
    boards = torch.cat([positions(game, 12, 7), game.init(1)])
    if name == "tic_tac_toe":
        # three in a row for the other; one empty cell; two empty cells
        ends = [
            [0b111_000, 0b000_000_111],
            [0b010_011_100, 0b001_100_011],
            [0b011_100, 0b1_100_011],
        ]
        boards = torch.cat([boards, torch.tensor(ends)])
    noise = torch.rand(len(boards), game.num_actions, generator=torch.Generator().manual_seed(1))
    chooser = Puct(noise=noise) if rule == "puct" else Gumbel(noise, 3 if "3" in rule else 16)
    want = search(game, boards, oracle(game), chooser, simulations)
    found = search(game, boards, oracle(game), chooser, simulations, fixed=True)
    for field, ours, theirs in zip(want._fields, found, want, strict=True):
        assert torch.equal(ours, theirs), field
    assert want.visits.sum() > simulations
