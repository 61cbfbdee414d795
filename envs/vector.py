"""The stream contract: one vector env for every game, with its guards.

Autoreset is Gymnasium's NEXT_STEP. The observation that ends an episode is in the stream, the next
row is the reset observation, and the action given for that row is ignored. Each observation appears
once, and the successor of row t is always row t + 1.

Every episode starts from a seed of its own, `episode_seed(seed, env, episode)`, so a running
episode is rebuilt from its seed and its actions, and a training resumes bit for bit without a
snapshot.
"""

from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from gymnasium import spaces

from ludus.envs.dict_observation import MASK, PackedDict, Part
from ludus.envs.errors import EnvError

_Result = TypeVar("_Result")


class BackendStep(NamedTuple):
    """What a backend returns for one step of B envs."""

    obs: np.ndarray  # [B, *obs]
    reward: np.ndarray  # [B] float32, unclipped
    terminated: np.ndarray  # [B] bool, the game itself ended
    truncated: np.ndarray  # [B] bool, a limit from outside ended it
    life_lost: np.ndarray  # [B] bool, a life was lost and the game goes on
    discount_sign: np.ndarray | None = (
        None  # [B] float32, -1 where the other player moves next; None: 1
    )


class Backend(Protocol):
    """B envs that step together; knows nothing of episodes, seeds or autoreset.

    An env whose game is over may be given further actions before its reset; what it returns for
    them is not used, and they must not raise.
    """

    @property
    def num_envs(self) -> int:
        """B."""

    @property
    def observation_space(self) -> spaces.Box:
        """Of one env."""

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Of one env."""

    @property
    def action_names(self) -> Sequence[str]:
        """A name for each discrete action; empty where there are none."""

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new episodes where mask [B] is true, from seeds [B]; return all observations."""

    def send(self, actions: np.ndarray) -> None:
        """Start one step of every env with validated actions [B, *action]."""

    def recv(self) -> BackendStep:
        """Wait for the step to end."""

    def render(self, index: int) -> np.ndarray:
        """The picture of one env, [height, width, 3] uint8."""

    def close(self) -> None:
        """Free processes and threads; never waits for a hung env."""


class Row(NamedTuple):
    """One row of the stream: what B envs show, and what led there."""

    obs: np.ndarray  # [B, *obs]
    reward: np.ndarray  # [B] float32 raw, for reaching obs; 0 where first
    first: np.ndarray  # [B] bool, obs opens an episode
    terminated: np.ndarray  # [B] bool, the learner must not bootstrap from obs
    truncated: np.ndarray  # [B] bool, a limit ended the game here; bootstrap
    game_over: np.ndarray  # [B] bool, the game ended here; the action for this row is ignored
    episode_return: np.ndarray  # [B] float64, raw rewards of the game so far, of who began
    episode_length: np.ndarray  # [B] int64, steps of the game so far
    discount_sign: np.ndarray  # [B] float32, -1 where obs is the other player's, of two; else 1


def episode_seed(seed: int, index: int, episode: int) -> int:
    """The seed of one episode of one env, in [0, 2^31): the same wherever it is asked."""
    return int(np.random.SeedSequence([seed, index, episode]).generate_state(1)[0] >> 1)


def describe_error(error: Exception) -> str:
    """An error as the end of a sentence that begins with an env."""
    text = " ".join(str(error).split())
    return text if isinstance(error, EnvError) else f"raised {type(error).__name__}: {text}"


