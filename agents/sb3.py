"""Stable-Baselines3 as the reference baseline, on the same env as our agents.

The only import of SB3 in Ludus. Its agents train with SB3's own loop (`fit`); evaluation, logging
and the run folder are ours. Only the policy's weights are saved, without pickle, so an SB3 run can
be evaluated and recorded but not resumed.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack
from torch import Tensor, nn

from ludus.agents.agent import Advice, EnvLike, Observation
from ludus.agents.observation_batch import as_batch
from ludus.agents.sb3_config import CONTINUOUS, Algorithm, SB3Config
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.errors import ConfigError
from ludus.envs.vector import Row, VectorEnv
from ludus.networks.encoders import make_encoder
from ludus.networks.names import Activation, EncoderName


def algorithm_class(name: Algorithm) -> type[BaseAlgorithm]:
    """Return SB3's class of that name.

    Raises:
        ConfigError: it belongs to sb3-contrib, which is not installed.
    """
    classes: dict[str, type[BaseAlgorithm]] = {
        "dqn": DQN,
        "ppo": PPO,
        "a2c": A2C,
        "sac": SAC,
        "td3": TD3,
    }
    if name in classes:
        return classes[name]
    try:
        from sb3_contrib import QRDQN, RecurrentPPO
    except ImportError as error:
        raise ConfigError(
            f"sb3:{name} needs sb3-contrib; install it with pip install -e '.[contrib]'"
        ) from error
    return QRDQN if name == "qrdqn" else RecurrentPPO


class StreamVecEnv(VecEnv):
    """Adapts our vector env to SB3's VecEnv: SAME_STEP resets, terminal observation in `infos`.

    Args:
        env: the env; it is reset by SB3.
        clip_reward: clip rewards to [-1, 1]; `infos[i]["episode"]` stays unclipped.
        on_row: called with every row.
    """

    def __init__(
        self,
        env: VectorEnv,
        clip_reward: bool = False,
        on_row: Callable[[Row], None] | None = None,
    ) -> None:
        super().__init__(env.num_envs, env.observation_space, env.action_space)
        self._env, self._clip, self._on_row = env, clip_reward, on_row

    def reset(self) -> np.ndarray:
        """Start a new episode in every env."""
        return self._env.reset().obs

    def step_async(self, actions: np.ndarray) -> None:
        """Start one step."""
        self._env.send(actions)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Finish the step and reset the envs whose game is over at once, as SB3 expects."""
        row = self._env.recv()
        if self._on_row is not None:
            self._on_row(row)
        done = row.terminated | row.game_over
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(done):
            infos[i]["terminal_observation"] = row.obs[i]
            infos[i]["TimeLimit.truncated"] = bool(row.truncated[i] and not row.terminated[i])
            if row.game_over[i]:
                episode = {"r": float(row.episode_return[i]), "l": int(row.episode_length[i])}
                infos[i]["episode"] = episode
        obs = self._env.reset_over() if row.game_over.any() else row.obs
        reward = np.clip(row.reward, -1, 1) if self._clip else row.reward
        return obs, reward, done, infos

    def close(self) -> None:
        """Leave the env open: it belongs to the caller."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the whole env once for each index."""
        value = None if attr_name == "render_mode" else getattr(self._env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raise an error: the vector env has no attributes to set."""
        raise AttributeError(f"{attr_name} cannot be set on a vector env")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        """Raise an error: the vector env has no methods of single envs."""
        raise AttributeError(f"{method_name} cannot be called on a vector env")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Report a Monitor: episode returns are already in `infos`."""
        return [wrapper_class.__name__ == "Monitor" for _ in self._get_indices(indices)]


class _Encoder(BaseFeaturesExtractor):
    """Adapts our encoder and the head's hidden layer to SB3's features extractor."""

    def __init__(
        self,
        observation_space: spaces.Box,
        name: EncoderName,
        hidden: tuple[int, ...],
        head_hidden: int,
        activation: Activation,
    ) -> None:
        encoder = make_encoder(name, observation_space, hidden, activation=activation)
        for parameter in encoder.parameters():  # SB3's initialisation takes no other layout
            parameter.data = parameter.data.contiguous()
        dim = head_hidden or encoder.dim
        super().__init__(observation_space, dim)
        self.layers = nn.Sequential(encoder)
        if head_hidden:
            self.layers.extend([nn.Linear(encoder.dim, dim), nn.ReLU()])
        self._bytes = observation_space.dtype == np.uint8

    def forward(self, observations: Tensor) -> Tensor:  # [N, *obs] to [N, dim]
        # SB3 passes bytes as floats
        return self.layers(observations.to(torch.uint8) if self._bytes else observations)


class _LogWriter(KVWriter):
    """Passes SB3's log to a function."""

    def __init__(self, write: Callable[[dict[str, float], int], None]) -> None:
        self._write = write

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        numbers = {k: float(v) for k, v in key_values.items() if isinstance(v, int | float)}
        wanted = ("train/", "rollout/exploration_rate")  # Ludus logs the returns itself
        self._write({k: v for k, v in numbers.items() if k.startswith(wanted)}, step)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


class _OnStep(BaseCallback):
    """Calls a function with the env steps so far; False stops the training."""

    def __init__(self, function: Callable[[int], bool]) -> None:
        super().__init__()
        self._function = function

    def _on_step(self) -> bool:
        return self._function(self.num_timesteps)


class SB3Agent:
    """An SB3 model that trains with `fit` and then acts like any other agent."""

    def __init__(
        self,
        config: SB3Config,
        observation_space: spaces.Box,
        action_space: spaces.Space[Any],
        device: torch.device,
        seed: int,
    ) -> None:
        self.config, self._device, self._seed = config, device, seed
        self._spaces = (observation_space, action_space)
        self.env_steps = self.updates = 0
        self._model: BaseAlgorithm | None = None

    def _policy(self) -> str:
        return "MlpLstmPolicy" if self.config.algorithm == "recurrent_ppo" else "MlpPolicy"

    def _make(self, env: VecEnv, steps: int) -> BaseAlgorithm:
        c, arguments = self.config, dict(self.config.arguments)
        exploration = arguments.pop("exploration_steps", None)
        if exploration is not None:  # SB3 expects a fraction of the training
            arguments["exploration_fraction"] = min(1.0, exploration / steps)
        if "buffer_size" in arguments:  # SB3 allocates all of it at once, needed or not
            arguments["buffer_size"] = max(1, min(arguments["buffer_size"], steps))
        if "minibatches" in arguments:
            rows = arguments["n_steps"] * env.num_envs
            arguments["batch_size"] = rows // arguments.pop("minibatches")
        for name in arguments.pop("anneal", ()):
            arguments[name] = LinearSchedule(arguments[name], 0.0, 1.0)
        extractor = {
            "name": c.encoder,
            "hidden": c.hidden,
            "head_hidden": c.head_hidden,
            "activation": c.activation,
        }
        policy: dict[str, Any] = {
            "features_extractor_class": _Encoder,
            "features_extractor_kwargs": extractor,
            "normalize_images": False,  # our encoder scales its input
            "net_arch": [],
        }
        if c.algorithm in CONTINUOUS:  # the critics' network takes the actions, too
            policy = {"net_arch": list(c.hidden)}
        if "noise" in arguments:
            size = env.action_space.shape
            assert size is not None
            deviation = np.full(size, arguments.pop("noise"))
            arguments["action_noise"] = NormalActionNoise(np.zeros(size), deviation)
        if not c.shared:
            policy["share_features_extractor"] = False
        if "n_quantiles" in arguments:
            policy["n_quantiles"] = arguments.pop("n_quantiles")
        model: Any = algorithm_class(c.algorithm)
        try:
            return model(
                self._policy(),
                env,
                policy_kwargs=policy,
                device=self._device,
                seed=self._seed % 2**32,
                **arguments,
            )
        except (AssertionError, ValueError, TypeError) as error:
            text = " ".join(str(error).split())
            raise ConfigError(f"sb3:{c.algorithm} rejects its configuration: {text}") from error

    def model_on(
        self, env: VectorEnv, steps: int, on_row: Callable[[Row], None] | None = None
    ) -> BaseAlgorithm:
        """Return SB3's model on our env, for a training of `steps` env steps."""
        return self._make(StreamVecEnv(env, self.config.clip_reward, on_row), steps)

    def fit(
        self,
        env: VectorEnv,
        steps: int,
        *,
        on_row: Callable[[Row], None],
        on_step: Callable[[int], bool],
        write: Callable[[dict[str, float], int], None],
    ) -> None:
        """Train with SB3's own loop.

        Args:
            env: a fresh env.
            steps: env steps to train for.
            on_row: called with every row of the stream.
            on_step: called with the env steps so far; False stops the training.
            write: called with SB3's log values and the env step.
        """
        model = self.model_on(env, steps, on_row)
        model.set_logger(Logger(None, [_LogWriter(write)]))
        self._model = model

        def count(done: int) -> bool:
            self.env_steps = done
            self.updates = int(getattr(model, "_n_updates", 0))
            return on_step(done)

        model.learn(steps, callback=_OnStep(count), log_interval=4)
        self.updates = int(getattr(model, "_n_updates", 0))

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return actions and the next state, see SB3."""
        assert self._model is not None, "the agent has neither been trained nor loaded"
        obs, _, single = as_batch(observation, episode_start, self._spaces[0])
        actions, state = self._model.predict(obs, state, episode_start, deterministic)
        return (actions[0] if single else actions), state

    @torch.no_grad()
    def advise(
        self, observation: Observation, state: Any = None, episode_start: np.ndarray | None = None
    ) -> tuple[Advice, Any]:
        """Return action values of DQN and QR-DQN, policy and value of PPO and A2C, and values."""
        assert self._model is not None, "the agent has neither been trained nor loaded"
        obs, _, _ = as_batch(observation, episode_start, self._spaces[0])
        action, state = self.predict(obs, state, episode_start, deterministic=True)
        policy: Any = self._model.policy
        unknown = np.full(len(action), np.nan, np.float32)
        if self.config.algorithm == "recurrent_ppo":
            return Advice(action, unknown, None, None), state
        policy.set_training_mode(False)
        if self.config.algorithm in CONTINUOUS:
            observed, _ = policy.obs_to_tensor(obs)
            taken = torch.as_tensor(policy.scale_action(action), device=self._device)
            values = torch.cat(policy.critic(observed, taken), 1)  # [B, 2]
            return Advice(action, values.amin(1).cpu().numpy(), None, None), state
        batch = policy.obs_to_tensor(obs)[0]
        if self.config.algorithm in ("dqn", "qrdqn"):
            net = policy.q_net if self.config.algorithm == "dqn" else policy.quantile_net
            out = net(batch)  # [B, A], or quantiles [B, K, A]
            q = (out if out.ndim == 2 else out.mean(1)).cpu().numpy()
            return Advice(action, q.max(-1), q, None), state
        value = policy.predict_values(batch)[:, 0].cpu().numpy()
        distribution = policy.get_distribution(batch).distribution
        categorical = isinstance(distribution, torch.distributions.Categorical)
        probability = distribution.probs.cpu().numpy() if categorical else None
        return Advice(action, value, None, probability), state

    def weights(self) -> dict[str, Tensor]:
        """Return the policy's parameters by name."""
        return {} if self._model is None else dict(self._model.policy.state_dict())

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load tensors returned by `weights`."""
        if self._model is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # about buffers that are never filled
                self._model = self._make(_SpacesOnly(self._spaces[0], self._spaces[1]), 1)
        self._model.policy.load_state_dict(weights)


class _SpacesOnly(StreamVecEnv):
    """Spaces without an env, to rebuild a policy."""

    def __init__(self, observation_space: spaces.Box, action_space: spaces.Space[Any]) -> None:
        VecEnv.__init__(self, 1, observation_space, action_space)


def build(
    config: SB3Config,
    env: EnvLike,
    *,
    device: torch.device,
    seed: int,
    steps: int,
    training: bool = True,
) -> SB3Agent:
    """Build a fresh SB3 agent, see `registry.build`; SB3's model is made when it is trained."""
    space = env.observation_space
    if isinstance(space, PackedDict) and MASK in space.parts:
        raise ConfigError(
            f"{env.env_id} has an {MASK}, which SB3's agents ignore; choose one of ours"
        )
    return SB3Agent(config, space, env.action_space, device, seed)


def reference(
    algorithm: type[DQN] | type[PPO],
    env_id: str,
    env: VectorEnv | int,
    arguments: dict[str, Any],
    device: torch.device,
    seed: int,
) -> DQN | PPO:
    """Return SB3's algorithm with SB3's own network, for speed measurements.

    Args:
        algorithm: SB3's class.
        env_id: an Atari `...NoFrameskip-v4` id or a classic one.
        env: our env to run on, or the number of SB3's own envs.
        arguments: of the algorithm.
        device: where the network lives.
        seed: of everything.
    """
    atari = "NoFrameskip" in env_id
    made: VecEnv
    if isinstance(env, VectorEnv):
        made = StreamVecEnv(env, clip_reward=atari)
    elif atari:
        made = VecFrameStack(make_atari_env(env_id, n_envs=env, seed=seed), n_stack=4)
    else:
        made = make_vec_env(env_id, n_envs=env, seed=seed)
    policy = "CnnPolicy" if atari else "MlpPolicy"
    return algorithm(policy, made, device=device, seed=seed, **arguments)
