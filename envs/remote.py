"""Envs on other machines: Ray actors as a `Backend`, as in SEED RL (arXiv 1910.06591).

Policy and learner stay in the trainer. A row costs one call of each host; the hosts step at once,
and each answers with one array of single frames, which the trainer stacks.

A running episode follows from its seed and its actions. So a host that is lost costs time only:
another one repeats the episodes, and the training goes on bit for bit.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import spaces

from ludus.envs.deadline import waits
from ludus.envs.env_object import PREFIX
from ludus.envs.errors import EnvError
from ludus.envs.host import EnvFailure, HostSpaces, Recipe, host_versions, record_type
from ludus.envs.host_calls import HostLost, LocalHost, RayHost
from ludus.envs.make import EnvOptions, make
from ludus.envs.ray_cluster import RayCluster
from ludus.envs.stack import FrameStack
from ludus.envs.vector import (
    ActionCheck,
    ActionHistory,
    Backend,
    BackendStep,
    VectorEnv,
    replay,
)

_MARGIN_SECONDS = 5.0  # after which a host is given up that did not say that an env hangs
_CLOSE_SECONDS = 5.0
_MOST_DEATHS = 3  # of hosts that repeat the same steps


@dataclass(frozen=True)
class EnvHosts:
    """Where env hosts are to be had.

    Args:
        cluster: the cluster.
        count: number of hosts.
        patience: seconds to wait for a host.
        report: called with a sentence for the user.
    """

    cluster: RayCluster
    count: int
    patience: float
    report: Callable[[str], None]

    def half(self) -> "EnvHosts":
        """Return the hosts of one of two halves of the envs.

        Raises:
            EnvError: their number is odd.
        """
        if self.count % 2:
            raise EnvError(f"hosts is {self.count}; two halves of the envs need an even number")
        return replace(self, count=self.count // 2)


class _Place:
    """Some of the envs: their host, and what another one would need in its place.

    Args:
        recipe: of the envs.
        num_envs: their number, n.
        first_env: number of the first of them within the training.
        hosts: where they run.
    """

    def __init__(self, recipe: Recipe, num_envs: int, first_env: int, hosts: EnvHosts) -> None:
        self.num_envs, self.failing = num_envs, False
        self._arguments, self._at = (recipe, num_envs, first_env), hosts
        self._seconds = recipe.options.timeout + _MARGIN_SECONDS
        self.name = f"envs {first_env} to {first_env + num_envs - 1}"
        self._first = self._start()
        self._host: RayHost | LocalHost = self._first

    def _start(self) -> RayHost:
        """Ask for a host, and let it make the envs."""
        host = RayHost(self._at.cluster, *self._arguments)
        host.ask("open")
        return host

    def _await(self, host: RayHost, limit: Iterator[float]) -> tuple[RayHost, HostSpaces]:
        """Return a host with its envs: this one, or another if it is lost before.

        Raises:
            HostLost: there is none until the limit.
        """
        while True:
            try:
                return host, _checked(host.answer(limit))
            except HostLost:  # perhaps with a machine that the cluster does not know to be lost
                host.end()
                wait = next(limit, None)
                if wait is None:
                    raise
                time.sleep(wait)
                host = self._start()

    def opened(self, limit: Iterator[float]) -> HostSpaces:
        """Wait for the first host.

        Raises:
            EnvError: the envs cannot be made, or there is no host for them.
        """
        try:
            self._host, spaces = self._await(self._first, limit)
        except HostLost as lost:
            raise EnvError(
                f"no host for {self.name} within {self._at.patience:g} s: {lost}; the cluster has "
                f"{self._at.cluster.resources()}, and each of {self._at.count} hosts takes one"
            ) from lost
        check = ActionCheck(spaces.action_space, self.num_envs, self._arguments[0].env_id)
        self._idle = check.low.astype(check.dtype)
        self._history = ActionHistory(self.num_envs, check.shape, check.dtype)
        self._seeds = np.zeros(self.num_envs, np.int64)  # [n] of the running episodes
        return spaces

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> None:
        """Start new episodes where mask [n] is true, from seeds [n]; `records` completes it."""
        self._history.begin(mask)
        self._seeds[mask] = seeds[mask]
        self._host.ask("reset", mask, self._seeds)

    def step(self, actions: np.ndarray, begins: np.ndarray | None, seeds: np.ndarray) -> None:
        """Start one step, see `EnvHost.step`; `records` completes it."""
        self._history.record(actions, np.ones(self.num_envs, bool))
        if begins is not None:
            self._history.begin(begins)
            self._seeds[begins] = seeds[begins]
        self._host.ask("step", actions, begins, self._seeds)

    def records(self) -> np.ndarray:
        """Return what `reset` or `step` has led to, [n] records, if need be on another host.

        Raises:
            EnvError: an env raises an error, whose index is the env's within this place.
        """
        try:
            answer = self._host.answer(waits(self._seconds))
        except HostLost as lost:
            answer = self._rebuild(str(lost))
        return _result(answer)

    def picture(self, index: int) -> np.ndarray:
        """Return an image of one env, [height, width, 3] uint8."""
        self._host.ask("render", index)
        try:
            return _result(self._host.answer(waits(self._seconds)))
        except HostLost as lost:
            raise EnvError(f"its host was lost: {lost}", index) from lost

    def _rebuild(self, reason: str) -> np.ndarray | EnvFailure:
        """Let another host repeat the running episodes; return its answer to the last call."""
        report, steps = self._at.report, int(self._history.length.max())
        report(f"the host of {self.name} is lost: {reason}; another repeats {steps:,} steps")
        deaths = 0
        self._host.end()
        while True:
            try:
                host, _ = self._await(self._start(), waits(self._at.patience))
            except HostLost:
                return self._go_on_here()
            try:
                answer = self._repeat(host)
            except HostLost as lost:
                host.end()
                deaths += 1
                if deaths == _MOST_DEATHS:
                    raise EnvError(
                        f"killed {deaths} hosts one after the other in the same {steps:,} steps"
                    ) from lost
            else:
                self._host = host
                report(f"another host goes on with {self.name}")
                return answer

    def _go_on_here(self) -> np.ndarray | EnvFailure:
        """Repeat the running episodes in this process, so that the training can be saved."""
        self.failing, self._host = True, LocalHost(*self._arguments)
        self._host.ask("open")
        _checked(self._host.answer(iter(())))
        return self._repeat(self._host)

    def _repeat(self, host: RayHost | LocalHost) -> np.ndarray | EnvFailure:
        """Repeat the running episodes; return the host's last answer.

        Raises:
            HostLost: this host, too.
        """
        answer: np.ndarray | EnvFailure | None = None
        for each in replay(self._history.length, self._history.actions(), self._idle):
            if each.begins.any():
                host.ask("reset", each.begins, self._seeds)
                answer = host.answer(waits(self._seconds))
            if each.actions is not None and not isinstance(answer, EnvFailure):
                host.ask("step", each.actions, None, self._seeds)
                answer = host.answer(waits(self._seconds))
            if isinstance(answer, EnvFailure):
                return answer
        assert answer is not None, "a host was asked before the first reset"
        return answer

    def close(self) -> None:
        """Let the envs close, and end the host."""
        try:
            self._host.ask("close")
            self._host.answer(waits(_CLOSE_SECONDS))
        except HostLost:
            pass
        self._host.end()


def _checked(answer: HostSpaces | EnvFailure) -> HostSpaces:
    """Return what a host says of its envs.

    Raises:
        EnvError: they cannot be made, or it has other versions.
    """
    if isinstance(answer, EnvFailure):
        raise EnvError(answer.problem)
    for name, ours in host_versions().items():
        theirs = answer.versions.get(name)
        if theirs != ours:
            raise EnvError(
                f"the machine {answer.machine} has {name} {theirs}, and the trainer {ours}; "
                "install the same versions on all machines"
            )
    return answer


def _result(answer: np.ndarray | EnvFailure) -> np.ndarray:
    if isinstance(answer, EnvFailure):
        raise EnvError(answer.problem, answer.index)
    return answer


class RemoteBackend:
    """B envs on several hosts.

    Args:
        recipe: of the envs.
        num_envs: B.
        first_env: number of the first of them within the training.
        hosts: where they run.

    Raises:
        EnvError: the envs cannot be made, no hosts are to be had, or their versions differ.
    """

    def __init__(self, recipe: Recipe, num_envs: int, first_env: int, hosts: EnvHosts) -> None:
        self.num_envs, self._hosts = num_envs, hosts
        if not 1 <= hosts.count <= num_envs:
            raise EnvError(f"hosts is {hosts.count}; {num_envs} envs are for 1 to {num_envs} hosts")
        hosts.cluster.acquire()
        borders = np.linspace(0, num_envs, hosts.count + 1).astype(int)
        self._slices = [slice(*pair) for pair in pairwise(borders.tolist())]
        self._places: list[_Place] = []
        self._asked: list[int] = []  # numbers of the places that are to answer
        self._begins: np.ndarray | None = None  # [B], the envs to reset with the step
        self._seeds = np.zeros(num_envs, np.int64)  # [B] of these
        try:
            for envs in self._slices:
                first = first_env + envs.start
                self._places.append(_Place(recipe, envs.stop - envs.start, first, hosts))
            limit = waits(hosts.patience)
            described = [place.opened(limit) for place in self._places]
            for place, spaces_ in zip(self._places, described, strict=True):
                pair = spaces_.observation_space, spaces_.action_space
                if pair != (described[0].observation_space, described[0].action_space):
                    raise EnvError(f"{place.name} have other spaces than env {first_env}")
        except BaseException:
            self.close()
            raise
        self.observation_space = described[0].observation_space
        self.action_space: spaces.Space[Any] = described[0].action_space
        self.action_names: Sequence[str] = described[0].action_names
        self._records = np.zeros(num_envs, record_type(self.observation_space))

    def failing(self) -> str | None:
        """Return why the training must end at the next row, None if it need not."""
        if not any(place.failing for place in self._places):
            return None
        return f"no env host could be had for {self._hosts.patience:g} s"

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new episodes where mask [B] is true; return all observations."""
        if self._begins is not None:  # they have been started with the step
            assert np.array_equal(mask, self._begins)
            assert np.array_equal(seeds, self._seeds)
            self._begins = None
            return self._obs()
        for number, envs in enumerate(self._slices):
            if mask[envs].any():
                self._places[number].reset(mask[envs], seeds[envs])
                self._asked.append(number)
        self._gather()
        return self._obs()

    def _obs(self) -> np.ndarray:
        obs: np.ndarray = self._records["obs"].copy()
        return obs

    def expect(self, mask: np.ndarray, seeds: np.ndarray) -> None:
        """Note that `reset` will be called with these arguments after the step that comes next."""
        self._begins, self._seeds = mask.copy(), seeds

    def send(self, actions: np.ndarray) -> None:
        """Start one step."""
        for number, envs in enumerate(self._slices):
            begins = None if self._begins is None else self._begins[envs]
            begins = begins if begins is not None and begins.any() else None
            self._places[number].step(actions[envs], begins, self._seeds[envs])
            self._asked.append(number)

    def recv(self) -> BackendStep:
        """Wait for the step."""
        self._gather()
        return BackendStep(*(self._records[name].copy() for name in BackendStep._fields))

    def _gather(self) -> None:
        """Collect the records of the places that were asked."""
        asked, self._asked = self._asked, []
        failed: EnvError | None = None
        for number in asked:
            envs = self._slices[number]
            try:
                self._records[envs] = self._places[number].records()
            except EnvError as error:
                index = None if error.index is None else envs.start + error.index
                failed = failed or EnvError(str(error), index)
        if failed is not None:
            raise failed

    def render(self, index: int) -> np.ndarray:
        """Return an image of one env, [height, width, 3] uint8."""
        number = next(n for n, envs in enumerate(self._slices) if index < envs.stop)
        return self._places[number].picture(index - self._slices[number].start)

    def close(self) -> None:
        """Close the envs and end the hosts."""
        places, self._places = self._places, []
        for place in places:
            place.close()
        self._hosts.cluster.release()


