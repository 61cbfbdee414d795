"""The stream contract: one vector env for every game, with checks of what goes in and comes out.

Autoreset is Gymnasium's NEXT_STEP. The observation that ends an episode is in the stream, the next
row is the reset observation, and the action given for that row is ignored. Each observation appears
once, and the successor of row t is always row t + 1.

Every episode starts from its own seed, `episode_seed(seed, env, episode)`. A running episode can
therefore be rebuilt from its seed and its actions, and training resumes bit for bit without a
snapshot of the env.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from gymnasium import spaces

from ludus.envs.action_mask import check_mask_size, split_mask
from ludus.envs.adapt import Adaptation
from ludus.envs.deadline import Deadline
from ludus.envs.dict_observation import MASK, PackedDict, Part
from ludus.envs.errors import EnvError, describe_error

_Result = TypeVar("_Result")
_NAMED = 8  # at most so many envs are named in an error that may be any env's


class BackendStep(NamedTuple):
    """Result of one step of a backend's B envs."""

    obs: np.ndarray  # [B, *obs]
    reward: np.ndarray  # [B] float32, unclipped
    terminated: np.ndarray  # [B] bool, the game itself ended
    truncated: np.ndarray  # [B] bool, an external limit ended it
    life_lost: np.ndarray  # [B] bool, a life was lost and the game continues
    # [B] float32, -1 where the other player moves next; None stands for 1 everywhere
    discount_sign: np.ndarray | None = None


class Backend(Protocol):
    """B envs that step together, without episode numbers, seeds or autoreset.

    A backend must accept further actions for an env whose game is over until it is reset. Their
    results are not used.
    """

    @property
    def num_envs(self) -> int:
        """Number of envs, B."""

    @property
    def observation_space(self) -> spaces.Box:
        """Observation space of one env."""

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Action space of one env."""

    @property
    def action_names(self) -> Sequence[str]:
        """Names of the discrete actions; empty if there are none."""

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new episodes where mask [B] is true, from seeds [B]; return all observations."""

    def send(self, actions: np.ndarray) -> None:
        """Start one step of every env with validated actions [B, *action]."""

    def recv(self) -> BackendStep:
        """Wait for the step and return its result."""

    def render(self, index: int) -> np.ndarray:
        """Return an image of one env, [height, width, 3] uint8."""

    def close(self) -> None:
        """Free processes and threads, without waiting for a hung env."""


class Row(NamedTuple):
    """One row of the stream: the observations of B envs and the step that led to them."""

    obs: np.ndarray  # [B, *obs]
    reward: np.ndarray  # [B] float32 raw, for reaching obs; 0 where first
    first: np.ndarray  # [B] bool, obs begins an episode
    terminated: np.ndarray  # [B] bool, do not bootstrap from obs
    truncated: np.ndarray  # [B] bool, a limit ended the game here; bootstrap
    game_over: np.ndarray  # [B] bool, the game ended here; the action for this row is ignored
    episode_return: np.ndarray  # [B] float64, raw rewards of the game so far, of the first player
    episode_length: np.ndarray  # [B] int64, steps of the game so far
    discount_sign: np.ndarray  # [B] float32, -1 where the player to move has changed; else 1


def episode_seed(seed: int, index: int, episode: int) -> int:
    """Return the seed of one episode of one env, in [0, 2^31)."""
    return int(np.random.SeedSequence([seed, index, episode]).generate_state(1)[0] >> 1)