class _Deadline:
    """Runs calls on a thread of its own so that a hung native call can be given up on."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._results: SimpleQueue[Any] = SimpleQueue()
        Thread(target=self._serve, daemon=True, name="ludus-env").start()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                self._results.put(call())
            except BaseException as error:  # handed to the caller, who raises it
                self._results.put(error)
            del call  # an idle thread keeps no env alive

    def run(self, call: Callable[[], _Result], seconds: float) -> _Result:
        self._calls.put(call)
        try:
            result = self._results.get(timeout=seconds)
        except Empty:
            raise EnvError(f"gave no answer after {seconds:g} s") from None
        if isinstance(result, BaseException):
            raise result
        answer: _Result = result
        return answer

    def end(self) -> None:
        """Let the thread go, once it is idle."""
        self._calls.put(None)


class VectorEnv:
    """B envs under the stream contract.

    Args:
        backend: the envs themselves.
        env_id: the name to print.
        protocol: what fixes a score on this env, printed and stored with every result.
        seed: with the env's index and the episode's number it fixes every episode.
        stack: frames in one observation, oldest first along axis 0; 1 where there is no stack.
        life_loss: a lost life counts as terminated for the learner.
        timeout: seconds one step may take before it is given up on.
        trusted: the backend's step is bounded (our own array code, or workers with a deadline of
            their own), so it needs none here.

    Raises:
        EnvError: the action space is not supported; the backend is closed then.
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
    ) -> None:
        self.backend, self.env_id, self.protocol = backend, env_id, protocol
        self.num_envs = backend.num_envs
        self.observation_space, self.action_space = backend.observation_space, backend.action_space
        self.action_names = tuple(backend.action_names)
        self.stack, self.life_loss, self.seed, self.timeout = stack, life_loss, seed, timeout
        try:
            self._low, self._high = self._action_bounds()
        except EnvError:
            backend.close()
            raise
        self._choices: list[int] = []  # where in a mask each choice but the first begins
        if isinstance(self.action_space, spaces.MultiDiscrete):
            self._choices = np.cumsum(self.action_space.nvec)[:-1].tolist()
        self._deadline = None if trusted else _Deadline()
        self._action_shape: tuple[int, ...] = tuple(self.action_space.shape or ())
        num = self.num_envs
        self.episode = np.full(num, -1, np.int64)  # [B] number of the running episode
        self.episode_seeds = np.zeros(num, np.int64)  # [B]
        self._return = np.zeros(num, np.float64)
        self._length = np.zeros(num, np.int64)
        self._side = np.ones(num, np.float32)  # [B] -1 where the second of two players moves
        self._one_player = np.ones(num, np.float32)
        self._history = np.zeros((1024, num, *self._action_shape), self._action_dtype())
        self._pending = np.zeros(num, bool)  # game over: the next row is a reset
        self._mask: Part | None = None  # where an observation says which actions are legal
        if isinstance(self.action_space, spaces.Discrete) and isinstance(
            self.observation_space, PackedDict
        ):
            self._mask = self.observation_space.parts.get(MASK)
        self._obs: np.ndarray | None = None  # of the current row, where there is a mask
        self._sent: np.ndarray | None = None  # actions of the step that runs
        self._failed: str | None = None
        self._closed = False

    # -- the stream ---------------------------------------------------------------------------

    def reset(self) -> Row:
        """Start a new episode in every env and return its first row."""
        self._expect("reset", sent=False)
        everywhere = np.ones(self.num_envs, bool)
        self._pending[:] = False
        obs = self._begin(everywhere)
        none = np.zeros(self.num_envs, bool)
        nothing = np.zeros(self.num_envs, np.float32)
        return self._row(obs, nothing, self._one_player, everywhere, none, none, none)

    def send(self, actions: np.ndarray) -> None:
        """Validate actions [B, *action] and start the step; `recv` ends it."""
        self._expect("send", sent=False)
        if self.episode[0] < 0:
            raise EnvError("send was called before reset")
        actions = self._check_actions(np.asarray(actions))
        if self._mask is not None:
            self._check_obeyed(self._mask, actions)
        self._start(actions)

    def recv(self) -> Row:
        """Wait for the step that `send` started and return the next row."""
        self._expect("recv", sent=True)
        raw, actions = self._receive()
        self._check(raw, actions)
        reset = self._pending.copy()
        self._record(actions, ~reset)
        reward = np.where(reset, np.float32(0), raw.reward.astype(np.float32, copy=False))
        over = (raw.terminated | raw.truncated) & ~reset
        ended = raw.terminated | (raw.life_lost & self.life_loss)
        sign = self._count(reward, raw.discount_sign, ~reset)
        self._pending = over
        obs = self._begin(reset) if reset.any() else raw.obs
        return self._row(obs, reward, sign, reset, ended & ~reset, raw.truncated & ~reset, over)

    def reset_over(self) -> np.ndarray:
        """Reset the envs whose game is over now, not at the next step; return all observations.

        For users of the SAME_STEP convention (Stable-Baselines3's VecEnv).

        Raises:
            EnvError: no game is over.
        """
        self._expect("reset_over", sent=False)
        if not self._pending.any():
            raise EnvError("reset_over was called where no game is over")
        mask, self._pending = self._pending, np.zeros(self.num_envs, bool)
        return self._begin(mask)

    def render(self, index: int = 0) -> np.ndarray:
        """The picture of one env, [height, width, 3] uint8."""
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

    # -- exact resume -------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where every running episode stands: its number and the actions so far."""
        self._expect("state_dict", sent=False)
        actions = self._history[: int(self._length.max(initial=0))].copy()
        actions[np.arange(len(actions))[:, None] >= self._length] = 0  # of episodes before
        return {
            "episode": self.episode.copy(),
            "pending": self._pending.copy(),
            "length": self._length.copy(),
            "actions": actions,
        }

    def load_state_dict(self, state: dict[str, Any], last: Row) -> None:
        """Rebuild the running episodes from their seeds and actions.

        Args:
            state: what `state_dict` returned.
            last: the row that was current then; its observations and returns must come out again.

        Raises:
            EnvError: they do not, so this env cannot be resumed.
        """
        self._expect("load_state_dict", sent=False)
        length, actions = state["length"], state["actions"]
        if length.shape != (self.num_envs,) or actions.shape[2:] != self._action_shape:
            raise EnvError(f"the state is of {len(length)} envs; {self.env_id} has {self.num_envs}")
        longest = int(length.max(initial=0))
        self.episode = state["episode"] - 1  # _begin counts on
        self._length[:], self._return[:], self._pending[:] = 0, 0, False
        obs = np.zeros((self.num_envs, *self.observation_space.shape), self.observation_space.dtype)
        idle = np.broadcast_to(self._low, (self.num_envs, *self._action_shape))
        idle = idle.astype(self._history.dtype)
        for step in range(longest + 1):  # aligned at the end: the longest episode begins first
            begins = length == longest - step
            if begins.any():
                obs = self._begin(begins)
            if step == longest:
                break
            running = length >= longest - step
            at = np.maximum(length - (longest - step), 0)  # [B] position in each env's own episode
            chosen = actions[at, np.arange(self.num_envs)]
            shape = (self.num_envs,) + (1,) * len(self._action_shape)
            self._start(np.where(running.reshape(shape), chosen, idle))
            raw, taken = self._receive()
            self._record(taken, running)
            self._count(
                np.where(running, raw.reward.astype(np.float32), 0), raw.discount_sign, running
            )
            obs = raw.obs
        self._pending, self._obs = state["pending"].copy(), obs
        same = (obs == last.obs).reshape(self.num_envs, -1).all(axis=1)
        wrong = np.flatnonzero(~same | (self._return != last.episode_return))
        if wrong.size:
            raise EnvError(
                f"env {wrong[0]} of {self.env_id} cannot be resumed: seed "
                f"{self.episode_seeds[wrong[0]]} and its {length[wrong[0]]} actions led to another "
                f"{'return' if same[wrong[0]] else 'observation'} than before, so its dynamics do "
                "not follow from its seed and its actions alone"
            )

    # -- guards -------------------------------------------------------------------------------

    def _action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return np.array(space.start), np.array(space.start + space.n - 1)
        if isinstance(space, spaces.MultiDiscrete):
            return np.asarray(space.start), np.asarray(space.start + space.nvec - 1)
        if isinstance(space, spaces.Box):
            return space.low.astype(np.float32), space.high.astype(np.float32)
        raise EnvError(
            f"{self.env_id} has the action space {space}, which is not supported; "
            "use Discrete, MultiDiscrete or Box"
        )

    def _action_dtype(self) -> Any:
        return np.float32 if isinstance(self.action_space, spaces.Box) else np.int64

    def _check_actions(self, actions: np.ndarray) -> np.ndarray:
        shape = (self.num_envs, *self._action_shape)
        if actions.shape != shape:
            raise EnvError(f"actions have shape {actions.shape}; {self.env_id} takes {shape}")
        kinds, name = ("iu", "integers") if self._action_dtype() is np.int64 else ("iuf", "numbers")
        if actions.dtype.kind not in kinds:
            raise EnvError(f"actions have dtype {actions.dtype}; {self.env_id} takes {name}")
        actions = actions.astype(np.float32, copy=False) if kinds == "iuf" else actions
        bad = ~((actions >= self._low) & (actions <= self._high) & np.isfinite(actions))
        if bad.any():
            index = int(np.argwhere(bad)[0][0])
            raise EnvError(
                f"action {actions[index]} for env {index} is outside {self.action_space} "
                f"of {self.env_id}"
            )
        return actions.astype(self._action_dtype(), copy=False)

    def _check_obeyed(self, mask: Part, actions: np.ndarray) -> None:
        """Refuse an action that the current row's mask forbids."""
        assert self._obs is not None
        legal = self._obs[:, mask.start : mask.end]  # [B, A]
        start = int(self._low)
        wrong = (legal[np.arange(self.num_envs), actions - start] == 0) & ~self._pending
        if wrong.any():
            index = int(np.argmax(wrong))
            allowed = ", ".join(str(a + start) for a in np.flatnonzero(legal[index]))
            raise EnvError(
                f"action {actions[index]} for env {index} is not legal in {self.env_id}; "
                f"legal are {allowed}"
            )

    def _expect(self, call: str, *, sent: bool) -> None:
        """Refuse a call out of turn, and any on an env that has failed."""
        if self._failed is not None:
            raise EnvError(f"{self.env_id} cannot go on: {self._failed}")
        if sent != (self._sent is not None):
            when = "without a send before it" if sent else "between send and recv"
            raise EnvError(f"{call} was called {when}")

    def _start(self, actions: np.ndarray) -> None:
        self._sent = actions
        self._guarded(lambda: self.backend.send(actions))

    def _receive(self) -> tuple[BackendStep, np.ndarray]:
        """The step's result, and the actions that led to it."""
        assert self._sent is not None
        raw, actions = self._guarded(self.backend.recv, self._deadline), self._sent
        self._sent = None
        return raw, actions

    def _guarded(self, call: Callable[[], _Result], deadline: _Deadline | None = None) -> _Result:
        """What a call to the backend returns; what it raises becomes one EnvError."""
        try:
            return call() if deadline is None else deadline.run(call, self.timeout)
        except Exception as error:  # whatever an emulator or a user's env may raise
            self._failed = self._blame(getattr(error, "index", None), describe_error(error))
            cause = error.__cause__ if isinstance(error, EnvError) else error
            raise EnvError(self._failed, getattr(error, "index", None)) from cause
        except BaseException:
            self._failed = "it was interrupted within a step"
            raise

    def _blame(self, index: int | None, what: str) -> str:
        """Say which env, with which action and seed; the first few where that is not known."""
        where = range(min(self.num_envs, 8)) if index is None else [index]
        which = ", ".join(f"env {i} ({self._circumstance(i)})" for i in where)
        more = f" and {self.num_envs - 8} more" if index is None and self.num_envs > 8 else ""
        return f"{self.env_id}: {which}{more} {what}"

    def _circumstance(self, index: int, actions: np.ndarray | None = None) -> str:
        actions = self._sent if actions is None else actions
        action = "at its reset" if actions is None else f"action {actions[index]}"
        return f"{action}, seed {self.episode_seeds[index]}, step {self._length[index]}"

    def _check(self, raw: BackendStep, actions: np.ndarray) -> None:
        """Shapes, dtypes and finite values of what the backend returned."""
        self._check_obs(raw.obs, ~self._pending, actions)
        self._check_legal(raw.obs, ~self._pending & ~raw.terminated & ~raw.truncated, actions)
        bad = ~np.isfinite(raw.reward) & ~self._pending
        if bad.any():
            index = int(np.argmax(bad))
            self._refuse(index, f"returned the reward {raw.reward[index]}", actions)

    def _check_obs(self, obs: np.ndarray, used: np.ndarray, actions: np.ndarray | None) -> None:
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
                self._refuse(index, f"returned the observation {obs[index]}", actions)

    def _check_legal(self, obs: np.ndarray, asked: np.ndarray, actions: np.ndarray | None) -> None:
        """Where an action is asked for, some action must be allowed, in each choice of several."""
        if isinstance(self.observation_space, PackedDict) and MASK in self.observation_space.parts:
            part = self.observation_space.parts[MASK]
            choices = np.split(obs[:, part.start : part.end], self._choices, axis=1)
            stuck = ~np.all([choice.any(axis=1) for choice in choices], axis=0) & asked
            if stuck.any():
                self._refuse(int(np.argmax(stuck)), f"shows an {MASK} without a 1", actions)

    def _refuse(self, index: int, what: str, actions: np.ndarray | None) -> None:
        self._failed = f"{self.env_id}: env {index} ({self._circumstance(index, actions)}) {what}"
        raise EnvError(self._failed, index)

    # -- accounting ---------------------------------------------------------------------------

    def _begin(self, mask: np.ndarray) -> np.ndarray:
        """Start the next episode where mask [B] is true; return all observations."""
        self.episode[mask] += 1
        self._return[mask], self._length[mask], self._side[mask] = 0.0, 0, 1.0
        for index in np.flatnonzero(mask):
            number = int(self.episode[index])
            self.episode_seeds[index] = episode_seed(self.seed, int(index), number)
        obs = self._guarded(lambda: self.backend.reset(mask, self.episode_seeds), self._deadline)
        self._check_obs(obs, mask, None)
        self._check_legal(obs, mask, None)
        return obs

    def _record(self, actions: np.ndarray, taken: np.ndarray) -> None:
        """Keep the actions [B] that were taken, so that the running episodes can be rebuilt."""
        if self._length.max() >= len(self._history):
            self._history = np.concatenate([self._history, np.zeros_like(self._history)])
        envs = np.flatnonzero(taken)
        self._history[self._length[envs], envs] = actions[envs]

    def _count(self, reward: np.ndarray, sign: np.ndarray | None, taken: np.ndarray) -> np.ndarray:
        """Add a step's rewards [B] up where it was taken; its sign [B]."""
        self._length += taken
        if sign is None:
            self._return += reward
            return self._one_player
        self._return += reward * self._side
        sign = np.where(taken, sign, np.float32(1))
        self._side *= sign
        return sign

    def _row(
        self, obs: np.ndarray, reward: np.ndarray, sign: np.ndarray, *flags: np.ndarray
    ) -> Row:
        first, terminated, truncated, over = flags
        returns, lengths = self._return.copy(), self._length.copy()
        if self._mask is not None:
            self._obs = obs
        obs = np.ascontiguousarray(obs)  # products round by layout, and a resumed row has this one
        return Row(obs, reward, first, terminated, truncated, over, returns, lengths, sign)
