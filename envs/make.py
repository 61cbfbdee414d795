"""Build a vector env under the stream contract from an env's name."""

import difflib
import importlib
import json
import os
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any

import ale_py
import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import Error as GymnasiumError
from gymnasium.vector import VectorEnv as GymnasiumVectorEnv

from ludus.envs import atari
from ludus.envs.adapt import Channels, describe
from ludus.envs.board.backend import BoardBackend
from ludus.envs.board.opponents import make_opponent
from ludus.envs.board.spiel import is_game, load, make_game, why_not
from ludus.envs.bounds import AT_LEAST_ONE, FRACTION, POSITIVE, Bounds, check_bounds
from ludus.envs.cartpole import CartPoleBackend
from ludus.envs.dict_observation import PackedDict
from ludus.envs.env_maker import EnvMaker
from ludus.envs.env_object import PREFIX, EnvObject, PassedEnv, env_name, env_object
from ludus.envs.errors import EnvError, describe_error
from ludus.envs.global_generators import GlobalGenerators
from ludus.envs.guarded_env import GuardedEnv
from ludus.envs.local import LocalBackend
from ludus.envs.minatar import GAMES, MinAtarBackend
from ludus.envs.registration import BOARD_ENV_IDS, BOARD_GAMES, register_envs
from ludus.envs.stack import FrameStack
from ludus.envs.trust import is_kind
from ludus.envs.vector import Backend, VectorEnv, episode_seed
from ludus.envs.vector_object import VectorObjectBackend
from ludus.envs.workers import WorkerBackend

MAX_ENVS = 4096

register_envs()


@dataclass(frozen=True)
class EnvOptions:
    """Changes to an env's protocol; None keeps the value that the env's id implies.

    Raises:
        EnvError: a value is out of bounds.
    """

    stack: Annotated[int | None, atari.STACK] = None
    """frames in one observation (default: 4 for Atari, 1 otherwise)"""
    sticky: Annotated[float | None, FRACTION] = None
    """Atari, MinAtar: probability that the last action is repeated"""
    frameskip: Annotated[int | None, atari.FRAMESKIP] = None
    """Atari: emulator frames per action"""
    screen_size: Annotated[int | None, atari.SCREEN_SIZE] = None
    """Atari: height and width of an observation in pixels (default: 84)"""
    noop_max: Annotated[int | None, atari.NOOP_MAX] = None
    """Atari: a new game starts with 0 to noop_max - 1 no-ops"""
    life_loss: bool | None = None
    """Atari: a lost life ends the episode for the learner; the game continues"""
    full_action_space: bool | None = None
    """Atari, MinAtar: use every action instead of the game's own"""
    max_frames: Annotated[int | None, atari.MAX_FRAMES] = None
    """Atari: emulator frames after which a game is truncated"""
    opponent: str | None = None
    """board games: opponent in evaluations (default: random); greedy, minimax, mcts:100, ..."""
    channels: Channels | None = None
    """other envs: position of the channels of pictures (default: the smaller outer axis)"""
    max_episode_steps: Annotated[int | None, AT_LEAST_ONE] = None
    """other envs: steps after which an episode is truncated (default: the env's own limit)"""
    env_kwargs: tuple[str, ...] = ()
    """other envs: arguments of the constructor, as name=value or a JSON object"""
    wrapper: tuple[str, ...] = ()
    """other envs: wrappers as module:Class, the innermost first"""
    timeout: Annotated[float, POSITIVE] = 60.0
    """seconds that making an env, and each of its steps, may take"""
    threads: Annotated[int, Bounds(0, 1024)] = 0
    """Atari: emulator threads; 0 uses one per core"""

    def __post_init__(self) -> None:
        """Check the bounds."""
        check_bounds(self, EnvError)
        self.constructor_kwargs()

    def constructor_kwargs(self) -> dict[str, Any]:
        """Return the keyword arguments that `env_kwargs` gives.

        Raises:
            EnvError: an entry is neither name=value nor a JSON object.
        """
        kwargs: dict[str, Any] = {}
        for entry in self.env_kwargs:
            kwargs |= _parse_kwargs(entry)
        return kwargs


