"""Adapt the observations of any env to one array, and check them.

| observation space | what agents get |
|---|---|
| Box with three dimensions | a picture, channels first |
| other Box | the same shape; a single number becomes `[1]` |
| Discrete, MultiDiscrete, MultiBinary, Tuple | flattened, a Discrete one to one-hot |
| Dict | its adapted keys, packed into bytes; keys that no network reads are dropped |

uint8 stays uint8, and everything else becomes float32. Bounds are used for scaling only: values
outside them are accepted, because many envs exceed their bounds by rounding.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from gymnasium import spaces

from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.errors import EnvError

Channels = Literal["first", "last"]
OBSERVATION = "observation"  # key of an observation whose mask comes in `info`

_Convert = Callable[[Any], np.ndarray]


class Adaptation(NamedTuple):
    """How observations of a space become one array."""

    source: spaces.Space[Any]  # the env's own
    space: spaces.Box  # of the arrays that agents get
    # one checked observation to an array; a pair with its mask from `info`; of a Box also [B, ...]
    convert: _Convert
    info_mask_size: int = 0  # numbers of the action mask in `info`; 0 for none
    dropped: tuple[str, ...] = ()  # keys of a dictionary that no network reads


def adapt(
    space: spaces.Space[Any], channels: Channels | None = None, mask_size: int = 0
) -> Adaptation:
    """Return how observations of a space become one array.

    Args:
        space: observation space of the env.
        channels: position of a picture's channels; None for the smaller of its outer axes.
        mask_size: numbers of the action mask that the env shows in `info`; 0 for none.

    Raises:
        EnvError: no network reads observations of this space.
    """
    if isinstance(space, spaces.Dict):
        return _adapt_dict(space, channels, mask_size)
    inner = _adapt_plain(space, channels)
    if not mask_size:
        return inner
    packed = PackedDict({OBSERVATION: inner.space, MASK: _mask_space(mask_size)})

    def convert(observed: Any) -> np.ndarray:
        obs, mask = observed
        array = _convert_key(inner, obs, OBSERVATION)
        return packed.pack({OBSERVATION: array, MASK: _mask(mask, mask_size)})

    return Adaptation(space, packed, convert, mask_size)


def describe(space: spaces.Box) -> str:
    """Describe an adapted space in a few words, such as `picture 3x84x84 from 0 to 255`."""
    if isinstance(space, PackedDict):
        keys = [f"{key} {describe(space.parts[key].space)}" for key in space.observed]
        mask = [MASK] if MASK in space.parts else []
        return " + ".join([*keys, *mask])
    shape = "x".join(map(str, space.shape))
    if len(space.shape) != 3:
        return f"{shape} numbers"
    return f"picture {shape} from {space.low.min():g} to {space.high.max():g}"


def _adapt_plain(space: spaces.Space[Any], channels: Channels | None) -> Adaptation:
    if isinstance(space, spaces.Box):
        return _adapt_box(space, channels)
    if not _readable(space):
        raise EnvError(
            f"has the observation space {space}, which no network reads; use arrays and numbers of "
            "a fixed size"
        )
    flat = spaces.flatten_space(space)
    box = spaces.Box(-np.inf, np.inf, flat.shape, np.float32)
    return Adaptation(space, box, lambda obs: _to_float32(spaces.flatten(space, obs)))


def _readable(space: spaces.Space[Any]) -> bool:
    """Return whether observations of a space are numbers, and always as many.

    Spaces of a package's own, such as MiniGrid's missions, are not.
    """
    if isinstance(space, spaces.Tuple):
        return all(_readable(inner) for inner in space.spaces)
    kinds = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    return isinstance(space, kinds)


def _adapt_box(space: spaces.Box, channels: Channels | None) -> Adaptation:
    turn = len(space.shape) == 3 and channels_of(space.shape, channels) == "last"
    shape = space.shape or (1,)

    def arrange(values: np.ndarray) -> np.ndarray:  # of one env, or [B, ...]
        batch = values.shape[: values.ndim - len(space.shape)]
        if turn:
            return values.transpose(*range(len(batch)), -1, -3, -2)
        return values.reshape(*batch, *shape)

    if space.dtype == np.uint8:
        pixels = spaces.Box(arrange(space.low), arrange(space.high), dtype=np.uint8)
        return Adaptation(space, pixels, lambda obs: arrange(np.asarray(obs)))
    with np.errstate(over="ignore"):  # a bound may be infinite
        low, high = (arrange(bound).astype(np.float32) for bound in (space.low, space.high))
    box = spaces.Box(low, high, dtype=np.float32)
    return Adaptation(space, box, lambda obs: arrange(_to_float32(obs)))


def channels_of(shape: tuple[int, ...], channels: Channels | None = None) -> Channels:
    """Return where a picture's channels are: the smaller of its outer axes, the first if equal."""
    return channels or ("last" if shape[2] < shape[0] else "first")


