"""Tune the configuration of an agent with Optuna.

A trial is one configuration, trained with several seeds. Its score at a rung, a number of env
steps, is the interquartile mean over the games of all its trainings there. Trainings are run
folders and go on from rung to rung, with the schedules of their whole length, unless the pruner
ends the trial.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ludus.agents import registry
from ludus.comparison.aggregates import iqm
from ludus.comparison.executor import MOST_LOSSES, Ended, Executor, Task
from ludus.comparison.jobs import make_executor
from ludus.comparison.search_space import params_of, search_space
from ludus.envs.errors import ConfigError, RunError
from ludus.envs.make import EnvOptions, make
from ludus.envs.trust import consent_arguments, modules_of, trust_modules
from ludus.training import progress
from ludus.training.device import device_of
from ludus.training.lock import FileLock
from ludus.training.run import Run, RunConfig, TrainOptions

_POLL_SECONDS = 0.25
_STARTUP_TRIALS = 8  # that are random, and that no pruner ends

Pruner = Literal["median", "halving", "none"]


@dataclass(frozen=True)
class TunePlan:
    """What is tuned, and how."""

    agent: str
    env: str
    options: EnvOptions
    steps: int
    """env steps of a training"""
    trials: int
    seeds: int
    """trainings of each trial, with the same seeds in all trials"""
    first_seed: int
    rungs: int
    """times that a trial is scored: after its last steps, after half of them, and so on"""
    episodes: int
    """held-out games of each training at each rung"""
    pruner: Pruner
    space: Sequence[str]
    fix: Sequence[str]
    seed: int
    """of the sampler"""
    folder: Path
    """of the runs, the study and the results"""
    storage: str | None
    """sqlite:///FILE or journal:FILE; None for a journal in the folder"""
    device: str
    jobs: int
    ray: str | None
    quiet: bool
    """show no progress"""

    def executor(self) -> Executor:
        """Return what runs the trainings."""
        return make_executor(self.ray, self.jobs, self.seeds, device_of(self.device).type)

    def rung_steps(self, rung: int) -> int:
        """Return the env steps of a rung, which are numbered from 0."""
        return self.steps >> (self.rungs - 1 - rung)


@dataclass
class _Trial:
    """A trial that runs."""

    trial: Any  # optuna.Trial
    runs: list[Run]
    rung: int = 0
    waiting: list[Run] = field(default_factory=list)
    running: dict[Path, Task] = field(default_factory=dict)
    retried: set[Path] = field(default_factory=set)
    losses: int = 0


