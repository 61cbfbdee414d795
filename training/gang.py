"""The processes that `torchrun` starts to train one agent together, and their parts of a run.

`torchrun --nproc-per-node 2 -m ludus train ppo CartPole-v1` starts ranks 0 and 1. The settings of a
run are those of all ranks: of `num_envs`, `batch_size` and `replay_size` each has an equal part.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed

from ludus.agents.agent import AgentConfig, AnyAgent
from ludus.agents.learner import Learner
from ludus.agents.ranks import ALONE, TIMEOUT, Ranks
from ludus.agents.seeding import seed_of
from ludus.envs.errors import PeerError, RunError
from ludus.training.launcher import launch, ranks_started
from ludus.training.run import Run, TrainOptions, all_runs

_SPLIT = ("batch_size", "replay_size")  # fields of agents' configurations


class Gang(NamedTuple):
    """The ranks of a training. Each thread has its own, because collectives have one order."""

    rows: Ranks  # in the thread of the loop
    updates: Ranks  # in the thread that learns
    checkpoints: Ranks  # in the thread that writes checkpoints

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.rows.size

    @property
    def leads(self) -> bool:
        """Whether this process is rank 0, which writes the run folder and evaluates."""
        return self.rows.rank == 0

    def part_of_options(self, t: TrainOptions) -> TrainOptions:
        """Return the options with this rank's number of envs.

        Raises:
            RunError: the ranks do not divide the envs.
        """
        return replace(t, num_envs=self._part("num_envs", t.num_envs))

    def part_of_config(self, config: AgentConfig) -> AgentConfig:
        """Return the agent's configuration with this rank's batch and memory.

        Raises:
            RunError: the ranks do not divide the batch.
        """
        sizes = {name: getattr(config, name, 0) for name in _SPLIT}
        parts = {name: self._part(name, size) for name, size in sizes.items() if size}
        return replace(config, **parts) if self.size > 1 and parts else config

    def first_env(self, num_envs: int) -> int:
        """Return the number of this rank's first env, of `num_envs` in all."""
        return self.rows.rank * (num_envs // self.size)

    def seed(self, seed: int) -> int:
        """Return the seed of this rank's exploration and sampling: rank 0 has that of the run."""
        return seed_of(seed, 1_000 + self.rows.rank) if self.rows.rank else seed

    def _part(self, name: str, size: int) -> int:
        if size % self.size:
            raise RunError(
                f"{name} is {size}, which {self.size} ranks cannot share; choose a multiple of "
                f"{self.size}"
            )
        return size // self.size


ALONE_GANG = Gang(ALONE, ALONE, ALONE)
_formed: list[Gang] = []


def own_device(device: torch.device) -> torch.device:
    """Return this process's GPU in place of any: that of its number on the host, `LOCAL_RANK`.

    It has its number, because threads that are started later would take the first GPU.

    Raises:
        RunError: this host has fewer GPUs than processes.
    """
    if ranks_started() == 1 or device.type != "cuda":
        return device
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise RunError(
            f"there is no GPU for process {number + 1} of this host, which has {there}; start one "
            "process for each GPU, or use --device cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def form_gang(device: torch.device) -> Gang:
    """Return the ranks of this process's training; waits until all are there.

    Raises:
        PeerError: another rank did not come.
    """
    if ranks_started() == 1:
        return ALONE_GANG
    if not _formed:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            store, rank, size = next(torch.distributed.rendezvous("env://", timeout=TIMEOUT))
            store = torch.distributed.PrefixStore(meet(store, rank, size), store)
            torch.distributed.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT
            )
            groups = [torch.distributed.new_group(timeout=TIMEOUT) for _ in Gang._fields]
        except (RuntimeError, ValueError) as error:
            text = " ".join(str(error).split())[:200]
            raise PeerError(f"the ranks did not find each other: {text}") from error
        atexit.register(_leave)
        _formed.append(Gang(*(Ranks(group) for group in groups)))
    return _formed[0]


def meet(store: torch.distributed.Store, rank: int, size: int) -> str:
    """Return a name for the keys of this meeting of all ranks, which no earlier one has used.

    `torchrun` keeps its store when it restarts its processes, with the addresses of those that were
    killed. So each rank shows rank 0 a number of its own and waits until rank 0 has answered it.

    Raises:
        PeerError: another rank did not come.
    """
    own, end = uuid.uuid4().hex, time.monotonic() + TIMEOUT.total_seconds()
    missing = set(range(1, size)) if rank == 0 else {rank}
    name = own
    if rank == 0:
        store.set("ludus-meeting", own)
    while missing:
        if time.monotonic() > end:
            raise PeerError(f"rank {rank} waited in vain for {sorted(missing)} of {size} ranks")
        if rank:  # what is there may be of an earlier meeting, and change
            name = store.get("ludus-meeting").decode()
            store.set(f"{name}-{rank}", own)
        for each in list(missing):
            shown = f"{name}-{each}"
            if rank and store.check([f"{shown}-{own}"]):
                missing.remove(each)
            elif not rank and store.check([shown]):
                store.set(f"{shown}-{store.get(shown).decode()}", "")
                missing.remove(each)
        time.sleep(0.01)
    return name


def _leave() -> None:
    with contextlib.suppress(RuntimeError):
        torch.distributed.destroy_process_group()


def run_before_restart(gang: Gang, root: Path) -> Run | None:
    """Return the run that these processes made before `torchrun` restarted them; None at first."""
    path: str | None = None
    if gang.leads and launch() is not None:
        here = launch(), sys.argv
        found = [run for run in all_runs(root) if run.launched_by() == here]
        found = [run for run in found if run.status().state != "finished"]
        path = str(found[-1].path.absolute()) if found else None
    path = gang.rows.from_first(path)
    return None if path is None else Run(Path(path))


def join(agent: AnyAgent, name: str, gang: Gang) -> None:
    """Let an agent learn together with those of the other ranks, from the weights of rank 0.

    Raises:
        RunError: it has no updates that could be averaged.
    """
    learner = getattr(agent, "learner", None)
    if not isinstance(learner, Learner):
        raise RunError(f"{name} trains in one process, and torchrun started {gang.size}")
    learner.join(gang.updates, gang.rows)