def _parse_kwargs(entry: str) -> dict[str, Any]:
    """Parse `name=value`, where the value is JSON or else a string, or a JSON object."""
    name, equals, text = entry.partition("=")
    try:
        if not name.strip().isidentifier() or not equals:
            parsed = json.loads(entry)
            if not isinstance(parsed, dict):
                raise ValueError("not an object")
            return parsed
    except ValueError as error:
        raise EnvError(
            f'env_kwargs is {entry}; it must be name=value or a JSON object such as {{"size": 8}}'
        ) from error
    try:
        return {name.strip(): json.loads(text)}
    except ValueError:
        return {name.strip(): {"True": True, "False": False, "None": None}.get(text, text)}


_GYMNASIUM_ONLY = ("channels", "max_episode_steps", "env_kwargs", "wrapper")
_ATARI_ONLY = ("frameskip", "screen_size", "noop_max", "life_loss", "max_frames")


def make(
    env: str | PassedEnv,
    num_envs: int = 8,
    seed: int = 0,
    options: EnvOptions | None = None,
    *,
    render: bool = False,
    first_env: int = 0,
) -> VectorEnv:
    """Make a vector env under the stream contract for any Gymnasium id or board game.

    Args:
        env: `CartPole-v1`, `ALE/Pong-v5`, `PongNoFrameskip-v4`, `MinAtar/Breakout-v1`,
            `ludus/Recall-v0`, `connect_four`; for your own env `module:Env-v0`, `module:Class`, a
            class or function that returns an env, a `gymnasium.Env`, or a
            `gymnasium.vector.VectorEnv` whose autoreset mode is DISABLED or NEXT_STEP.
        num_envs: envs that step together, 1 to 4096. An env that is passed as an object has its
            own number, which is 1 for a `gymnasium.Env`.
        seed: determines every episode of every env, together with the env's index, 0 to 2^63 - 1.
        options: changes to the protocol that the id stands for.
        render: keep images, so that `VectorEnv.render` works.
        first_env: number of the first env, for its seeds and in messages.

    Raises:
        EnvError: the id is unknown, a value is out of bounds, or the env does not have an option.
    """
    env_id, options = env_name(env), options or EnvOptions()
    if not 1 <= num_envs <= MAX_ENVS:
        raise EnvError(f"num_envs is {num_envs}; it must be from 1 to {MAX_ENVS}")
    if not 0 <= seed < 2**63:
        raise EnvError(f"seed is {seed}; it must be from 0 to 2^63 - 1")
    protocol = atari.resolve(env_id)
    if protocol is not None or is_game(env_id) or env_id.startswith("MinAtar/"):
        for name in _GYMNASIUM_ONLY:
            if getattr(options, name):
                raise EnvError(f"{name} is not for Atari, MinAtar and board games such as {env_id}")
    if options.opponent is not None and not is_game(env_id):
        raise EnvError(f"opponent is for board games; {env_id} does not have it")
    if protocol is not None:
        return _make_atari(env_id, protocol, num_envs, seed, options, render, first_env)
    for name in _ATARI_ONLY:
        if getattr(options, name) is not None:
            raise EnvError(f"{name} is for Atari games; {env_id} does not have it")
    if is_game(env_id):
        return _make_board(env_id, num_envs, seed, options, first_env)
    if env_id.startswith("MinAtar/"):
        return _make_minatar(env_id, num_envs, seed, options, first_env)
    for name in ("sticky", "full_action_space"):
        if getattr(options, name) is not None:
            raise EnvError(f"{name} is for Atari and MinAtar games; {env_id} does not have it")
    return _make_gymnasium(env_id, num_envs, seed, options, render, first_env)


def _make_atari(
    env_id: str,
    protocol: atari.AtariProtocol,
    num_envs: int,
    seed: int,
    options: EnvOptions,
    render: bool,
    first_env: int,
) -> VectorEnv:
    names = {field.name for field in fields(protocol)}
    changed = {k: v for k, v in asdict(options).items() if v is not None and k in names}
    protocol = replace(protocol, **changed)
    return VectorEnv(
        atari.AtariBackend(protocol, num_envs, options.threads, render),
        env_id=env_id,
        protocol={"kind": "atari", **asdict(protocol)},
        seed=seed,
        stack=protocol.stack,
        life_loss=protocol.life_loss,
        timeout=options.timeout,
        first_env=first_env,
    )