class Tuning:
    """One study, which an interrupted command goes on with.

    Args:
        plan: what is tuned.
        report: called with a line for the user.

    Raises:
        RunError: optuna is not installed, or the storage cannot be used.
        ConfigError, EnvError: agent, env or space cannot work.
    """

    def __init__(self, plan: TunePlan, report: Callable[[str], None]) -> None:
        self.plan, self._report = plan, report
        trust_modules(modules_of(plan.env, plan.options.wrapper))  # the caller named them
        if registry.trains_itself(plan.agent):
            raise RunError(f"{plan.agent} cannot be resumed from rung to rung; tune one of ours")
        env = make(plan.env, 1, 0, plan.options)
        try:
            preset = registry.preset(plan.agent, env)
            self._protocol, self._num_envs = env.protocol, preset.num_envs
        finally:
            env.close()
        self.preset, self.space = search_space(preset.config, plan.space, plan.fix)
        if plan.rung_steps(0) < 1:
            raise ConfigError(
                f"rungs is {plan.rungs}; {plan.steps} steps are too few to halve them"
            )
        self._optuna = _optuna()
        self.study = self._open()
        self._active: list[_Trial] = []

    def _open(self) -> Any:
        """Open the study, and let the preset be its first trial."""
        plan, optuna = self.plan, self._optuna
        try:
            plan.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            text = f"the folder {plan.folder} cannot be made: {error.strerror}"
            raise RunError(text) from error
        name = plan.storage or f"journal:{plan.folder / 'study.log'}"
        try:
            storage: Any = name
            if name.startswith("journal:"):
                backend = optuna.storages.journal.JournalFileBackend(name.removeprefix("journal:"))
                storage = optuna.storages.JournalStorage(backend)
            elif not name.startswith("sqlite:///"):
                raise RunError(f"storage is {name}; it must be sqlite:///FILE or journal:FILE")
            study = optuna.create_study(
                storage=storage,
                study_name=f"{plan.agent} on {plan.env}",
                direction="maximize",
                load_if_exists=True,
                pruner=self._pruner(),
            )
        except RunError:
            raise
        except Exception as error:  # of SQLAlchemy, of the file system, of Optuna
            text = str(error).strip().splitlines()[0]
            raise RunError(f"the storage {name} cannot be used: {text}") from error
        settings = self._settings()
        known = study.user_attrs.get("settings")
        if known is not None and known != settings:
            differ = [key for key in settings if known.get(key) != settings[key]]
            raise RunError(
                f"the study in {name} was begun with another {', '.join(differ)}; use the same, or "
                "another --out"
            )
        if known is None:
            study.set_user_attr("settings", settings)
            params = params_of(self.space, self.preset)
            if params is not None:
                study.enqueue_trial(params)
        return study

    def _settings(self) -> dict[str, Any]:
        """Return what all trials of a study have in common."""
        p = self.plan
        return {
            "preset": json.loads(json.dumps(asdict(self.preset))),
            "space": {name: str(dimension) for name, dimension in self.space.items()},
            "steps": p.steps,
            "seeds": [p.first_seed + number for number in range(p.seeds)],
            "rungs": p.rungs,
            "episodes": p.episodes,
            "pruner": p.pruner,
            "seed": p.seed,
        }

    def _pruner(self) -> Any:
        pruners = self._optuna.pruners
        match self.plan.pruner:
            case "median":
                return pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS)
            case "halving":
                first = self.plan.rung_steps(0)
                return pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=2)
            case "none":
                return pruners.NopPruner()

    def run(self) -> None:
        """Run the trials that are left.

        Raises:
            RunError: another process runs them.
            KeyboardInterrupt: on a signal, after every training has saved and ended.
        """
        lock, executor = FileLock(self.plan.folder / ".lock"), self.plan.executor()
        try:
            lock.acquire()
            self._take_up()
            total, done = self.plan.trials * self._trial_steps, self._done()
            with progress.task(
                "tuning", total, "env steps", done=done, quiet=self.plan.quiet
            ) as show:
                while self._fill(executor):
                    time.sleep(_POLL_SECONDS)
                    for each in list(self._active):
                        self._collect(each)
                    show(self._done(), f"trial {self._asked()} of {self.plan.trials}")
        finally:
            tasks = [task for each in self._active for task in each.running.values()]
            for task in tasks:
                task.terminate()
            for task in tasks:
                task.wait()
            executor.close()
            lock.release()

    @property
    def _trial_steps(self) -> int:
        """The env steps of a trial that is not pruned."""
        return self.plan.seeds * self.plan.steps

    def _done(self) -> int:
        """Return the env steps that are done, or that a trial which has ended leaves out."""
        ended = self._asked() - len(self._active)
        running = [run.status().env_steps for each in self._active for run in each.runs]
        return ended * self._trial_steps + sum(running)

    def _take_up(self) -> None:
        """Go on with the trials that an interruption has left."""
        states, trials = self._optuna.trial.TrialState, self._optuna.trial
        for frozen in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            trial = trials.Trial(self.study, frozen._trial_id)
            folders = [self.plan.folder / name for name in frozen.user_attrs.get("runs", ())]
            if not folders or not all((folder / "config.json").is_file() for folder in folders):
                self.study.tell(trial, state=states.FAIL)
                continue
            each = _Trial(trial, [Run(folder) for folder in folders])
            scored = len(frozen.intermediate_values)
            if scored:  # the last rung is decided again
                each.rung = scored - 1
            else:
                each.waiting = list(each.runs)
            self._active.append(each)

    def _fill(self, executor: Executor) -> bool:
        """Start trainings where there is room, of the oldest trials first; return whether any run.

        A new trial begins only when all trainings of those before run.
        """
        while sum(len(each.running) for each in self._active) < executor.parallel:
            each = next((each for each in self._active if each.waiting), None)
            if each is None:
                if self._asked() >= self.plan.trials:
                    break
                self._ask()
                continue
            run = each.waiting.pop(0)
            each.running[run.path] = executor.start(self._command(each, run), run.path)
        return bool(self._active)

    def _asked(self) -> int:
        """Return how many trials have begun."""
        waiting = self._optuna.trial.TrialState.WAITING
        return sum(t.state != waiting for t in self.study.get_trials(deepcopy=False))

    def _ask(self) -> None:
        """Begin a trial: sample its values and make the folders of its runs."""
        plan, number = self.plan, self._asked()
        # a sampler of its own for each trial, so that an interruption changes nothing
        self.study.sampler = self._optuna.samplers.TPESampler(
            seed=(plan.seed * 1_000_003 + number) % (1 << 32),
            n_startup_trials=_STARTUP_TRIALS,
            multivariate=True,
            constant_liar=True,
        )
        trial = self.study.ask()
        values = {name: dim.suggest(trial, name) for name, dim in self.space.items()}
        try:
            config = replace(self.preset, **values)
        except ConfigError as error:
            self._fail(trial, str(error))
            return
        seeds = range(plan.first_seed, plan.first_seed + plan.seeds)
        runs = [Run.create(plan.folder, self._run_config(config, seed)) for seed in seeds]
        trial.set_user_attr("runs", [str(run.path.relative_to(plan.folder)) for run in runs])
        trial.set_user_attr("values", values)
        self._active.append(_Trial(trial, runs, waiting=list(runs)))

    def _command(self, each: _Trial, run: Run) -> list[str]:
        """Return the command that trains a run up to the next rung."""
        steps, config = self.plan.rung_steps(each.rung), run.config()
        until = 0 if steps >= self.plan.steps else steps
        command = ["train", "--resume", str(run.path.absolute()), "--until", str(until), "--quiet"]
        return [*command, *consent_arguments(config.env, config.imported)]

    def _collect(self, each: _Trial) -> None:
        """Take up what has ended of a trial, and decide at a rung."""
        for path, task in list(each.running.items()):
            ended = task.ended()
            if ended is None:
                continue
            del each.running[path]
            problem = self._problem(each, path, ended)
            if problem is not None:
                self._stop(each)
                self._fail(each.trial, problem)
                return
        if not each.running and not each.waiting:
            self._decide(each)

    def _problem(self, each: _Trial, path: Path, ended: Ended) -> str | None:
        """Return why a trial has failed, or None if it goes on; a failure is tried once more."""
        if ended.code == 0:
            return None
        what = ended.problem
        if ended.code is None and each.losses < MOST_LOSSES:
            each.losses += 1
        elif path in each.retried:
            return what
        else:
            each.retried.add(path)
            self._report(f"trial {each.trial.number + 1}: {what}; trying {path} once more")
        each.waiting.append(Run(path))
        return None

    def _decide(self, each: _Trial) -> None:
        """Report the score of a rung, and end the trial or go on to the next one."""
        steps, states = self.plan.rung_steps(each.rung), self._optuna.trial.TrialState
        score = float(iqm(np.concatenate([run.returns_after(steps) for run in each.runs])))
        if steps not in self.study.trials[each.trial.number].intermediate_values:
            each.trial.report(score, steps)
        if each.rung == self.plan.rungs - 1:
            self._active.remove(each)
            self.study.tell(each.trial, score)
            best = self.study.best_trial
            first = best.number == each.trial.number
            other = f"the best is {best.value:.1f}, of trial {best.number + 1}"
            self._say(each, f"{score:.1f}, {'the best so far' if first else other}")
        elif each.trial.should_prune():
            self._stop(each)
            self.study.tell(each.trial, state=states.PRUNED)
            for run in each.runs:
                run.write_status(replace(run.status(), state="pruned"))
            self._say(each, f"{score:.1f} after {steps:,} steps, pruned")
        else:
            each.rung += 1
            each.waiting = list(each.runs)

    def _say(self, each: _Trial, what: str) -> None:
        values = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.study.trials[each.trial.number].user_attrs["values"].items()
        )
        self._report(f"trial {each.trial.number + 1} of {self.plan.trials}: {what} ({values})")

    def _stop(self, each: _Trial) -> None:
        self._active.remove(each)
        for task in each.running.values():
            task.terminate()
        for task in each.running.values():
            task.wait()

    def _fail(self, trial: Any, problem: str) -> None:
        trial.set_user_attr("error", problem)
        self.study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        self._report(f"trial {trial.number + 1} of {self.plan.trials}: failed: {problem}")

    def best(self) -> Any | None:
        """Return the best trial that was trained to its end; None if there is none."""
        complete = self._optuna.trial.TrialState.COMPLETE
        done = self.study.get_trials(deepcopy=False, states=(complete,))
        return max(done, key=lambda t: t.value, default=None)

    def final_configs(self, best: Any, seeds: int) -> list[RunConfig]:
        """Return trainings of the preset and of the best trial, with seeds that no trial has.

        There are none if the best trial is the preset.
        """
        chosen = self.config_of(best)
        if chosen == self.preset:
            self._report("no trial was better than the preset, so there is nothing to compare")
            return []
        first = self.plan.first_seed + self.plan.seeds
        return [
            self._run_config(config, seed)
            for seed in range(first, first + seeds)
            for config in (self.preset, chosen)
        ]

    def _run_config(self, config: Any, seed: int) -> RunConfig:
        """Return everything that reproduces a training."""
        plan = self.plan
        options = TrainOptions(
            steps=plan.steps,
            seed=seed,
            num_envs=self._num_envs,
            device=device_of(plan.device).type,
            eval_episodes=plan.episodes,
            video_every=0,
        )
        return RunConfig(plan.agent, plan.env, options, plan.options, config, self._protocol)

    def config_of(self, trial: Any) -> Any:
        """Return the configuration of a trial."""
        return replace(self.preset, **trial.user_attrs["values"])

    def settings_of(self, trial: Any) -> dict[str, Any]:
        """Return a trial as `ludus train --config FILE` takes it."""
        plan, options = self.plan, asdict(self.plan.options)
        changed = {k: v for k, v in options.items() if v != getattr(EnvOptions(), k)}
        return {
            "agent": plan.agent,
            "env": plan.env,
            "steps": plan.steps,
            "num_envs": self._num_envs,
            **changed,
            **asdict(self.config_of(trial)),
        }


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise RunError(
            "tune needs the package optuna; run pip install -e '.[cluster]' in the checkout"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
