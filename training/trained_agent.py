"""The agent that `ludus.train` and `ludus.load` return, with the configuration of its training."""

from pathlib import Path
from typing import Any

import numpy as np

from ludus.agents.agent import Advice, Advisor, AnyAgent
from ludus.envs.errors import RunError
from ludus.training.agent_file import save_agent
from ludus.training.export import Format, OneStep, export
from ludus.training.run import Run, RunConfig
from ludus.training.train import open_source


class TrainedAgent:
    """An agent that acts, with the configuration that it was trained with.

    Args:
        algorithm: the agent itself, with its network, configuration and weights.
        config: of its training: agent, env, options and protocol.
        env_steps: env steps (decisions) that it has learned from.
        run: the run folder; None if it was loaded from a file.
    """

    def __init__(
        self, algorithm: AnyAgent, config: RunConfig, env_steps: int, run: Run | None
    ) -> None:
        self.algorithm, self.config, self.env_steps, self.run = algorithm, config, env_steps, run

    def __repr__(self) -> str:
        """Return agent, env and steps."""
        c = self.config
        where = "" if self.run is None else f", run {self.run.path}"
        return f"<{c.agent} on {c.env}, {self.env_steps:,} {c.train.unit}{where}>"

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Choose actions, with the signature of SB3's `predict`.

        Args:
            observation: one observation [*obs] or a batch [B, *obs], as the env returns them.
            state: what the last call returned; None at first.
            episode_start: [B], True where an episode begins.
            deterministic: take the most probable action, or do not explore.

        Returns:
            Actions [*action] or [B, *action], and the recurrent state, None without one.
        """
        return self.algorithm.predict(observation, state, episode_start, deterministic)

    def advise(
        self, observation: Any, state: Any = None, episode_start: np.ndarray | None = None
    ) -> tuple[Advice, Any]:
        """Assess observations [B, *obs]: values, probabilities and visits of each action.

        Raises:
            RunError: the agent is of another library, or its actions are continuous.
        """
        if not isinstance(self.algorithm, Advisor):
            raise RunError(f"{self.config.agent} does not assess actions; use predict")
        return self.algorithm.advise(observation, state, episode_start)

    def save(self, path: Path | str) -> None:
        """Save weights, configuration and protocol as one file, without pickle.

        `ludus.load` reads it on any machine. A training cannot go on from it: that needs the run
        folder, with the memory and the optimizer.

        Raises:
            RunError: the file cannot be written.
        """
        save_agent(Path(path), self.config, self.algorithm.weights(), self.env_steps)

    def export(self, path: Path | str, form: Format = "onnx") -> OneStep:
        """Write the network to a file that runs without Ludus, in place of one of that name.

        Args:
            path: of the file.
            form: onnx, torch (`torch.export.load` reads it), or safetensors, which is `save`.

        Returns:
            What the file does: its `inputs()` and `outputs()`.

        Raises:
            RunError: the agent has no network of Ludus, a package is missing, or the network has
                an operation that the format lacks.
        """
        source = open_source(self.config)
        source.close()
        return export(
            self.algorithm,
            self.config,
            self.env_steps,
            source.observation_space,
            source.action_space,
            Path(path),
            form,
        )