def _make_minatar(
    env_id: str, num_envs: int, seed: int, options: EnvOptions, first_env: int
) -> VectorEnv:
    known = {
        f"MinAtar/{name.title().replace('_', '')}-{version}": (name, version == "v0")
        for name in GAMES
        for version in ("v0", "v1")
    }
    if env_id not in known:
        raise EnvError(_unknown(env_id, list(known)))
    game, full = known[env_id]
    full = full if options.full_action_space is None else options.full_action_space
    sticky = 0.1 if options.sticky is None else options.sticky
    stack = options.stack or 1
    backend: Backend = MinAtarBackend(
        game, num_envs, sticky_action_prob=sticky, full_action_set=full
    )
    if stack > 1:
        backend = FrameStack(backend, stack)
    protocol = {
        "kind": "minatar",
        "game": game,
        "sticky": sticky,
        "full_action_space": full,
        "difficulty_ramping": True,
        "stack": stack,
    }
    return VectorEnv(
        backend,
        env_id=env_id,
        protocol=protocol,
        seed=seed,
        stack=stack,
        trusted=True,
        first_env=first_env,
    )


def _make_board(
    env_id: str, num_envs: int, seed: int, options: EnvOptions, first_env: int
) -> VectorEnv:
    for name in ("sticky", "full_action_space", "stack"):
        if getattr(options, name) is not None:
            raise EnvError(f"{name} is not for board games; leave it out for {env_id}")
    game, opponent = make_game(env_id), options.opponent or "random"
    make_opponent(opponent, load(env_id), 0)  # raises now if it is unknown
    return VectorEnv(
        BoardBackend(game, num_envs),
        env_id=env_id,
        protocol={
            "kind": "board",
            "game": game.name,
            "max_moves": game.max_moves,
            "opponent": opponent,
        },
        seed=seed,
        trusted=True,
        first_env=first_env,
    )


def _make_gymnasium(
    env_id: str, num_envs: int, seed: int, options: EnvOptions, render: bool, first_env: int
) -> VectorEnv:
    spec = _spec(env_id)
    limit = options.max_episode_steps or spec.max_episode_steps
    source = str(spec.entry_point)
    if source.startswith("ale_py"):
        name = str(spec.kwargs.get("game", "pong")).title().replace("_", "")
        raise EnvError(
            f"{env_id} shows frames without the preprocessing of any paper; use ALE/{name}-v5 "
            f"(sticky actions) or {name}NoFrameskip-v4 (the protocol of the 2015 DQN)"
        )
    backend = _gymnasium_backend(env_id, spec, num_envs, seed, options, render, first_env)
    stack = options.stack or 1
    # Single observations cannot be adapted for a stack.
    adaptation = None
    if stack == 1 and not isinstance(backend, CartPoleBackend):
        adaptation = backend.adaptation
    if stack > 1 and isinstance(backend.observation_space, PackedDict):
        backend.close()
        raise EnvError(f"stack is {stack}; {env_id} shows dictionaries, which are not stacked")
    stacked: Backend = FrameStack(backend, stack) if stack > 1 else backend
    protocol: dict[str, Any] = {"kind": "gymnasium", "max_episode_steps": limit, "stack": stack}
    if options.env_kwargs:
        protocol["env_kwargs"] = options.constructor_kwargs()
    if options.wrapper:
        protocol["wrapper"] = list(options.wrapper)
    shown = describe(stacked.observation_space)
    if "picture" in shown:
        protocol["observation"] = shown
    return VectorEnv(
        stacked,
        env_id=env_id,
        protocol=protocol,
        seed=seed,
        stack=stack,
        timeout=options.timeout,
        trusted=True,  # workers have a time limit of their own; our probes cannot hang
        adaptation=adaptation,
        from_object=env_object(env_id) is not None,
        resets_alone=not isinstance(backend, VectorObjectBackend) or backend.resets_alone,
        first_env=first_env,
    )


