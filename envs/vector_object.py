"""A `gymnasium.vector.VectorEnv` of the user's program as a backend."""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

from ludus.envs.action_mask import legal_mask, mask_size, random_actions
from ludus.envs.adapt import Channels, adapt, check_observation
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.env_object import EnvObject
from ludus.envs.errors import EnvError
from ludus.envs.frame import as_picture
from ludus.envs.global_generators import GlobalGenerators
from ludus.envs.guarded_env import own_actions
from ludus.envs.vector import BackendStep


class VectorObjectBackend:
    """The envs of a `gymnasium.vector.VectorEnv`.

    Its autoreset mode must be one of these:

    - DISABLED: each episode gets its own seed, so a training can be resumed exactly. While other
      games go on, a game that has ended takes one step of an episode that does not count.
    - NEXT_STEP, Gymnasium's default: only a reset of all envs is seeded, by one number, which all
      vector envs accept.

    Args:
        shared: the vector env.
        channels: position of the channels of pictures; None to infer it.
        seed: of the reset that shows whether there are action masks in `info`.

    Raises:
        EnvError: its autoreset mode is another one or is not stated.
    """

    def __init__(self, shared: EnvObject, channels: Channels | None, seed: int) -> None:
        self._shared, self._env = shared, shared.env
        self._next_step = _resets_at_next_step(self._env)
        self.num_envs = int(self._env.num_envs)
        self.resets_alone = not self._next_step or self.num_envs == 1
        self.action_space: spaces.Space[Any] = self._env.single_action_space
        self.action_names: tuple[str, ...] = ()
        self._generators = GlobalGenerators(seed)
        self._source = self._env.single_observation_space
        self._batched = batch_space(self._source, self.num_envs)
        self.adaptation = adapt(self._source, channels, self._info_mask_size(seed))
        self.observation_space = self.adaptation.space
        shape = (self.num_envs, *self.observation_space.shape)
        self._obs = np.zeros(shape, self.observation_space.dtype)
        self._actions = np.zeros(0)
        self._over = np.ones(self.num_envs, bool)  # [B] the game is over and was not reset
        self._new = np.zeros(self.num_envs, bool)  # [B] the last step reset the env

    def _info_mask_size(self, seed: int) -> int:
        """Return the size of the action masks that a reset shows in `info`; 0 for none."""
        needed = mask_size(self.action_space)
        if not needed or (isinstance(self._source, spaces.Dict) and MASK in self._source.spaces):
            return 0
        self._shared.begin(self)
        with self._generators:
            _, infos = _reset_result(self._env.reset(seed=seed))
        if MASK not in infos:
            return 0
        try:
            sizes = {np.asarray(mask).size for mask in infos[MASK]}
        except ValueError:  # parts of different lengths
            sizes = set()
        if sizes != {needed}:
            raise EnvError(f"shows an {MASK} in infos that has not {needed} numbers for each env")
        return needed

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new episodes where mask [B] is true; return all observations.

        Raises:
            EnvError: the autoreset mode has no way to do so.
        """
        if not (mask & ~self._new).any():  # NEXT_STEP has reset them
            return self._obs.copy()
        options = None
        if not mask.all():
            if self._next_step:
                raise EnvError(
                    "cannot reset one env alone in its autoreset mode NEXT_STEP, which a resume "
                    "and a limit of steps need; make it with AutoresetMode.DISABLED"
                )
            options = {"reset_mask": mask.copy()}
        self._shared.begin(self)
        first = int(seeds[0])
        single = [int(seed) if begins else None for seed, begins in zip(seeds, mask, strict=True)]
        with self._generators:
            if mask.all():
                self._generators.seed(first)
            seed = first if self._next_step else single
            obs, infos = _reset_result(self._env.reset(seed=seed, options=options))
        converted = self._converted(obs, infos)
        self._require_unchanged(converted, ~mask & ~self._over)
        self._obs[mask] = converted[mask]
        self._over &= ~mask
        return self._obs.copy()

    def send(self, actions: np.ndarray) -> None:
        """Keep the actions for `recv`."""
        self._actions = actions

    def recv(self) -> BackendStep:
        """Step every env."""
        nowhere = np.zeros(self.num_envs, bool)
        self._new = nowhere
        if self._over.all():  # `reset` follows; an evaluation may have used the envs meanwhile
            rewards = np.zeros(self.num_envs, np.float32)
            return BackendStep(self._obs.copy(), rewards, nowhere, nowhere, nowhere)
        self._shared.require(self)
        over = self._over
        with self._generators:
            if over.any() and not self._next_step:
                self._begin_idle(over)
            result = self._env.step(own_actions(self.action_space, self._actions))
        obs, rewards, terminated, truncated, infos = _step_result(result)
        self._obs[:] = self._converted(obs, infos)
        reward = _per_env(rewards, self.num_envs, "iufb", "reward").astype(np.float32)
        ended = _per_env(terminated, self.num_envs, "b", "terminated")
        cut = _per_env(truncated, self.num_envs, "b", "truncated")
        if self._next_step:
            self._new = over
        self._over = ended | cut
        return BackendStep(self._obs.copy(), reward, ended, cut, nowhere)

    def render(self, index: int) -> np.ndarray:
        """Return the image of one env, [height, width, 3] uint8.

        Raises:
            EnvError: the vector env cannot render.
        """
        with self._generators, self._generators.preserved():
            frames = self._env.render()
        several = isinstance(frames, list | tuple) and len(frames) == self.num_envs
        return as_picture(frames[index] if several else frames)

    def close(self) -> None:
        """Do nothing: the envs belong to the program that passed them."""

    def _begin_idle(self, over: np.ndarray) -> None:
        """Reset games that are over [B], which must not be stepped, and give them legal actions."""
        reset = self._env.reset(options={"reset_mask": over.copy()})
        converted = self._converted(*_reset_result(reset))
        self._require_unchanged(converted, ~over)
        legal = legal_mask(self.observation_space, converted)
        if legal is not None:  # otherwise the actions that were sent will do
            generator = np.random.default_rng(0)
            idle = random_actions(self.action_space, self.num_envs, generator, legal)
            self._actions = self._actions.copy()
            self._actions[over] = idle[over]

    def _require_unchanged(self, obs: np.ndarray, where: np.ndarray) -> None:
        """Check that a reset of other envs has left the observations [B, *obs] where [B] is true.

        Raises:
            EnvError: it has not, so the reset mask is not obeyed.
        """
        before, after = self._obs[where], obs[where]
        if self.adaptation.info_mask_size and isinstance(self.observation_space, PackedDict):
            part = self.observation_space.parts[MASK]  # infos show those of the reset envs only
            before, after = (np.delete(o, range(part.start, part.end), 1) for o in (before, after))
        if not np.array_equal(before, after):
            raise EnvError(
                'has reset envs that options["reset_mask"] did not name, which its autoreset mode '
                "DISABLED demands"
            )

    def _converted(self, obs: Any, infos: Any) -> np.ndarray:
        """Check the observations of all envs and convert them, [B, *obs]."""
        size = self.adaptation.info_mask_size
        if isinstance(self._source, spaces.Box) and not size:
            check_observation(self._batched, obs)
            return self.adaptation.convert(obs)
        masks = infos.get(MASK) if size else None
        converted = []
        for index, each in enumerate(iterate(self._batched, obs)):
            check_observation(self._source, each)
            if size:  # a game that has ended may show none
                mask = None if masks is None else masks[index]
                each = (each, np.zeros(size, np.int8) if mask is None else mask)
            converted.append(self.adaptation.convert(each))
        return np.stack(converted)


def _resets_at_next_step(env: VectorEnv[Any, Any, Any]) -> bool:
    """Return whether the autoreset mode is NEXT_STEP; False for DISABLED.

    Raises:
        EnvError: it is another one.
    """
    stated = env.metadata.get("autoreset_mode")
    try:
        mode = AutoresetMode(stated)
    except ValueError:
        raise EnvError(
            f"states the autoreset mode {stated} in its metadata; it must be one of Gymnasium's "
            "AutoresetMode, NEXT_STEP or DISABLED"
        ) from None
    if mode is AutoresetMode.SAME_STEP:
        raise EnvError(
            "has the autoreset mode SAME_STEP, which hides the last observation of each game; "
            "use AutoresetMode.DISABLED or NEXT_STEP"
        )
    return mode is AutoresetMode.NEXT_STEP


def _reset_result(result: Any) -> tuple[Any, dict[str, Any]]:
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise EnvError("returned no observations with a dictionary of infos from reset")
    return result


def _step_result(result: Any) -> tuple[Any, Any, Any, Any, Any]:
    if not isinstance(result, tuple) or len(result) != 5 or not isinstance(result[4], dict):
        raise EnvError(
            "returned no observations, rewards, terminations and truncations with a dictionary of "
            "infos from step"
        )
    return result


def _per_env(values: Any, num_envs: int, kinds: str, name: str) -> np.ndarray:
    """Check an array with one value of each env."""
    array = np.asarray(values)
    if array.shape != (num_envs,) or array.dtype.kind not in kinds:
        raise EnvError(
            f"returned {name} as {array.dtype}{list(array.shape)}; it needs {num_envs} values of "
            f"{'numbers' if 'f' in kinds else 'True and False'}"
        )
    return array