def _adapt_dict(space: spaces.Dict, channels: Channels | None, mask_size: int) -> Adaptation:
    adapted: dict[str, Adaptation] = {}
    dropped = []
    for key, inner in space.spaces.items():
        if key == MASK:
            continue
        if isinstance(inner, spaces.Dict):
            raise EnvError(f"has the observation space {space}; one level of keys is supported")
        if _readable(inner):
            adapted[key] = _adapt_plain(inner, channels)
        else:
            dropped.append(key)
    if not adapted:
        raise EnvError(
            f"has the observation space {space}; it needs a key with numbers besides {MASK}"
        )
    parts = {key: each.space for key, each in adapted.items()}
    mask = space.spaces.get(MASK)
    if mask is not None:
        mask_size = 0  # that in the observation counts
        if not isinstance(mask, spaces.MultiBinary | spaces.Box) or not mask.shape:
            raise EnvError(
                f"has {mask} for {MASK}; use MultiBinary, with a number for each choice of action"
            )
        size = int(np.prod(mask.shape))
    else:
        size = mask_size
    if size:
        parts[MASK] = _mask_space(size)
    packed = PackedDict(parts)

    def convert(observed: Any) -> np.ndarray:
        obs, shown = observed if mask_size else (observed, None)
        arrays = {key: _convert_key(each, obs[key], key) for key, each in adapted.items()}
        if size:
            arrays[MASK] = _mask(obs[MASK] if mask is not None else shown, size)
        return packed.pack(arrays)

    return Adaptation(space, packed, convert, mask_size, tuple(dropped))


def _mask_space(size: int) -> spaces.Box:
    return spaces.Box(0, 1, (size,), np.uint8)


def _mask(mask: Any, size: int) -> np.ndarray:
    """Return an action mask [size] of zeros and ones."""
    array = np.asarray(mask)
    if array.size != size or array.dtype.kind not in "biuf":
        raise EnvError(f"shows the {MASK} {mask!r}; it needs {size} numbers")
    return array.reshape(-1) != 0


def _convert_key(adaptation: Adaptation, obs: Any, key: str) -> np.ndarray:
    """Convert one key; refuse inf, which could not be recognised once it is packed into bytes."""
    try:
        array = adaptation.convert(obs)
    except EnvError as error:
        raise EnvError(f"{error} (key {key})") from None
    if not np.isfinite(array).all():
        raise EnvError(f"returned the observation {array} (key {key})")
    return array


def _to_float32(values: Any) -> np.ndarray:
    given = np.asarray(values)
    with np.errstate(over="ignore"):
        array = given.astype(np.float32)
    if given.dtype.kind == "f" and np.isinf(array).any() and np.isfinite(given).all():
        raise EnvError(f"returned the observation {given}, which is too large for float32")
    return array


def check_observation(space: spaces.Space[Any], obs: Any) -> None:
    """Check the type, shape and dtype of an observation against the env's own space.

    Bounds of a Box are not checked; those of all other spaces are.

    Raises:
        EnvError: the observation does not fit.
    """
    if isinstance(space, spaces.Box):
        _check_array(space, obs)
    elif isinstance(space, spaces.Dict):
        if not isinstance(obs, dict) or obs.keys() != space.spaces.keys():
            got = f"with the keys {sorted(obs)}" if isinstance(obs, dict) else f"{obs!r}"
            raise EnvError(f"returned an observation {got}; its space has {sorted(space.spaces)}")
        for key, inner in space.spaces.items():
            if _readable(inner):
                _check_key(inner, obs[key], key)
    elif isinstance(space, spaces.Tuple):
        if not isinstance(obs, tuple) or len(obs) != len(space.spaces):
            raise EnvError(f"returned the observation {obs!r}; its space is {space}")
        for number, inner in enumerate(space.spaces):
            _check_key(inner, obs[number], str(number))
    elif not space.contains(obs):
        raise EnvError(f"returned the observation {obs}, which is not in {space}")


def _check_key(space: spaces.Space[Any], obs: Any, key: str) -> None:
    try:
        check_observation(space, obs)
    except EnvError as error:
        raise EnvError(f"{error} (key {key})") from None


def _check_array(space: spaces.Box, obs: Any) -> None:
    """Check one array. `Box.contains` gives no reason."""
    if not space.shape and isinstance(obs, int | float | np.number):
        obs = np.asarray(obs, space.dtype if isinstance(obs, int | float) else None)
    if not isinstance(obs, np.ndarray):
        raise EnvError(f"returned an observation of type {type(obs).__name__}, not an array")
    if obs.shape != space.shape:
        raise EnvError(
            f"returned an observation of shape {obs.shape}; its space promises {space.shape}"
        )
    if not np.can_cast(obs.dtype, space.dtype):
        raise EnvError(
            f"returned an observation of dtype {obs.dtype}; its space promises {space.dtype}"
        )
    if obs.dtype.kind == "f" and np.isnan(obs).any():
        raise EnvError(f"returned the observation {obs}, which holds NaN")