def _gymnasium_backend(
    env_id: str,
    spec: EnvSpec,
    num_envs: int,
    seed: int,
    options: EnvOptions,
    render: bool,
    first_env: int,
) -> CartPoleBackend | LocalBackend | WorkerBackend | VectorObjectBackend:
    """Choose where the envs run: as arrays, in this process, or in workers."""
    source, module = str(spec.entry_point), env_id.rpartition(":")[0]
    passed = spec.entry_point if isinstance(spec.entry_point, EnvObject) else None
    make_env = EnvMaker(
        spec if passed is None else passed,
        modules=(module,) if module else (),
        kwargs=options.constructor_kwargs(),
        wrappers=options.wrapper,
        max_episode_steps=options.max_episode_steps,
        render=render,
    )
    known = source.startswith(("gymnasium.envs.classic", "ludus.envs.probes"))
    if known and not make_env.kwargs and not options.wrapper and not spec.kwargs:
        limit = options.max_episode_steps or spec.max_episode_steps
        if limit is None or source != "gymnasium.envs.classic_control.cartpole:CartPoleEnv":
            return LocalBackend([GuardedEnv(make_env) for _ in range(num_envs)])
        if render:
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        return CartPoleBackend(num_envs, limit, render)
    try:
        if passed is None:
            return WorkerBackend(
                make_env, num_envs, options.timeout, seed, options.channels, first_env
            )
        return _object_backend(passed, make_env, seed, options)
    except EnvError as error:
        raise EnvError(_not_made(env_id, num_envs, error)) from error


def _object_backend(
    passed: EnvObject, make_env: EnvMaker, seed: int, options: EnvOptions
) -> LocalBackend | VectorObjectBackend:
    """Use an env that was passed as an object, in this process.

    Raises:
        EnvError: an option is not for objects, or the env raises an error.
    """
    several = isinstance(passed.env, GymnasiumVectorEnv)
    for name in ("env_kwargs", "wrapper", "max_episode_steps")[: 3 if several else 1]:
        if getattr(options, name):
            raise EnvError(f"is an object, which {name} cannot change; change it where it is made")
    try:
        first = episode_seed(seed, 0, 0)
        if several:
            return VectorObjectBackend(passed, options.channels, first)
        generators = GlobalGenerators(first)
        return LocalBackend([GuardedEnv(make_env, options.channels, generators, first)])
    except EnvError:
        raise
    except Exception as error:  # whatever a user's env may raise
        raise EnvError(describe_error(error)) from error


def _not_made(env_id: str, num_envs: int, error: EnvError) -> str:
    which = "" if error.index is None else f" (env {error.index} of {num_envs})"
    return f"{env_id}{which} could not be made: it {error}"


def _spec(env_id: str) -> EnvSpec:
    """Return the spec of `Env-v0`, `module:Env-v0` or `module:Class`; import the module first."""
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            imported = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise EnvError(
                f"{env_id}: the module {module} could not be imported ({error}); "
                "run from its folder or install it"
            ) from error
        except Exception as error:  # whatever a user's module may raise
            raise EnvError(f"{env_id}: the module {module} {describe_error(error)}") from error
    try:
        return gymnasium.spec(name or env_id)
    except GymnasiumError as error:
        if env_id.startswith(PREFIX):
            raise EnvError(
                f"{env_id} was passed to Ludus by a Python program; pass it again there, as env= "
                "of ludus.load or ludus.resume"
            ) from error
        if module and is_kind(getattr(imported, name, None), module, gymnasium.Env):
            return EnvSpec(id=name, entry_point=f"{module}:{name}")
        raise EnvError(_unknown(env_id, known_ids())) from error


def known_ids() -> list[str]:
    """Return every env id that `make` accepts on this machine, without a module prefix."""
    gymnasium.register_envs(ale_py)
    minatar_ids = [f"MinAtar/{n.title().replace('_', '')}-{v}" for n in GAMES for v in ("v0", "v1")]
    names = [f"ALE/{name}-v5" for name in atari.game_names()]
    names += [f"{name}NoFrameskip-v4" for name in atari.game_names()]
    plain = [
        name
        for name, spec in gymnasium.registry.items()
        if not name.startswith(("ALE/", "phys2d/", "tabular/", "MinAtar/", "GymV"))
        and "ale_py" not in str(spec.entry_point)
        and name not in BOARD_ENV_IDS  # `make` takes the games themselves, by OpenSpiel's names
    ]
    return [*plain, *minatar_ids, *BOARD_GAMES, *names]


def _unknown(env_id: str, names: list[str]) -> str:
    by_lower = {name.lower(): name for name in names}
    word = env_id.lower()
    rom = f"ale/{word.replace('_', '')}-v5"  # pong, space_invaders
    close = [rom] if rom in by_lower else difflib.get_close_matches(word, by_lower, 1, 0.65)
    if close:
        return f"there is no env {env_id}; did you mean {by_lower[close[0]]}?"
    return f"there is no env {env_id}; {why_not(word) or '`ludus list envs` shows all'}"