class ActionCheck:
    """Validate the actions of B envs: shape, dtype, bounds and legality.

    Args:
        space: action space of one env.
        num_envs: B.
        env_id: name of the env in error messages.
        first_env: number of the first env there.

    Raises:
        EnvError: the action space is not supported.
    """

    def __init__(
        self, space: spaces.Space[Any], num_envs: int, env_id: str, first_env: int = 0
    ) -> None:
        self._space, self._num_envs, self._env_id = space, num_envs, env_id
        self._first_env = first_env
        self.low, self.high = self._bounds()  # [*action]
        self.dtype: Any = np.float32 if isinstance(space, spaces.Box) else np.int64
        self.shape: tuple[int, ...] = tuple(space.shape or ())  # of one env's action

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        space = self._space
        if isinstance(space, spaces.Discrete):
            return np.array(space.start), np.array(space.start + space.n - 1)
        if isinstance(space, spaces.MultiDiscrete):
            return np.asarray(space.start), np.asarray(space.start + space.nvec - 1)
        if isinstance(space, spaces.Box):
            return space.low.astype(np.float32), space.high.astype(np.float32)
        raise EnvError(
            f"{self._env_id} has the action space {space}, which is not supported; "
            "use Discrete, MultiDiscrete or Box"
        )

    def validated(self, actions: np.ndarray) -> np.ndarray:
        """Return actions [B, *action] in the backend's dtype.

        Raises:
            EnvError: the shape, the dtype or a value is wrong.
        """
        shape = (self._num_envs, *self.shape)
        if actions.shape != shape:
            raise EnvError(f"actions have shape {actions.shape}; {self._env_id} takes {shape}")
        kinds, name = ("iu", "integers") if self.dtype is np.int64 else ("iuf", "numbers")
        if actions.dtype.kind not in kinds:
            raise EnvError(f"actions have dtype {actions.dtype}; {self._env_id} takes {name}")
        if self.dtype is np.float32:  # before the comparison: its bounds are float32, too
            actions = actions.astype(np.float32, copy=False)
        bad = ~((actions >= self.low) & (actions <= self.high) & np.isfinite(actions))
        if bad.any():
            index = int(np.argwhere(bad)[0][0])
            env = self._first_env + index
            raise EnvError(
                f"action {actions[index]} for env {env} is outside {self._space} of {self._env_id}"
            )
        return actions.astype(self.dtype, copy=False)

    def require_legal(self, actions: np.ndarray, mask: np.ndarray, used: np.ndarray) -> None:
        """Check actions [B, *action] against action masks [B, P] where used [B].

        Raises:
            EnvError: an action is illegal.
        """
        rows = np.arange(self._num_envs)
        columns = (actions - self.low).reshape(self._num_envs, -1)  # [B, choices]
        firsts = self.low.reshape(-1)  # number of the first action of each choice
        for choice, legal in enumerate(split_mask(self._space, mask)):
            wrong = (legal[rows, columns[:, choice]] == 0) & used
            if wrong.any():
                index = int(np.argmax(wrong))
                allowed = np.flatnonzero(legal[index]) + firsts[choice]
                of = f", choice {choice}," if len(firsts) > 1 else ""
                env = self._first_env + index
                raise EnvError(
                    f"action {actions[index]} for env {env}{of} is not legal in {self._env_id}; "
                    f"legal are {', '.join(map(str, allowed))}"
                )


class ActionHistory:
    """The actions so far of the running episode of each of B envs.

    Args:
        num_envs: B.
        shape: of one env's action.
        dtype: of the actions.
    """

    def __init__(self, num_envs: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.length = np.zeros(num_envs, np.int64)  # [B] steps of the episodes
        # [capacity, B, *action]; the capacity doubles when full
        self._actions = np.zeros((1024, num_envs, *shape), dtype)

    def begin(self, mask: np.ndarray) -> None:
        """Begin a new episode where mask [B] is true."""
        self.length[mask] = 0

    def record(self, actions: np.ndarray, taken: np.ndarray) -> None:
        """Append the actions [B, *action] where taken [B]."""
        if self.length.max() >= len(self._actions):
            self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)])
        envs = np.flatnonzero(taken)
        self._actions[self.length[envs], envs] = actions[envs]
        self.length += taken

    def actions(self) -> np.ndarray:
        """Return a copy of all actions [T, B, *action], 0 after the end of an episode's own."""
        actions = self._actions[: int(self.length.max(initial=0))].copy()
        actions[np.arange(len(actions))[:, None] >= self.length] = 0  # of earlier episodes
        return actions


class ReplayStep(NamedTuple):
    """One step of several episodes that are repeated together."""

    begins: np.ndarray  # [B] bool, the envs to reset before the step
    actions: np.ndarray | None  # [B, *action]; None after the last step
    running: np.ndarray  # [B] bool, the envs whose actions are recorded ones


