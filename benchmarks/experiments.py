"""The trainings of each experiment in `README.md`, in the order of their value."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Training:
    """One training of an experiment."""

    experiment: str
    env: str
    agent: str
    variant: str
    """row of the table"""
    options: tuple[str, ...]
    """of `ludus train`, besides env, agent, steps and seed"""
    steps: int
    seed: int
    start: "Training | None" = None
    """whose network it begins with"""

    @property
    def key(self) -> str:
        """Return what names the training in its file of results."""
        return f"{self.env} {self.variant} {self.seed}"

    @property
    def folder(self) -> str:
        """Return the folder of its run within that of all experiments' runs."""
        return f"{self.experiment}/{self.key.replace('/', '-').replace(' ', '_')}"


_GAMES = ("--eval-episodes", "20")  # held-out
_DQN_SB3 = {
    "dqn, 1 env": ("dqn", ("--num-envs", "1", *_GAMES)),
    "dqn, the preset's envs": ("dqn", _GAMES),
    "sb3:dqn": ("sb3:dqn", _GAMES),
}


def _dqn_sb3() -> Iterator[Training]:
    """DQN with one env, with the preset's envs, and SB3's DQN: same values, same network."""
    envs = {"CartPole-v1": 50_000, "MinAtar/Breakout-v1": 200_000}
    envs["MinAtar/SpaceInvaders-v1"] = 200_000
    for seed, (env, steps) in product(range(10), envs.items()):
        for variant, (agent, options) in _DQN_SB3.items():
            yield Training("dqn_sb3", env, agent, variant, options, steps, seed)


def _dqn_sb3_again() -> Iterator[Training]:
    """Ten more of each on Breakout, where one env scored less than SB3's."""
    env = "MinAtar/Breakout-v1"
    for seed, (variant, (agent, options)) in product(range(10, 20), _DQN_SB3.items()):
        yield Training("dqn_sb3_again", env, agent, variant, options, 200_000, seed)


def _a2c_sb3() -> Iterator[Training]:
    """A2C and SB3's A2C: same values, same network."""
    envs = {"CartPole-v1": 60_000, "Acrobot-v1": 100_000}
    envs |= {"MinAtar/Breakout-v1": 100_000, "MinAtar/SpaceInvaders-v1": 100_000}
    for seed, (env, steps), agent in product(range(10), envs.items(), ("a2c", "sb3:a2c")):
        yield Training("a2c_sb3", env, agent, agent, _GAMES, steps, seed)


def _r2d2_eps() -> Iterator[Training]:
    """R2D2 with three values of Adam's epsilon."""
    envs = ("ludus/MaskedCartPole-v0", "MinAtar/SpaceInvaders-v1")
    for seed, env, eps in product(range(5), envs, ("1e-3", "1e-4", "1e-8")):
        options = ("--optimizer-eps", eps, "--eval-every", "12500", "--eval-episodes", "20")
        yield Training("r2d2_eps", env, "r2d2", f"eps {eps}", options, 50_000, seed)


# Env steps of 10 minutes on two cores of an AMD EPYC, measured at the start of a
# training on the quiet machine: 9,000 steps of dqn2013 and 20,000 of ppo_small on each game.
_TEN_MINUTES = {
    "Pong": {"dqn2013": 290_000, "ppo_small": 810_000},
    "Boxing": {"dqn2013": 280_000, "ppo_small": 855_000},
    "Breakout": {"dqn2013": 245_000, "ppo_small": 415_000},
    "Freeway": {"dqn2013": 295_000, "ppo_small": 900_000},
    "RoadRunner": {"dqn2013": 250_000, "ppo_small": 545_000},
}


def _small_machine() -> Iterator[Training]:
    """The two presets for two cores, after the env steps of 10 and of 20 minutes.

    Results without normalisation are of commits in which DQN had no such option.
    """
    variants = {  # by the row of the table: agent, further options, seeds
        "dqn2013": ("dqn2013", (), 2),
        "ppo_small": ("ppo_small", (), 2),
        "dqn2013, not normalised": ("dqn2013", ("--no-normalize-observation",), 1),
    }
    for seed, game in product(range(2), _TEN_MINUTES):
        for variant, (agent, further, seeds) in variants.items():
            steps = _TEN_MINUTES[game][agent]
            options = ("--eval-every", str(steps), "--eval-episodes", "20", *further)
            env = f"{game}NoFrameskip-v4"
            if seed < seeds:
                yield Training("small_machine", env, agent, variant, options, 2 * steps, seed)


