"""Names of the fixed players of board games, without the packages that the players need."""

OPPONENTS = {
    "random": "every legal move with the same probability",
    "greedy": "wins at once, else keeps the other from it, else counts material (a reply ahead)",
    "mcts:N": "OpenSpiel's Monte-Carlo tree search with N simulations",
    "minimax": "perfect play, where the rest of the game can be searched",
    "perfect": "perfect play of connect four (extra `perfect`)",
    "gtp:COMMAND": "an engine of go, the program of that command (Go Text Protocol)",
}
GTP = "gtp:"
_MOST_SIMULATIONS = 10_000_000


def simulations_of(name: str) -> int | None:
    """Return N of `mcts:N`; None for any other name."""
    kind, _, number = name.partition(":")
    if kind != "mcts" or not number.isdecimal() or not 0 < int(number) <= _MOST_SIMULATIONS:
        return None
    return int(number)


def is_opponent(name: str) -> bool:
    """Return whether a fixed player has that name."""
    whole = name in OPPONENTS and ":" not in name
    return whole or name.startswith(GTP) or simulations_of(name) is not None