def replay(length: np.ndarray, actions: np.ndarray, idle: np.ndarray) -> Iterator[ReplayStep]:
    """Yield the steps that rebuild episodes, one more than the longest of them has.

    All envs step together, so the episodes are aligned at their ends: the longest begins first. An
    env whose turn has not come takes idle actions, which its reset wipes out.

    Args:
        length: [B] steps of each episode.
        actions: [T, B, *action] of the episodes.
        idle: [*action], a valid action.
    """
    num_envs, longest = len(length), int(length.max(initial=0))
    for left in range(longest, -1, -1):
        running = (length >= left) & (left > 0)  # [B]
        chosen = None
        if left:
            at = np.maximum(length - left, 0)  # [B] position in each env's own episode
            recorded = actions[at, np.arange(num_envs)]
            where = running.reshape(num_envs, *(1,) * idle.ndim)
            chosen = np.where(where, recorded, idle.astype(actions.dtype))
        yield ReplayStep(length == left, chosen, running)


class VectorEnv:
    """B envs under the stream contract.

    Args:
        backend: the envs.
        env_id: name of the env in messages.
        protocol: settings that a score depends on, printed and stored with every result.
        seed: determines every episode, together with the env's index and the episode's number.
        stack: frames in one observation, oldest first along axis 0; 1 without a stack.
        life_loss: report a lost life as terminated.
        timeout: seconds that one step may take.
        trusted: run the backend without a time limit. For backends whose steps are bounded: our own
            array code, or workers with a limit of their own.
        adaptation: how the env's own observations were adapted; None if they were not.
        from_object: the envs were passed as an object, which evaluations use, too.
        resets_alone: an env can be reset while others play on.
        first_env: number of the first env, for episodes and messages, if these are part of more.
        failing: returns why a training must save and end at the next row; None if it need not.
        expect: takes the envs [B] that `reset` will be called for after the next step, and seeds
            [B], so that a backend of another machine does both at once; None if it is of no use.

    Raises:
        EnvError: the action space is not supported; the backend is closed.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        env_id: str,
        protocol: dict[str, Any],
        seed: int,
        stack: int = 1,
        life_loss: bool = False,
        timeout: float = 60.0,
        trusted: bool = False,
        adaptation: Adaptation | None = None,
        from_object: bool = False,
        resets_alone: bool = True,
        first_env: int = 0,
        failing: Callable[[], str | None] = lambda: None,
        expect: Callable[[np.ndarray, np.ndarray], None] | None = None,
    ) -> None:
        self.failing, self._expect = failing, expect
        self.backend, self.env_id, self.protocol = backend, env_id, protocol
        self.first_env = first_env
        self.adaptation = adaptation
        self.from_object, self.resets_alone = from_object, resets_alone
        self.num_envs = backend.num_envs
        self.observation_space, self.action_space = backend.observation_space, backend.action_space
        self.action_names = tuple(backend.action_names)
        self.stack, self.life_loss, self.seed, self.timeout = stack, life_loss, seed, timeout
        try:
            self._action_check = ActionCheck(self.action_space, self.num_envs, env_id, first_env)
            check_mask_size(self.observation_space, self.action_space, env_id)
        except EnvError:
            backend.close()
            raise
        self._deadline = None if trusted else Deadline()
        num = self.num_envs
        self.episode = np.full(num, -1, np.int64)  # [B] number of the running episode
        self.episode_seeds = np.zeros(num, np.int64)  # [B]
        self._return = np.zeros(num, np.float64)
        self._side = np.ones(num, np.float32)  # [B] -1 where the second of two players moves
        self._one_player = np.ones(num, np.float32)
        self._history = ActionHistory(num, self._action_check.shape, self._action_check.dtype)
        self._pending = np.zeros(num, bool)  # [B] the game is over: the next row is a reset
        self._mask: Part | None = None  # the action mask within a packed observation
        if isinstance(self.observation_space, PackedDict):
            self._mask = self.observation_space.parts.get(MASK)
        self._obs: np.ndarray | None = None  # of the current row, for its action mask
        self._sent: np.ndarray | None = None  # actions of the running step
        self._failed: str | None = None  # why every further call is refused
        self._closed = False

    def reset(self) -> Row:
        """Start a new episode in every env and return its first row."""
        self._require_turn("reset", sent=False)
        everywhere = np.ones(self.num_envs, bool)
        self._pending[:] = False
        obs = self._begin_episodes(everywhere)
        nowhere = np.zeros(self.num_envs, bool)
        return self._row(
            obs,
            reward=np.zeros(self.num_envs, np.float32),
            first=everywhere,
            terminated=nowhere,
            truncated=nowhere,
            game_over=nowhere,
            discount_sign=self._one_player,
        )

    def send(self, actions: np.ndarray) -> None:
        """Validate actions [B, *action] and start the step; `recv` completes it.

        Raises:
            EnvError: an action is not valid; the env can be used further.
        """
        self._require_turn("send", sent=False)
        if self.episode[0] < 0:
            raise EnvError("send was called before reset")
        actions = self._action_check.validated(np.asarray(actions))
        if self._mask is not None:
            assert self._obs is not None
            mask = self._obs[:, self._mask.start : self._mask.end]  # [B, A]
            self._action_check.require_legal(actions, mask, ~self._pending)
        if self._expect is not None and self._pending.any():
            self._expect(self._pending, self._next_seeds(self._pending))
        self._start(actions)

    def recv(self) -> Row:
        """Wait for the step that `send` started and return the next row."""
        self._require_turn("recv", sent=True)
        raw, actions = self._receive()
        self._check(raw, actions)
        # Envs whose game was over in the last row took an action that does not count. Whatever the
        # backend returned for them is masked out here, and their row is the reset observation.
        reset = self._pending.copy()
        self._history.record(actions, ~reset)
        reward = np.where(reset, np.float32(0), raw.reward.astype(np.float32, copy=False))
        over = (raw.terminated | raw.truncated) & ~reset
        # A lost life ends the episode for the learner (`terminated`), not the game (`game_over`).
        terminated = raw.terminated | (raw.life_lost & self.life_loss)
        sign = self._accumulate(reward, raw.discount_sign, ~reset)
        self._pending = over
        obs = self._begin_episodes(reset) if reset.any() else raw.obs
        return self._row(
            obs,
            reward=reward,
            first=reset,
            terminated=terminated & ~reset,
            truncated=raw.truncated & ~reset,
            game_over=over,
            discount_sign=sign,
        )

    def reset_over(self) -> np.ndarray:
        """Reset the envs whose game is over now, not at the next step; return all observations.

        For users of the SAME_STEP convention (Stable-Baselines3's VecEnv).

        Raises:
            EnvError: no game is over.
        """
        self._require_turn("reset_over", sent=False)
        if not self._pending.any():
            raise EnvError("reset_over was called where no game is over")
        mask, self._pending = self._pending, np.zeros(self.num_envs, bool)
        return self._begin_episodes(mask)

    def render(self, index: int = 0) -> np.ndarray:
        """Return an image of one env, [height, width, 3] uint8."""
        if not 0 <= index < self.num_envs:
            raise EnvError(f"{self.env_id} has no env {index}; it has 0 to {self.num_envs - 1}")
        try:
            return self.backend.render(index)
        except Exception as error:  # whatever a user's env or a missing library may raise
            raise EnvError(
                f"{self.env_id}: the picture of env {index}: {describe_error(error)}"
            ) from error

    def close(self) -> None:
        """Free the envs' processes and threads; a second call does nothing."""
        if self._closed:
            return
        self._closed, self._failed = True, self._failed or "it is closed"
        if self._deadline is not None:
            self._deadline.end()
        self.backend.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the number and the actions so far of every running episode."""
        self._require_turn("state_dict", sent=False)
        return {
            "episode": self.episode.copy(),
            "pending": self._pending.copy(),
            "length": self._history.length.copy(),
            "actions": self._history.actions(),
        }

    def load_state_dict(
        self, state: dict[str, Any], last: Row, on_step: Callable[[int], None] | None = None
    ) -> None:
        """Rebuild the running episodes from their seeds and actions.

        Args:
            state: returned by `state_dict`.
            last: the row that was current then; its observations and returns must be reproduced.
            on_step: called before each step with the number of steps replayed so far, of as many
                as the longest running episode has.

        Raises:
            EnvError: they are not reproduced, so this env cannot be resumed.
        """
        self._require_turn("load_state_dict", sent=False)
        length, actions = state["length"], state["actions"]
        if length.shape != (self.num_envs,) or actions.shape[2:] != self._action_check.shape:
            raise EnvError(f"the state is of {len(length)} envs; {self.env_id} has {self.num_envs}")
        self.episode = state["episode"] - 1  # `_begin_episodes` adds 1
        self._history.begin(np.ones(self.num_envs, bool))
        self._return[:], self._pending[:] = 0, False
        obs = np.zeros((self.num_envs, *self.observation_space.shape), self.observation_space.dtype)
        for done, step in enumerate(replay(length, actions, self._action_check.low)):
            if step.begins.any():
                obs = self._begin_episodes(step.begins)
            if step.actions is not None:
                if on_step is not None:
                    on_step(done)
                obs = self._repeat(step.actions, step.running)
        self._pending, self._obs = state["pending"].copy(), obs
        self._require_same(obs, last)

    def _repeat(self, actions: np.ndarray, running: np.ndarray) -> np.ndarray:
        """Repeat a step with actions [B, *action], recorded ones where running [B]; return obs."""
        self._start(actions)
        raw, taken = self._receive()
        self._history.record(taken, running)
        reward = np.where(running, raw.reward.astype(np.float32), 0)
        self._accumulate(reward, raw.discount_sign, running)
        return raw.obs

    def _require_same(self, obs: np.ndarray, last: Row) -> None:
        """Check that replayed episodes led to the row at which they were saved."""
        same = (obs == last.obs).reshape(self.num_envs, -1).all(axis=1)
        wrong = np.flatnonzero(~same | (self._return != last.episode_return))
        if wrong.size:
            index = wrong[0]
            seed, steps = self.episode_seeds[index], self._history.length[index]
            raise EnvError(
                f"env {self.first_env + index} of {self.env_id} cannot be resumed: seed {seed} and "
                f"its {steps} actions led to another "
                f"{'return' if same[index] else 'observation'} than before, so its dynamics do "
                "not follow from its seed and its actions alone"
            )

    def _require_turn(self, call: str, *, sent: bool) -> None:
        """Refuse a call out of turn, and every call after a failure."""
        if self._failed is not None:
            raise EnvError(f"{self.env_id} cannot go on: {self._failed}")
        if sent != (self._sent is not None):
            when = "without a send before it" if sent else "between send and recv"
            raise EnvError(f"{call} was called {when}")

    def _start(self, actions: np.ndarray) -> None:
        self._sent = actions
        self._guarded(lambda: self.backend.send(actions))

    def _receive(self) -> tuple[BackendStep, np.ndarray]:
        """Return the step's result and the actions that led to it."""
        assert self._sent is not None
        raw, actions = self._guarded(self.backend.recv, self._deadline), self._sent
        self._sent = None
        return raw, actions

    def _guarded(self, call: Callable[[], _Result], deadline: Deadline | None = None) -> _Result:
        """Call the backend; convert what it raises into one EnvError that names the env."""
        try:
            return call() if deadline is None else deadline.run(call, self.timeout)
        except Exception as error:  # whatever an emulator or a user's env may raise
            index = getattr(error, "index", None)
            self._failed = self._describe(index, describe_error(error))
            cause = error.__cause__ if isinstance(error, EnvError) else error
            raise EnvError(self._failed, index) from cause
        except BaseException:
            # Ctrl-C within a step: the backend may hold a result that no one has received.
            self._failed = "it was interrupted within a step"
            raise

    def _describe(self, index: int | None, problem: str) -> str:
        """Name the env, its action and its seed; the first few envs if the index is unknown."""
        indices = range(min(self.num_envs, _NAMED)) if index is None else [index]
        which = ", ".join(
            f"env {self.first_env + i} ({self._context(i, self._sent)})" for i in indices
        )
        hidden = self.num_envs - len(indices) if index is None else 0
        more = f" and {hidden} more" if hidden else ""
        return f"{self.env_id}: {which}{more} {problem}"

    def _context(self, index: int, actions: np.ndarray | None) -> str:
        action = "at its reset" if actions is None else f"action {actions[index]}"
        return f"{action}, seed {self.episode_seeds[index]}, step {self._history.length[index]}"

    def _fail(self, index: int, problem: str, actions: np.ndarray | None) -> None:
        number, context = self.first_env + index, self._context(index, actions)
        self._failed = f"{self.env_id}: env {number} ({context}) {problem}"
        raise EnvError(self._failed, index)

    def _check(self, raw: BackendStep, actions: np.ndarray) -> None:
        """Check shapes, dtypes, masks and finite values of a backend's result."""
        self._check_obs(raw.obs, ~self._pending, actions)
        self._check_mask(raw.obs, ~self._pending & ~raw.terminated & ~raw.truncated, actions)
        bad = ~np.isfinite(raw.reward) & ~self._pending
        if bad.any():
            index = int(np.argmax(bad))
            self._fail(index, f"returned the reward {raw.reward[index]}", actions)

    def _check_obs(self, obs: np.ndarray, used: np.ndarray, actions: np.ndarray | None) -> None:
        """Check observations [B, *obs]; values only where used [B]."""
        space = self.observation_space
        shape = (self.num_envs, *space.shape)
        if obs.shape != shape or obs.dtype != space.dtype:
            self._failed = (
                f"{self.env_id} returned observations {obs.dtype}{list(obs.shape)}; "
                f"its space promises {space.dtype}{list(shape)}"
            )
            raise EnvError(self._failed)
        if obs.dtype.kind == "f" and not np.isfinite(obs).all():
            bad = ~np.isfinite(obs).all(axis=tuple(range(1, obs.ndim))) & used
            if bad.any():
                index = int(np.argmax(bad))
                self._fail(index, f"returned the observation {obs[index]}", actions)

    def _check_mask(self, obs: np.ndarray, used: np.ndarray, actions: np.ndarray | None) -> None:
        """Check that each choice of a mask allows an action, where one is needed (used [B])."""
        if self._mask is None:
            return
        mask = obs[:, self._mask.start : self._mask.end]
        choices = split_mask(self.action_space, mask)  # one [B, A_i] per choice
        stuck = ~np.all([choice.any(axis=1) for choice in choices], axis=0) & used
        if stuck.any():
            self._fail(int(np.argmax(stuck)), f"shows an {MASK} without a 1", actions)

    def _next_seeds(self, mask: np.ndarray) -> np.ndarray:
        """Return the seeds [B] of the running episodes, and of the next ones where mask [B]."""
        seeds = self.episode_seeds.copy()
        for index in np.flatnonzero(mask):
            env, number = self.first_env + int(index), int(self.episode[index]) + 1
            seeds[index] = episode_seed(self.seed, env, number)
        return seeds

    def _begin_episodes(self, mask: np.ndarray) -> np.ndarray:
        """Start the next episode where mask [B] is true; return all observations."""
        self.episode_seeds = self._next_seeds(mask)
        self.episode[mask] += 1
        self._history.begin(mask)
        self._return[mask], self._side[mask] = 0.0, 1.0
        obs = self._guarded(lambda: self.backend.reset(mask, self.episode_seeds), self._deadline)
        self._check_obs(obs, mask, None)
        self._check_mask(obs, mask, None)
        return obs

    def _accumulate(
        self, reward: np.ndarray, sign: np.ndarray | None, taken: np.ndarray
    ) -> np.ndarray:
        """Add a step's rewards [B] to the returns where taken [B]; return its discount sign [B]."""
        if sign is None:
            self._return += reward
            return self._one_player
        # A reward is the mover's; the return is the first player's, so the second's count negative.
        self._return += reward * self._side
        sign = np.where(taken, sign, np.float32(1))
        self._side *= sign
        return sign

    def _row(
        self,
        obs: np.ndarray,
        *,
        reward: np.ndarray,
        first: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        game_over: np.ndarray,
        discount_sign: np.ndarray,
    ) -> Row:
        """Build a row; the returns and lengths are copied, as the running ones change."""
        if self._mask is not None:
            self._obs = obs
        return Row(
            # Matrix products round differently for another memory layout. A resumed training gets
            # its rows from a checkpoint, always contiguous, so the live ones must be, too.
            obs=np.ascontiguousarray(obs),
            reward=reward,
            first=first,
            terminated=terminated,
            truncated=truncated,
            game_over=game_over,
            episode_return=self._return.copy(),
            episode_length=self._history.length.copy(),
            discount_sign=discount_sign,
        )