def open_hosts(
    address: str, count: int, patience: float, report: Callable[[str], None]
) -> EnvHosts:
    """Connect to a Ray cluster for its env hosts.

    Args:
        address: see `RayCluster`.
        count: number of hosts; 0 for one on each machine.
        patience: seconds to wait for a host.
        report: called with a sentence for the user.

    Raises:
        RunError: there is no such cluster.
    """
    cluster = RayCluster(address)
    return EnvHosts(cluster, count or cluster.machines(), patience, report)


def make_remote(
    env_id: str,
    num_envs: int,
    seed: int,
    options: EnvOptions,
    hosts: EnvHosts,
    *,
    first_env: int = 0,
) -> VectorEnv:
    """Make what `make` does, with the envs on other machines.

    Raises:
        EnvError: as `make`; the env is an object; no hosts are to be had; their versions differ.
    """
    if env_id.startswith(PREFIX):
        raise EnvError(
            f"{env_id} was passed as an object, which stays in this process; leave --ray"
        )
    local = make(env_id, 1, seed, options)  # says what all of them are like
    local.close()
    single = options if local.stack == 1 else replace(options, stack=1)
    remote = RemoteBackend(Recipe(env_id, seed, single), num_envs, first_env, hosts)
    backend: Backend = remote if local.stack == 1 else FrameStack(remote, local.stack)
    return VectorEnv(
        backend,
        env_id=env_id,
        protocol=local.protocol,
        seed=seed,
        stack=local.stack,
        life_loss=local.life_loss,
        timeout=options.timeout,
        trusted=True,  # hosts have a time limit of their own
        adaptation=local.adaptation,
        resets_alone=local.resets_alone,
        first_env=first_env,
        failing=remote.failing,
        expect=remote.expect,
    )