def _pqn() -> Iterator[Training]:
    """PQN with layer normalisation over the channels of each pixel, or over all values.

    The rows he_normal are of commit 5abfe81, where networks were initialised as in the authors'
    code, and cannot be trained with another.
    """
    games, norms = ("Breakout", "SpaceInvaders"), ("channels", "all")
    for seed, game, norm in product(range(5), games, norms):
        options = ("--layer-norm", norm, "--eval-episodes", "20")
        variant = f"{norm}, PyTorch's initialisation"
        yield Training("pqn", f"MinAtar/{game}-v1", "pqn", variant, options, 1_000_000, seed)


def _alphazero_value() -> Iterator[Training]:
    """AlphaZero with three value targets; 400,000 moves take 15 minutes on one core or less."""
    for seed, target in product(range(3), ("policy", "visits", "mix")):
        options = ("--value-target", target, "--opponent", "mcts:1000", "--eval-episodes", "100")
        yield Training(
            "alphazero_value", "connect_four", "alphazero", target, options, 400_000, seed
        )


def _overlap() -> Iterator[Training]:
    """PPO that learns while it plays, with and without V-trace, and in turns."""
    variants = {
        "in turns": (),
        "overlap": ("--overlap",),
        "overlap, V-trace": ("--overlap", "--vtrace"),
    }
    envs = {"CartPole-v1": 50_000, "Pendulum-v1": 100_000}
    envs |= {"MinAtar/Breakout-v1": 1_000_000, "MinAtar/SpaceInvaders-v1": 1_000_000}
    for seed, (env, steps) in product(range(5), envs.items()):
        for variant, options in variants.items():
            games = ("--eval-episodes", "20")
            yield Training("overlap", env, "ppo", variant, (*options, *games), steps, seed)


def _precision() -> Iterator[Training]:
    """PPO with updates in bfloat16 and in float32."""
    games = ("Breakout", "SpaceInvaders")
    for seed, game, precision in product(range(10), games, ("float32", "bfloat16")):
        options = ("--precision", precision, "--eval-episodes", "20")
        env = f"MinAtar/{game}-v1"
        yield Training("precision", env, "ppo", precision, options, 1_000_000, seed)


_MINATAR = ("Breakout", "SpaceInvaders", "Asterix", "Freeway", "Seaquest")


def _precision_again() -> Iterator[Training]:
    """PPO in float32 ten times more, after two trainings of later code scored less."""
    for game, seed in product(("Breakout", "SpaceInvaders"), range(10, 20)):
        options = ("--precision", "float32", "--eval-episodes", "20")
        env = f"MinAtar/{game}-v1"
        yield Training("precision_again", env, "ppo", "float32", options, 1_000_000, seed)


