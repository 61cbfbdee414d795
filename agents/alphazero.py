"""AlphaZero: a policy and a value trained on the results of a tree search (Silver et al. 2018).

https://arxiv.org/abs/1712.01815: the policy target is the policy of the search, the value target
the outcome of the game. The search is that of Gumbel AlphaZero
(https://openreview.net/forum?id=bERaNdoegnO), which improves the policy with any number of
simulations, or PUCT with Dirichlet noise.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ludus.agents.agent import Advice, EnvLike
from ludus.agents.alphazero_config import AlphaZeroConfig
from ludus.agents.learner import Learner, UpdateSchedule, linear
from ludus.agents.memory.games import Games, Position
from ludus.agents.memory.step import Extras, Staging, Step
from ludus.agents.search import Chooser, SearchResult, Tree, search, subtree
from ludus.agents.search_rules import Gumbel, Puct, dirichlet_noise, gumbel_noise, sample_move
from ludus.agents.seeding import generator, seed_of, seeded_weights
from ludus.envs.board.backend import observation_space, observations
from ludus.envs.board.game import BOARD, Board, Game
from ludus.envs.board.spiel import make_game
from ludus.envs.errors import ConfigError
from ludus.networks.convolutional import Tower
from ludus.networks.cores import NoCore, State
from ludus.networks.encoders import MLP
from ludus.networks.heads import ILLEGAL
from ludus.networks.network import Network, flatten_parameters
from ludus.networks.policies import GameHead, PolicyOut

Forward = Callable[[Tensor], Sequence[Tensor]]  # positions [N] to logits [N, A], values [N]


class BatchRandomness(NamedTuple):
    """Everything random in one update of a batch of N positions."""

    indices: Tensor  # [N] int64, of the positions in memory
    symmetry: Tensor  # [N] int64, of the symmetry applied to each
    policies: Tensor  # [] how many of them have a policy target, as a mean over the ranks


class AlphaZero:
    """An AlphaZero.

    Args:
        config: search, losses and update schedule.
        game: the rules, on the network's device where possible.
        network: policy and value of positions, as seen by the player to move.
        memory: stores games and samples positions.
        device: where network and memory live.
        seed: of the search's noise.
        steps: env steps of the whole training, for the learning rate.
    """

    multithreaded = True  # the network is large although positions are small

    def __init__(
        self,
        config: AlphaZeroConfig,
        game: Game,
        network: Network[PolicyOut],
        memory: Games,
        device: torch.device,
        seed: int,
        steps: int,
    ) -> None:
        self.config, self.game, self.network, self.memory = config, game, network, memory
        self.device = device
        self.simulations = config.play_simulations  # of a move in `predict` and `advise`
        # Positions that are tensors on a GPU are searched there, without a wait.
        self.forward: Forward = self._forward
        self.searches: dict[int, Callable[..., Sequence[Tensor]]] = {}
        if device.type == "cuda" and isinstance(game.init(1), Tensor) and not config.reuse_tree:
            for count in {config.simulations, config.fast_simulations} - {0}:
                self.searches[count] = partial(self._search_fixed, count)
        self._space, self._staging = observation_space(game), Staging(device)
        self._rate = torch.tensor(config.learning_rate, device=device)  # captured updates read it
        self.learner = Learner(
            self,
            network,
            flatten_parameters(network),
            self._space,
            optimizer="adam",
            learning_rate=self._rate,
            eps=config.optimizer_eps,
            max_grad_norm=config.max_grad_norm,
            metrics=("loss", "policy_loss", "value_loss", "policy_kl"),
            schedules=self._schedules,
        )
        self.predict, self.advise = self.learner.predict, self.learner.advise
        self.weights, self.load_weights = self.learner.weights, self.learner.load_weights
        self.start_from, self.metrics = self.learner.start_from, self.learner.metrics
        self.state_dict = self.learner.state_dict
        self.load_state_dict = self.learner.load_state_dict
        self._exploration = generator(device, seed, 1)
        self._evaluation = generator(device, seed, 2)
        self._symmetry = generator(device, seed, 4)
        self._cap = np.random.default_rng([seed, 5])
        self._openings = np.random.default_rng([seed, 6])
        self._board_symmetries, self._action_symmetries = (
            symmetry.to(device) for symmetry in game.symmetries()
        )
        self._moves = np.zeros(memory.num_envs, np.int64)  # [B] of the running games
        self._opening = self._sample_openings()  # [B] random moves at the start of each
        self._schedule = UpdateSchedule(config.replay_ratio, config.learning_starts)
        self._steps = steps
        self.capturable = True
        self.env_steps, self.updates = 0, 0

    def initial_state(self, num_envs: int) -> State:
        """Return empty trees with `reuse_tree`, else an empty state."""
        if not self.config.reuse_tree:
            return ()
        room = 2 * max(self.simulations, self.config.simulations) + 1
        empty = Tree(self.game, self.game.init(num_envs), room, self.device)
        return self._tree_state(empty)

    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray
    ) -> tuple[np.ndarray, State, Extras]:
        """Return moves [B] for obs [B, *obs], with the search's noise and random openings."""
        c = self.config
        fast = c.fast_simulations and self._cap.random() >= c.full_share
        simulations = c.fast_simulations if fast else c.simulations
        early = self._moves < c.sampled_moves  # [B]
        opening = self._moves < self._opening  # [B]
        packed, is_early, is_opening = self._staging.upload(obs, early, opening)
        parts, board, legal = self._positions(packed)
        noise = None if fast else self._exploration
        if simulations in self.searches:
            given = self._noise(legal, noise)
            tensors = [board] if given is None else [board, given]
            result = SearchResult(*(x.clone() for x in self.searches[simulations](*tensors)))
        else:
            result, state = self._search(
                obs, board, legal, state, simulations, noise, c.c_scale, leaves=1
            )
        action = result.action
        if c.search == "puct":
            sampled = sample_move(result.policy, legal, self._exploration)
            action = torch.where(is_early, sampled, action)
        if c.random_moves:
            sampled = sample_move(legal.to(torch.float32), legal, self._exploration)
            action = torch.where(is_opening, sampled, action)
        policy_trained = torch.full_like(is_opening, not fast)
        match c.value_target:
            case "policy":
                value = result.value
            case "visits":
                value = result.root_mean
            case "mix":
                value = (result.value + result.root_mean) / 2
        row = Position(parts[BOARD], legal, result.policy, value, policy_trained, trained=~opening)
        return self._staging.download(action), state, {"position": row}

    def _sample_openings(self) -> np.ndarray:
        """Return the number of random moves that a game of each env starts with, [B]."""
        return self._openings.integers(
            self.config.random_moves, endpoint=True, size=self.memory.num_envs
        )

    def _unpack(self, packed: Tensor) -> dict[str, Tensor]:
        """Return the parts of observations [B, *obs] by name."""
        return {key: self._space.part(packed, key) for key in self.game.parts}

    def _positions(self, packed: Tensor) -> tuple[dict[str, Tensor], Board, Tensor]:
        """Return the parts of observations [B, *obs], their positions and legal moves [B, A]."""
        parts = self._unpack(packed)
        board = self.game.from_observation(parts)
        return parts, board, self.game.legal_actions(board).to(self.device)

    def _search(
        self,
        obs: np.ndarray,
        board: Board,
        legal: Tensor,
        state: State,
        simulations: int,
        generator: torch.Generator | None,
        c_scale: float,
        *,
        leaves: int,
    ) -> tuple[SearchResult, State]:
        """Search positions [B] with legal moves [B, A], and noise if there is a generator.

        Returns:
            The result and the next state.
        """
        chooser = self._chooser(self._noise(legal, generator), c_scale)
        tree = None if not state else self._tree_below(obs, board, state, simulations)
        result = search(
            self.game, board, self.evaluate, chooser, simulations, self.device, tree, leaves=leaves
        )
        return result, () if tree is None else self._tree_state(tree)

    @torch.no_grad()
    def _search_fixed(
        self, simulations: int, board: Tensor, noise: Tensor | None = None
    ) -> SearchResult:
        """Search positions [B] by the same operations whatever they are."""
        chooser = self._chooser(noise, self.config.c_scale)

        def evaluate(board: Board) -> tuple[Tensor, Tensor]:
            return self._evaluate(board, self._forward)

        return search(self.game, board, evaluate, chooser, simulations, self.device, fixed=True)

    def _tree_state(self, tree: Tree) -> State:
        """Return trees as tensors [B, N, ...], with positions as observations."""
        positions = torch.from_numpy(observations(self.game, self._space, tree.boards[:-1]))
        tensors = (positions.to(self.device), *(array[:-1] for array in tree.arrays()))
        return (*(t.unflatten(0, (tree.batch, tree.nodes)) for t in tensors), tree.used)

    def _tree_below(self, obs: np.ndarray, board: Board, state: State, simulations: int) -> Tree:
        """Return the previous trees below the moves that led to positions [B]."""
        positions, *arrays, used = state
        flat = positions.flatten(0, 1)  # [B * N, size]
        old = Tree(self.game, board, positions.shape[1], self.device)
        parts = {key: self._space.part(flat, key) for key in self.game.parts}
        old.boards = self.game.from_observation(parts)
        for array, value in zip(old.arrays(), arrays, strict=True):
            array[:-1] = value.flatten(0, 1)
        old.used = used
        # The new root is the child of the old one whose position equals the observation.
        children = old.child[old.root]  # [B, A] rows of the nodes below the roots
        current = torch.from_numpy(obs).to(self.device).unsqueeze(1)  # [B, 1, size]
        same = (children >= 0) & (flat[children.clamp(min=0)] == current).all(-1)
        root = children.masked_fill(~same, -1).max(-1).values
        return subtree(self.game, old, root, board, old.nodes - simulations)

    def _noise(self, legal: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """Return noise [B, A] for the roots' actions; None without a generator."""
        if generator is None:
            return None
        if self.config.search == "gumbel":
            return gumbel_noise(legal, generator)
        return dirichlet_noise(legal, self.config.dirichlet, generator)

    def _chooser(self, noise: Tensor | None, c_scale: float) -> Chooser:
        c = self.config
        if c.search == "gumbel":
            return Gumbel(noise, c.considered, c.c_visit, c_scale)
        return Puct(c.c_puct, noise, c.noise_share)

    @torch.no_grad()
    def evaluate(self, board: Board) -> tuple[Tensor, Tensor]:
        """Return logits [B, A], `ILLEGAL` for illegal moves, and values [B] of positions [B]."""
        return self._evaluate(board, self.forward)

    def _evaluate(self, board: Board, forward: Forward) -> tuple[Tensor, Tensor]:
        planes = self.game.observation(board)[BOARD].to(self.device)
        legal = self.game.legal_actions(board).to(self.device)
        logits, value = forward(planes)
        return logits.masked_fill(~legal, ILLEGAL), value

    def _forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [N, A] and values [N] of positions [N, *board]."""
        first = torch.zeros(1, len(planes), dtype=torch.bool, device=self.device)
        out, _ = self.network(planes.unsqueeze(0), (), first)
        return out.logits[0], out.value[0]

    def _search_to_play(
        self, obs: np.ndarray, state: State, generator: torch.Generator | None
    ) -> tuple[SearchResult, State]:
        """Search positions [B] outside training."""
        (packed,) = self._staging.upload(obs)
        _, board, legal = self._positions(packed)
        c = self.config
        return self._search(
            obs,
            board,
            legal,
            state,
            self.simulations,
            generator,
            c.play_c_scale,
            leaves=c.play_leaves,
        )

    def choose(
        self, obs: np.ndarray, state: State, first: np.ndarray, *, deterministic: bool
    ) -> tuple[np.ndarray, State]:
        """Return moves [B] for evaluation; `deterministic` searches without noise."""
        result, state = self._search_to_play(
            obs, state, None if deterministic else self._evaluation
        )
        return result.action.cpu().numpy(), state

    def advice(self, obs: np.ndarray, state: State, first: np.ndarray) -> tuple[Advice, State]:
        """Return policy and visits of a search, and the mean returns of the visited moves."""
        result, state = self._search_to_play(obs, state, None)
        q = torch.where(result.visits > 0, result.mean, torch.nan)
        advice = Advice(
            result.action.cpu().numpy(),
            result.value.cpu().numpy(),
            q.cpu().numpy(),
            result.policy.cpu().numpy(),
            result.visits.cpu().numpy(),
        )
        return advice, state

    def observe(self, step: Step) -> None:
        """Store one row."""
        over = step.terminated & step.valid
        sign = np.broadcast_to(np.asarray(step.discount_sign, np.float32), over.shape)
        reward = np.sign(step.reward)
        self.memory.add(step.extras["position"], step.valid, reward, over, sign)
        self._moves[:] = np.where(step.valid & ~over, self._moves + 1, 0)
        if over.any():
            self._opening[:] = np.where(over, self._sample_openings(), self._opening)
        self.env_steps += int(step.valid.sum())

    def learn(self) -> int:
        """Do the updates that are due and return their number."""
        c = self.config
        due = self._schedule.due(self.env_steps, self.updates)
        if not due or not self.learner.agree(len(self.memory) >= c.batch_size):
            return 0
        if c.anneal_learning_rate:
            self._rate.fill_(linear(c.learning_rate, 0.0, self._steps, self.env_steps))
        for _ in range(due):
            self.learner.update(*self.randomness())
        return due

    def randomness(self) -> BatchRandomness:
        """Sample the randomness of the next update."""
        count = len(self._board_symmetries) if self.config.symmetries else 1
        symmetry = torch.randint(
            count, (self.config.batch_size,), generator=self._symmetry, device=self.device
        )
        indices = self.memory.sample_indices(self.config.batch_size)
        policies = self.learner.ranks.mean(self.memory.policies(indices))
        return BatchRandomness(indices, symmetry, policies)

    def example(self) -> BatchRandomness:
        """Return fixed randomness, of the shapes of all other."""
        zeros = torch.zeros(self.config.batch_size, dtype=torch.int64, device=self.device)
        return BatchRandomness(zeros, zeros.clone(), torch.ones((), device=self.device))

    def gradients(
        self, indices: Tensor, symmetry: Tensor, policies: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradients of one batch. Pure, and never synchronises with the device.

        Args:
            indices: see `BatchRandomness`, as all arguments.

        Returns:
            Metrics [4]; the gradient [size].
        """
        c, batch = self.config, self.memory.gather(indices)
        board, legal, policy = batch.board, batch.legal, batch.policy
        if c.symmetries and len(self._board_symmetries) > 1:
            cells = board.flatten(1).gather(1, self._board_symmetries[symmetry])
            board = cells.view(board.shape)
            legal = legal.gather(1, self._action_symmetries[symmetry])
            policy = policy.gather(1, self._action_symmetries[symmetry])
        logits, value = self._forward(board)
        log_p = logits.masked_fill(~legal, ILLEGAL).log_softmax(-1)
        entropy = -torch.special.xlogy(policy, policy).sum(-1)  # [N] of the policy target
        weight = batch.weight / policies.clamp(min=1 / len(indices))
        policy_loss = -((policy * log_p).sum(-1) * weight).sum()
        value_loss = (value - batch.value).square().mean()
        gradient = self.learner.gradient(policy_loss + c.value_coef * value_loss)
        loss = policy_loss.detach() + c.value_coef * value_loss.detach()
        kl = policy_loss.detach() - (entropy * weight).sum()
        metrics = [loss, policy_loss.detach(), value_loss.detach(), kl]
        return torch.stack(metrics), gradient

    def _schedules(self) -> dict[str, float]:
        """Return the current value of each schedule."""
        return {"positions": float(len(self.memory))}

    def parts(self) -> dict[str, Any]:
        """Return the parts of the state besides network and optimizer."""
        return {
            "memory": self.memory,
            "exploration": self._exploration,
            "evaluation": self._evaluation,
            "symmetry": self._symmetry,
            "cap": self._cap,
            "openings": self._openings,
            "moves": self._moves,
            "opening": self._opening,
        }


def build(
    config: AlphaZeroConfig,
    env: EnvLike,
    *,
    device: torch.device,
    seed: int,
    steps: int,
    training: bool = True,
) -> AlphaZero:
    """Build a fresh AlphaZero, see `registry.build`."""
    game = make_game(env.env_id, device)
    return build_for_game(config, game, env.num_envs, device, seed, steps, training)


def build_for_game(
    config: AlphaZeroConfig,
    game: Game,
    num_envs: int,
    device: torch.device,
    seed: int,
    steps: int,
    training: bool,
) -> AlphaZero:
    """Build a fresh AlphaZero for any implementation of a game."""
    c = config
    with seeded_weights(seed, device):
        network = make_network(c, game).to(device)
    memory = Games(
        c.replay_size if training else (game.max_moves + 2) * num_envs,
        num_envs,
        game.parts[BOARD],
        game.num_actions,
        game.max_moves,
        outcome_share=c.outcome_share,
        device=device,
        seed=seed_of(seed, 3),
    )
    return AlphaZero(c, game, network, memory, device, seed, steps)


def make_network(config: AlphaZeroConfig, game: Game) -> Network[PolicyOut]:
    """Build the network that the config describes.

    Raises:
        ConfigError: the encoder is a tower and positions are no planes.
    """
    c, space = config, game.parts[BOARD]
    encoder: Tower | MLP
    if c.encoder == "mlp":
        encoder = MLP(space, c.hidden)
    elif len(space.shape) == 3:
        encoder = Tower(space, c.tower_channels, c.blocks)
    else:
        raise ConfigError(
            f"the tower needs positions that are planes; those of {game.name} have shape "
            f"{list(space.shape)}; use the encoder mlp"
        )
    return Network(encoder, NoCore(encoder.dim), GameHead(encoder.dim, game.num_actions))
