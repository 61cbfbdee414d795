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
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces


class EnvError(RuntimeError):
    """An env broke its contract: the message names the env's index, the action and the seed."""


class Raw(NamedTuple):
    """What a backend returns for one step of B envs."""

    obs: np.ndarray  # [B, *obs]
    reward: np.ndarray  # [B] float32, unclipped
    terminated: np.ndarray  # [B] bool, the game itself ended
    truncated: np.ndarray  # [B] bool, a limit from outside ended it
    life_lost: np.ndarray  # [B] bool, a life was lost and the game goes on


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

    def recv(self) -> Raw:
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
    episode_return: np.ndarray  # [B] float64, raw rewards of the game so far
    episode_length: np.ndarray  # [B] int64, steps of the game so far


def episode_seed(seed: int, index: int, episode: int) -> int:
    """The seed of one episode of one env, in [0, 2^31): the same wherever it is asked."""
    return int(np.random.SeedSequence([seed, index, episode]).generate_state(1)[0] >> 1)


class _Deadline:
    """Runs calls on a thread of its own so that a hung native call can be given up on."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], Raw] | None] = SimpleQueue()
        self._results: SimpleQueue[Raw | BaseException] = SimpleQueue()
        Thread(target=self._serve, daemon=True, name="ludus-env").start()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                self._results.put(call())
            except BaseException as error:  # handed to the caller, who raises it
                self._results.put(error)
            del call  # an idle thread keeps no env alive

    def run(self, call: Callable[[], Raw], seconds: float) -> Raw:
        self._calls.put(call)
        try:
            result = self._results.get(timeout=seconds)
        except Empty:
            raise TimeoutError(f"no answer after {seconds:g} s") from None
        if isinstance(result, BaseException):
            raise result
        return result

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
        trusted: the backend's step is bounded (our own array code), so it needs no deadline.
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
        self._deadline = None if trusted else _Deadline()
        self._discrete = isinstance(self.action_space, spaces.Discrete)
        self._low, self._high = self._action_bounds()
        self._action_shape: tuple[int, ...] = tuple(self.action_space.shape or ())
        num = self.num_envs
        self.episode = np.full(num, -1, np.int64)  # [B] number of the running episode
        self.episode_seeds = np.zeros(num, np.int64)  # [B]
        self._return = np.zeros(num, np.float64)
        self._length = np.zeros(num, np.int64)
        self._history = np.zeros((1024, num, *self._action_shape), self._action_dtype())
        self._pending = np.zeros(num, bool)  # game over: the next row is a reset
        self._sent: np.ndarray | None = None

    # -- the stream ---------------------------------------------------------------------------

    def reset(self) -> Row:
        """Start a new episode in every env and return its first row."""
        everywhere = np.ones(self.num_envs, bool)
        obs = self._begin(everywhere)
        none = np.zeros(self.num_envs, bool)
        return self._row(obs, np.zeros(self.num_envs, np.float32), everywhere, none, none, none)

    def send(self, actions: np.ndarray) -> None:
        """Validate actions [B, *action] and start the step; `recv` ends it."""
        if self._sent is not None:
            raise EnvError("send was called twice without a recv between them")
        if self.episode[0] < 0:
            raise EnvError("send was called before reset")
        actions = self._check_actions(np.asarray(actions))
        self._sent = actions
        self.backend.send(actions)

    def recv(self) -> Row:
        """Wait for the step that `send` started and return the next row."""
        if self._sent is None:
            raise EnvError("recv was called without a send before it")
        raw = self._receive()
        actions, self._sent = self._sent, None
        self._check(raw, actions)
        reset = self._pending.copy()
        self._record(actions, ~reset)
        reward = np.where(reset, np.float32(0), raw.reward.astype(np.float32, copy=False))
        over = (raw.terminated | raw.truncated) & ~reset
        ended = raw.terminated | (raw.life_lost & self.life_loss)
        self._return += reward
        self._length += ~reset
        self._pending = over
        obs = self._begin(reset) if reset.any() else raw.obs
        return self._row(obs, reward, reset, ended & ~reset, raw.truncated & ~reset, over)

    def reset_over(self) -> np.ndarray:
        """Reset the envs whose game is over now, not at the next step; return all observations.

        For users of the SAME_STEP convention (Stable-Baselines3's VecEnv).
        """
        mask, self._pending = self._pending, np.zeros(self.num_envs, bool)
        return self._begin(mask)

    def render(self, index: int = 0) -> np.ndarray:
        """The picture of one env, [height, width, 3] uint8."""
        return self.backend.render(index)

    def close(self) -> None:
        """Free the envs' processes and threads."""
        if self._deadline is not None:
            self._deadline.end()
        self.backend.close()

    # -- exact resume -------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where every running episode stands: its number and the actions so far."""
        longest = int(self._length.max(initial=0))
        return {
            "episode": self.episode.copy(),
            "pending": self._pending.copy(),
            "length": self._length.copy(),
            "actions": self._history[:longest].copy(),
        }

    def load_state_dict(self, state: dict[str, Any], last: Row) -> None:
        """Rebuild the running episodes from their seeds and actions.

        Args:
            state: what `state_dict` returned.
            last: the row that was current then; its observations must come out again.
        """
        length, actions = state["length"], state["actions"]
        longest = int(length.max(initial=0))
        self.episode = state["episode"] - 1  # _begin counts on
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
            self._sent = np.where(running.reshape(shape), chosen, idle)
            self.backend.send(self._sent)
            raw = self._receive()
            self._record(self._sent, running)
            self._return += np.where(running, raw.reward.astype(np.float32), 0)
            self._length += running
            obs = raw.obs
        self._sent, self._pending = None, state["pending"].copy()
        wrong = [i for i in range(self.num_envs) if not np.array_equal(obs[i], last.obs[i])]
        if wrong:
            raise EnvError(
                f"env {wrong[0]} of {self.env_id} cannot be resumed: seed "
                f"{self.episode_seeds[wrong[0]]} and its {length[wrong[0]]} actions led to another "
                "observation than before, so its dynamics do not follow from its seed alone"
            )

    # -- guards -------------------------------------------------------------------------------

    def _action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return np.array(space.start), np.array(space.start + space.n - 1)
        if isinstance(space, spaces.MultiDiscrete):
            return np.asarray(space.start), np.asarray(space.start + space.nvec - 1)
        if isinstance(space, spaces.Box):
            return space.low, space.high
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
        if self._action_dtype() is np.int64 and actions.dtype.kind not in "iu":
            raise EnvError(f"actions have dtype {actions.dtype}; {self.env_id} takes integers")
        bad = ~((actions >= self._low) & (actions <= self._high))  # NaN is bad too
        if bad.any():
            index = int(np.argwhere(bad)[0][0])
            raise EnvError(
                f"action {actions[index]} for env {index} is outside {self.action_space} "
                f"of {self.env_id}"
            )
        return actions.astype(self._action_dtype(), copy=False)

    def _receive(self) -> Raw:
        try:
            if self._deadline is None:
                return self.backend.recv()
            return self._deadline.run(self.backend.recv, self.timeout)
        except EnvError as error:
            raise self._blame(error) from error.__cause__
        except TimeoutError as error:
            raise self._blame(EnvError(f"gave {error}")) from None
        except Exception as error:  # whatever an emulator or a user's env may raise
            raise self._blame(EnvError(f"raised {type(error).__name__}: {error}")) from error

    def _blame(self, error: EnvError) -> EnvError:
        """Say which env, with which action and seed; all of them where that is not known."""
        index = getattr(error, "index", None)
        where = range(self.num_envs) if index is None else [index]
        assert self._sent is not None
        which = ", ".join(
            f"env {i} (action {self._sent[i]}, seed {self.episode_seeds[i]}, "
            f"step {self._length[i]})"
            for i in where
        )
        return EnvError(f"{self.env_id}: {which} {error}")

    def _check(self, raw: Raw, actions: np.ndarray) -> None:
        """Shapes, dtypes and finite values of what the backend returned."""
        self._check_obs(raw.obs, ~self._pending, f"for the actions {actions.tolist()}")
        bad = ~np.isfinite(raw.reward) & ~self._pending
        if bad.any():
            index = int(np.argmax(bad))
            raise EnvError(
                f"{self.env_id}: env {index} returned the reward {raw.reward[index]} for action "
                f"{actions[index]} (seed {self.episode_seeds[index]}, step {self._length[index]})"
            )

    def _check_obs(self, obs: np.ndarray, used: np.ndarray, when: str) -> None:
        space = self.observation_space
        shape = (self.num_envs, *space.shape)
        if obs.shape != shape or obs.dtype != space.dtype:
            raise EnvError(
                f"{self.env_id} returned observations {obs.dtype}{list(obs.shape)} {when}; "
                f"its space promises {space.dtype}{list(shape)}"
            )
        if obs.dtype.kind == "f" and not np.isfinite(obs).all():
            bad = ~np.isfinite(obs).all(axis=tuple(range(1, obs.ndim))) & used
            if bad.any():
                index = int(np.argmax(bad))
                raise EnvError(
                    f"{self.env_id}: env {index} returned the observation {obs[index]} {when} "
                    f"(seed {self.episode_seeds[index]}, step {self._length[index]})"
                )

    # -- accounting ---------------------------------------------------------------------------

    def _begin(self, mask: np.ndarray) -> np.ndarray:
        """Start the next episode where mask [B] is true; return all observations."""
        self.episode[mask] += 1
        self._return[mask], self._length[mask] = 0.0, 0
        for index in np.flatnonzero(mask):
            number = int(self.episode[index])
            self.episode_seeds[index] = episode_seed(self.seed, int(index), number)
        self._sent = np.zeros((self.num_envs, *self._action_shape), self._history.dtype)
        obs = self._reset_backend(mask)
        self._sent = None
        self._check_obs(obs, mask, "at a reset")
        return obs

    def _reset_backend(self, mask: np.ndarray) -> np.ndarray:
        try:
            return self.backend.reset(mask, self.episode_seeds)
        except EnvError as error:
            raise self._blame(error) from error.__cause__

    def _record(self, actions: np.ndarray, taken: np.ndarray) -> None:
        """Keep the actions [B] that were taken, so that the running episodes can be rebuilt."""
        if self._length.max() >= len(self._history):
            self._history = np.concatenate([self._history, np.zeros_like(self._history)])
        envs = np.flatnonzero(taken)
        self._history[self._length[envs], envs] = actions[envs]

    def _row(self, obs: np.ndarray, reward: np.ndarray, *flags: np.ndarray) -> Row:
        first, terminated, truncated, over = flags
        returns, lengths = self._return.copy(), self._length.copy()
        return Row(obs, reward, first, terminated, truncated, over, returns, lengths)
