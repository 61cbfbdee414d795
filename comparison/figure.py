"""Figures of one appearance, for light and dark pages, as PNG, SVG and PDF, and in notebooks."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
_DARK = {  # colour on white: colour on a dark page
    "#ffffff": "#1f2226",
    "#000000": "#e8e8e8",
    "#444444": "#c3c7cc",
    "#666666": "#9aa0a6",
    "#777777": "#9aa0a6",
    "#dddddd": "#3a3d42",
    "#0072b2": "#56b4e9",
    "#56b4e9": "#b5dff7",
}
_SETTINGS: Any = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "text.parse_math": False,  # names may contain dollar signs
}
_WIDTH = 9.5  # inches
_DPI = 140


@contextmanager
def figure_at(
    path: Path | None, rows: int, columns: int, height: float, *, sharey: bool = False
) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure and its axes, and save the figure atomically if there is a path."""
    with matplotlib.rc_context(_SETTINGS):
        # without pyplot, which would change the backend of a notebook and keep every figure
        figure = _NotebookFigure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, columns, sharey=sharey, squeeze=False)[0]
        if path is not None:
            for suffix in SUFFIXES:
                _save(figure, path.with_suffix(suffix))
            _darken(figure)
            _save(figure, dark_file(path))


def _save(figure: Figure, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=_DPI, format=path.suffix[1:], facecolor=figure.get_facecolor())
    temporary.replace(path)


def dark_file(path: Path) -> Path:
    """Return the path of a figure for dark pages, beside that of the figure."""
    return path.with_name(f"{path.stem}-dark.png")


def embedded(path: Path) -> dict[str, str]:
    """Return a figure for light and for dark pages, in base64."""
    both = {"light": path, "dark": dark_file(path)}
    return {name: base64.b64encode(file.read_bytes()).decode() for name, file in both.items()}


def _darken(figure: Figure) -> None:
    """Replace the colours of a figure by those for a dark page."""

    def dark(colour: Any) -> Any:
        red, green, blue, alpha = colors.to_rgba(colour)
        other = _DARK.get(colors.to_hex((red, green, blue)))
        return colour if other is None or alpha == 0 else colors.to_rgba(other, alpha)

    for part in figure.findobj():
        for name in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
            get, put = getattr(part, f"get_{name}", None), getattr(part, f"set_{name}", None)
            if get is None or put is None:
                continue
            value = get()
            if isinstance(value, str) and value in ("none", "auto", "inherit"):
                continue
            many = isinstance(value, np.ndarray) and value.ndim == 2
            put([dark(each) for each in value] if many else dark(value))


class _NotebookFigure(Figure):
    """A figure that a notebook shows whatever its backend."""

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        with matplotlib.rc_context(_SETTINGS):
            self.savefig(data, dpi=_DPI, format="png")
        return data.getvalue()
