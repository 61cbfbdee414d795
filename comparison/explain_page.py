"""Render the page of an explanation from `explain.html.j2`: one HTML file without external files.

This module computes the values and pictures that the template shows. The script draws the map.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from ludus.comparison.explain import APART, Explanation, OccludedPositions, spread
from ludus.comparison.explain_pictures import (
    Sheets,
    change_picture,
    heat_picture,
    png,
    shaded_board,
    sheets,
    weights_picture,
)
from ludus.comparison.explain_reconstruction import reconstruction_values
from ludus.comparison.page import package_text, render
from ludus.envs.board import spiel
from ludus.envs.board.picture import GROUND_BELOW, side_colours
from ludus.evaluation.played_states import PlayedStates
from ludus.evaluation.randomisation import DOUBTED, TRUSTED, SaliencyCheck
from ludus.training.checkpoint import write_atomically
from ludus.training.film import film_title
from ludus.training.train import LoadedAgent

_SHEET_BYTES = 4_000_000  # of all frames; the page has a third more, for base64
_ALIKE = 0.8  # correlation between maps of different states from which they hardly differ
_SHOWN_LAYERS = 6  # of the examples of a test


def write_explanation(path: Path, loaded: LoadedAgent, found: Explanation, seed: int) -> Path:
    """Write the page; return its path.

    Args:
        path: the HTML file.
        loaded: the agent and its configuration.
        found: what the page shows.
        seed: of the games.
    """
    frames, env_id = sheets(found.states.frames, _SHEET_BYTES), loaded.config.env
    values = {
        "title": film_title(loaded.config, loaded.env_steps),
        "found": found,
        "count": len(found.states.obs),
        "games": len(np.unique(found.states.game)),
        "seed": seed,
        "apart": APART,
        "board": found.occluded is not None or spiel.is_game(env_id),
        "sides": side_colours(spiel.make_game(env_id)) if spiel.is_game(env_id) else None,
        "frames": frames,
        "reduced": frames.width < found.states.frames.shape[2],
        "data": _data(found, frames),
        "layers": [(layer, png(weights_picture(layer.weight))) for layer in found.layers],
        "checks": [
            _check_values(check, found.states, states)
            for check, states in zip(found.checks, found.checked, strict=True)
        ],
        "occluded": _occlusion_values(found.occluded, found.states, env_id),
        "reconstructed": reconstruction_values(found.reconstructed, found.states),
        "script": package_text("explain.js"),
    }
    filters = {
        "correlation": _format_correlation,
        "percent": _format_percent,
        "error": "{:.3g}".format,
    }
    styles = ("report.css", "explain.css")
    write_atomically(path, render("explain.html.j2", values, filters=filters, styles=styles))
    return path


def _data(found: Explanation, frames: Sheets) -> dict[str, Any]:
    """Return what the script needs, as JSON."""
    s = found.states
    maps = {"PCA": found.components.points}
    if found.umap is not None:
        maps["UMAP"] = found.umap
    names = list(dict.fromkeys([*s.chosen, *(a.name for row in s.actions for a in row)]))
    numbers = {name: i for i, name in enumerate(names)}
    decimals = _decimals(s.value)
    low, high = (round(float(x), decimals) for x in np.nanquantile(s.value, (0.02, 0.98)))
    return {
        "width": frames.width,
        "height": frames.height,
        "columns": frames.columns,
        "per_sheet": frames.per_sheet,
        "maps": {name: unit_square(points) for name, points in maps.items()},
        "value": [round(float(v), decimals) if math.isfinite(v) else None for v in s.value],
        "range": [low, high],
        "game": s.game.tolist(),
        "step": s.step.tolist(),
        "names": names,
        "chosen": [numbers[name] for name in s.chosen],
        "actions": [[[numbers[a.name], _significant(a.score)] for a in row] for row in s.actions],
        "are_values": s.scores_are_values,
        "near": [
            [[int(j), round(float(c), 3)] for j, c in zip(*pair, strict=True) if j >= 0]
            for pair in zip(found.neighbours.states, found.neighbours.similarity, strict=True)
        ],
        "units": [[unit.states, _rounded(np.array(unit.activation))] for unit in found.units],
    }


def unit_square(points: np.ndarray) -> list[list[float]]:
    """Return points [N, 2] scaled to 0 to 1 in each direction.

    The few that lie far outside of all others are put at the edge, since a single one would leave
    no space for the others.
    """
    middle = np.quantile(points, (0.01, 0.99), axis=0)
    margin = 0.5 * (middle[1] - middle[0])
    low = np.maximum(points.min(0), middle[0] - margin)
    high = np.minimum(points.max(0), middle[1] + margin)
    scaled = np.clip((points - low) / np.maximum(high - low, 1e-12), 0, 1)
    return [[round(float(x), 4), round(float(y), 4)] for x, y in scaled]


def _decimals(values: np.ndarray) -> int:
    """Return the decimals by which values differ visibly, however large they are."""
    spread = float(np.nanmax(values) - np.nanmin(values))
    return 2 if spread <= 0 else max(0, 2 - math.floor(math.log10(spread)))


def _significant(number: float) -> float | None:
    """Return a number with four significant digits; None if it is not finite."""
    return float(f"{number:.4g}") if math.isfinite(number) else None


def _rounded(numbers: np.ndarray) -> list[float | None]:
    return [_significant(float(number)) for number in numbers]


def _check_values(
    check: SaliencyCheck, states: PlayedStates, checked: np.ndarray
) -> dict[str, Any]:
    """Return the table, the sentences and the example maps of a test."""
    shown = spread(len(check.layers), _SHOWN_LAYERS)
    rows = [
        {
            "frame": png(states.frames[checked[i]]),
            "maps": [png(heat_picture(maps[0]))] + [png(heat_picture(maps[1 + j])) for j in shown],
        }
        for i, maps in enumerate(check.examples)
    ]
    return {
        "check": check,
        "verdict": verdict(check),
        "blind": blind_layers(check),
        "columns": ["trained", *(check.layers[j].layer for j in shown)],
        "examples": rows,
    }


def verdict(check: SaliencyCheck) -> str:
    """Return in a sentence whether this kind of map can be trusted."""
    if not math.isfinite(check.final):
        return (
            "Do not trust this map: with all layers randomised it has one value everywhere in all "
            "states, so that nothing can be compared."
        )
    alike = ""
    if check.between_states >= _ALIKE:
        alike = (
            " The trained network's maps of different states are much alike "
            f"({check.between_states:.2f}): this map shows little that is particular to a state."
        )
    number = f"the mean rank correlation with the trained network's maps is {check.final:.2f}"
    if check.final >= DOUBTED:
        return (
            f"Do not trust this map: with all layers randomised {number}, so that it shows the "
            "image rather than the network."
        )
    if check.final >= TRUSTED:
        return (
            f"Trust only the coarse form of this map: with all layers randomised {number}, so that "
            f"a part of it shows the image rather than the network.{alike}"
        )
    return (
        f"This map depends on the network's weights: with all layers randomised {number}. That it "
        f"depends on them does not prove that it explains them.{alike}"
    )


def blind_layers(check: SaliencyCheck) -> list[str]:
    """Return the layers, from the head on, whose loss leaves the map much as it was."""
    found = []
    for layer in check.layers:
        if not layer.mean >= DOUBTED:
            break
        found.append(layer.layer)
    return found


def _occlusion_values(
    occluded: OccludedPositions | None, states: PlayedStates, env_id: str
) -> dict[str, Any] | None:
    """Return the pictures of occluded positions and of the mean over all."""
    if occluded is None:
        return None
    policy, value = occluded.occlusion.policy, occluded.occlusion.value
    change = occluded.occlusion.share
    bits = states.obs.dtype == np.uint8 and _fills_picture(env_id)
    pictures = []
    for i in occluded.shown:
        upright = change[i][::-1] if env_id in GROUND_BELOW else change[i]
        frame = states.frames[occluded.states[i]]
        largest = np.unravel_index(np.nanargmax(policy[i]), policy[i].shape)
        pictures.append(
            {
                "picture": png(shaded_board(frame, upright) if bits else frame),
                "squares": None if bits else png(change_picture(change[i])),
                "policy": float(policy[i][largest]),
                "value": float(value[i][largest]),
                "chosen": states.chosen[occluded.states[i]],
            }
        )
    counted = np.isfinite(policy).sum(0)
    mean = np.where(counted > 0, np.nansum(policy, 0) / np.maximum(counted, 1), np.nan)
    mean = mean[::-1] if env_id in GROUND_BELOW else mean
    return {
        "pictures": pictures,
        "mean": [[None if np.isnan(x) else round(float(x), 2) for x in row] for row in mean],
        "positions": len(policy),
        "are_values": occluded.occlusion.are_values,
        "on_board": bits,
    }


def _fills_picture(env_id: str) -> bool:
    """Return whether the squares of a game's picture are those of its planes."""
    return env_id in ("tic_tac_toe", "connect_four", "othello")


def _format_percent(share: float) -> str:
    return f"{100 * share:z.0f}%" if math.isfinite(share) else "-"


def _format_correlation(number: float) -> str:
    return f"{number:z.2f}" if math.isfinite(number) else "-"
