"""What a training says of itself when it begins."""

from collections.abc import Mapping
from typing import Any

from ludus.evaluation.evaluate import step_limit, without_limit
from ludus.networks.scale import describe_scale
from ludus.training.gang import Gang
from ludus.training.mode import Mode
from ludus.training.run import Run, RunConfig


def header(config: RunConfig, mode: Mode, run: Run, gang: Gang) -> list[str]:
    """Return the lines that a training begins with: what it learns, where and how."""
    t = config.train
    protocol = ", ".join(f"{name} {value}" for name, value in config.protocol.items())
    lines = [f"{config.agent} on {config.env} ({protocol})"]
    encoder = getattr(config.config, "encoder", None)
    if encoder is not None:
        lines.append(f"encoder {encoder}, {describe_scale(mode.source.observation_space)}")
    lines += mode.sentences()
    limit = step_limit(config.protocol, t.eval_max_episode_steps)
    if t.eval_episodes and not t.eval_max_episode_steps and limit is not None:
        lines.append(without_limit(config.env, limit, "eval-max-episode-steps"))
    if gang.size > 1:
        lines.append(f"{gang.size} ranks with {t.num_envs // gang.size} envs each")
    if t.ray is not None:
        hosts = f"{t.hosts} processes" if t.hosts else "one process on each machine"
        lines.append(f"the envs run in {hosts} of the Ray cluster {t.ray}")
    return [*lines, f"run folder {run.path}, device {t.device}"]


def resumed(
    run: Run,
    config: RunConfig,
    done: int,
    changed: Mapping[str, tuple[Any, Any]],
    moved_from: str | None,
) -> list[str]:
    """Return the lines that a training goes on with.

    Args:
        run: its folder.
        config: with which it goes on.
        done: what it has done, in the unit of its steps.
        changed: the settings that have changed, old and new.
        moved_from: the device that it was saved on, if it is another one.
    """
    t = config.train
    lines = [f"resumed {run.path} at {done:,} {t.unit}"]
    if changed:
        named = [f"{name} from {old} to {new}" for name, (old, new) in changed.items()]
        lines.append(f"changed: {', '.join(named)}")
    if moved_from is not None:
        lines.append(
            f"it was saved on {moved_from} and continues on {t.device}: from the same state, but "
            "not bit for bit, and with other random numbers"
        )
    return lines