def _minatar(
    experiment: str, agent: str, games: Sequence[str], seeds: Sequence[int], steps: int
) -> Iterator[Training]:
    """Train an agent on MinAtar, and evaluate it ten times."""
    options = ("--eval-every", str(steps // 10), "--eval-episodes", "20")
    for seed, game in product(seeds, games):
        yield Training(experiment, f"MinAtar/{game}-v1", agent, agent, options, steps, seed)


def _minatar_long() -> Iterator[Training]:
    """PQN for the authors' 10,000,000 env steps."""
    yield from _minatar("minatar_long", "pqn", _MINATAR, range(5), 10_000_000)


def _minatar_million() -> Iterator[Training]:
    """Agents of each kind on some games, and SB3's, for 1,000,000 env steps."""
    games = {"ppo": 5, "dqn": 5, "rainbow": 2, "r2d2": 2, "sb3:ppo": 2, "sb3:dqn": 2}
    for seed, (agent, number) in product(range(3), games.items()):
        yield from _minatar("minatar_million", agent, _MINATAR[:number], [seed], 1_000_000)


def _pong() -> Iterator[Training]:
    """`ppo_small` on Pong until it plays as well as it can."""
    options = ("--eval-every", "50000", "--eval-episodes", "20")
    for seed in range(5):
        yield Training(
            "pong", "PongNoFrameskip-v4", "ppo_small", "ppo_small", options, 600_000, seed
        )


def _atari_hour() -> Iterator[Training]:
    """An hour of training on one core."""
    options = ("--minutes", "60", "--eval-episodes", "20")
    for agent, seeds in (("ppo_small", 2), ("sb3:ppo_small", 1)):
        for seed, game in product(range(seeds), ("Breakout", "Boxing")):
            env = f"{game}NoFrameskip-v4"
            yield Training("atari_hour", env, agent, agent, options, 10_000_000, seed)


def _connect_four() -> Iterator[Training]:
    """AlphaZero for about half an hour on two cores, and for two hours."""
    against = ("--opponent", "mcts:1000", "--eval-episodes", "100")
    for seed, steps in ((0, 1_000_000), (1, 1_000_000), (2, 1_000_000), (0, 4_000_000)):
        options = ("--eval-every", str(steps // 4), *against)
        variant = f"{steps // 1_000_000}M moves"
        yield Training("connect_four", "connect_four", "alphazero", variant, options, steps, seed)


def _othello() -> Iterator[Training]:
    """AlphaZero for about two hours on one core."""
    options = ("--eval-every", "500000", "--opponent", "mcts:1000", "--eval-episodes", "100")
    yield Training("othello", "othello", "alphazero", "2M moves", options, 2_000_000, 0)


_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
_STEPS = (500_000, 1_000_000, 2_000_000, 4_000_000)


def _scaling() -> Iterator[Training]:
    """PQN with networks of several widths, for several numbers of env steps."""
    budgets = sorted(product(_WIDTHS, _STEPS), key=lambda each: each[0] * each[1])
    for seed, (width, steps), game in product(range(3), budgets, _MINATAR[:2]):
        units = str(round(128 * width))
        options = ("--width", f"{width:g}", "--head-hidden", units, "--eval-episodes", "100")
        variant = f"width {width:g}, {steps:,} steps"
        yield Training("scaling", f"MinAtar/{game}-v1", "pqn", variant, options, steps, seed)


_FEW = 100_000  # env steps
_UNITS = {"spr": ("--spr-units", "128")}  # of auxiliary losses
_PRETRAINED = ("Breakout", "Asterix")  # both show four planes


def _few_steps(
    experiment: str,
    env: str,
    variants: Mapping[str, tuple[str, Sequence[str], int]],
    common: Sequence[str],
    evaluations: int,
) -> Iterator[Training]:
    """Variants (agent, further options, steps by row of the table) after few env steps, 5 seeds.

    Those that go on for longer are evaluated at their end only.
    """
    for seed, (variant, (agent, further, steps)) in product(range(5), variants.items()):
        every = steps // evaluations if steps == _FEW else steps
        options = ("--eval-every", str(every), "--eval-episodes", "20", *common, *further)
        yield Training(experiment, env, agent, variant, options, steps, seed)


def _data_efficient() -> Iterator[Training]:
    """The presets for 100,000 env steps, and two that are not for so few, also for as long.

    Networks of half the width, and one update a step, are what two cores have the time for. The
    trainings of a game are together, because a table can be of one game.
    """
    once = ("--replay-ratio", "1")
    variants = {
        "der": ("der", (), _FEW),
        "spr, 1 update a step": ("spr", once, _FEW),
        "bbf, 1 update a step": ("bbf", (*once, "--features", "128"), _FEW),
        "dqn, 2,000,000 steps": ("dqn", (), 2_000_000),  # about as long as bbf
        "rainbow, 700,000 steps": ("rainbow", (), 700_000),
        "dqn": ("dqn", (), _FEW),
        "rainbow": ("rainbow", (), _FEW),  # the last row, with which tables compare
    }
    for game in _MINATAR[:2]:
        yield from _few_steps(
            "data_efficient", f"MinAtar/{game}-v1", variants, ("--width", "0.5"), evaluations=4
        )


def _boxing() -> Iterator[Training]:
    """The same on Atari, with the network of `dqn2013` at half its width and pictures of 42 x 42.

    An update of `spr` or `bbf` is in every second step, a quarter of the presets', and `bbf` has no
    resets. At the preset's distance of 40,000 updates there was one, after 82,000 steps: returns
    fell from about 0 to -57 in one training and from -25 to -58 in another, and the rest was short.
    Two more, without resets, began with PyTorch's weights, which is `--no-xavier` now.
    """
    small = ("--screen-size", "42", "--encoder", "dqn2013", "--width", "0.5")
    half, shift = ("--replay-ratio", "0.5"), ("--random-shift", "2")
    units = ("--head-hidden", "128")
    bbf = ("--features", "128", "--reset-interval", "0")
    rainbow = (*units, "--learning-starts", "1600")
    narrow = ("--v-min", "-2", "--v-max", "2")
    quiet = ("--noisy-sigma", "0.1")  # of der
    quiet_narrow = (*quiet, *narrow)
    normalised = (*quiet_narrow, "--normalize-observation")
    faster = (*normalised, "--learning-rate", "1e-4", "--target-interval", "250")  # of dqn2013
    variants = {
        "der": ("der", units, _FEW),
        "spr, 1 update in 2 steps": ("spr", (*units, *half, *shift), _FEW),
        "bbf, 1 update in 2 steps, no resets": ("bbf", (*bbf, *half, *shift), _FEW),
        "dqn2013, 800,000 steps": ("dqn2013", units, 800_000),  # about as long as bbf
        "rainbow, 500,000 steps": ("rainbow", rainbow, 500_000),
        "rainbow": ("rainbow", rainbow, _FEW),
        "rainbow, noise of der": ("rainbow", (*rainbow, *quiet), _FEW),
        "rainbow, noise of der, from -2 to 2": ("rainbow", (*rainbow, *quiet_narrow), _FEW),
        "the same, normalised": ("rainbow", (*rainbow, *normalised), _FEW),
        "the same, learning rate and target of dqn2013": ("rainbow", (*rainbow, *faster), _FEW),
        "dqn2013, c51": ("dqn2013", (*units, "--head", "c51"), _FEW),
        "dqn2013, c51 from -2 to 2": ("dqn2013", (*units, "--head", "c51", *narrow), _FEW),
        "dqn2013": ("dqn2013", units, _FEW),  # the last row, with which tables compare
    }
    yield from _few_steps("boxing", "BoxingNoFrameskip-v4", variants, small, evaluations=2)


def _auxiliary() -> Iterator[Training]:
    """DQN with each auxiliary loss, and without one as the last row."""
    losses = ("reconstruction", "variational", "inverse", "spr", "none")
    options = ("--eval-every", "25000", "--eval-episodes", "20")
    for seed, game, loss in product(range(5), _PRETRAINED, losses):
        given = ("--auxiliary", loss, *_UNITS.get(loss, ()), *options)
        yield Training("auxiliary", f"MinAtar/{game}-v1", "dqn", loss, given, 100_000, seed)


def _encoder(game: str, objective: str, seed: int) -> Training:
    """100,000 env steps of random play without rewards."""
    units = _UNITS.get(objective, ())
    options = ("--auxiliary", objective, "--reward-free", "--eval-episodes", "0", *units)
    variant = f"{objective}, no rewards"
    return Training("pretraining", f"MinAtar/{game}-v1", "dqn", variant, options, 100_000, seed)


def _pretraining() -> Iterator[Training]:
    """DQN from encoders that were pretrained on its game and on another with as many planes."""
    games, objectives = _PRETRAINED, ("reconstruction", "spr")
    for seed in range(5):
        encoders = {
            (game, objective): _encoder(game, objective, seed)
            for game, objective in product(games, objectives)
        }
        yield from encoders.values()
        options = ("--eval-every", "25000", "--eval-episodes", "20")
        variants: dict[str, tuple[tuple[str, ...], Training | None]] = {}
        for (game, objective), encoder in encoders.items():
            variant = f"from {objective} on {game}"
            variants[variant] = (options, encoder)
            variants[f"{variant}, frozen"] = ((*options, "--freeze", "encoder"), encoder)
        variants["from scratch"] = (options, None)  # the last row, with which tables compare
        for game, (variant, (further, start)) in product(games, variants.items()):
            env = f"MinAtar/{game}-v1"
            yield Training("pretraining", env, "dqn", variant, further, 100_000, seed, start)


NIGHTLY_SEEDS = 12  # of the reference

_NIGHTLY = (  # short enough for every mechanism to be trained often
    ("dqn", "CartPole-v1", 20_000, ()),
    ("rainbow", "CartPole-v1", 10_000, ()),
    ("ppo", "CartPole-v1", 20_000, ()),
    ("r2d2", "ludus/MaskedCartPole-v0", 20_000, ()),
    ("dqn", "MinAtar/Breakout-v1", 30_000, ()),
    ("pqn", "MinAtar/Breakout-v1", 400_000, ()),
    ("ppo", "MinAtar/SpaceInvaders-v1", 200_000, ()),
    ("alphazero", "tic_tac_toe", 6_000, ("--opponent", "mcts:50", "--play-simulations", "4")),
)


def nightly(experiment: str, seeds: Iterable[int]) -> Iterator[Training]:
    """Short trainings of agents of each kind, whose scores say whether something has broken."""
    for seed, (agent, env, steps, further) in product(seeds, _NIGHTLY):
        options = ("--eval-episodes", "40", *further)
        yield Training(experiment, env, agent, agent, options, steps, seed)


def _nightly() -> Iterator[Training]:
    """The reference of nightly.py."""
    yield from nightly("nightly", range(NIGHTLY_SEEDS))


EXPERIMENTS = {
    "pqn": _pqn,
    "alphazero_value": _alphazero_value,
    "r2d2_eps": _r2d2_eps,
    "overlap": _overlap,
    "precision": _precision,
    "dqn_sb3": _dqn_sb3,
    "dqn_sb3_again": _dqn_sb3_again,
    "a2c_sb3": _a2c_sb3,
    "small_machine": _small_machine,
    "nightly": _nightly,
    "minatar_long": _minatar_long,
    "connect_four": _connect_four,
    "othello": _othello,
    "precision_again": _precision_again,
    "pong": _pong,
    "minatar_million": _minatar_million,
    "scaling": _scaling,
    "atari_hour": _atari_hour,
    "pretraining": _pretraining,
    "data_efficient": _data_efficient,
    "boxing": _boxing,
    "auxiliary": _auxiliary,
}
