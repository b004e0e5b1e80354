"""The picture of an evolution: every gene against the fitness; nothing is computed.

Figures are made as those of plots.py are: no pyplot, equal input gives equal bytes.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from yolov5_core.evolve import GENES, Individual, best_first
from yolov5_core.pictures import write_encoded

_COLUMNS = 5
_DOT, _BEST, _INK, _PALE, _GRID = "#4a90d9", "#e63946", "#1f2933", "#7b8794", "#e4e7eb"


def plot_evolution(individuals: Sequence[Individual], path: Path) -> Path:
    """Writes evolve.png: a panel a gene, its value and the fitness of each generation.

    The best one is marked in red, later generations are darker than earlier ones.

    Args:
        individuals: At least one.
        path: A .png, replaced as a whole.

    Returns:
        The path.

    Source: spec E.8.
    """
    genes = [name for name in individuals[0].hyp if name in GENES and GENES[name].gain]
    rows = -(-len(genes) // _COLUMNS)
    figure = Figure(figsize=(2.9 * _COLUMNS, 2.3 * rows + 0.5), dpi=100, facecolor="white")
    figure.subplots_adjust(0.04, 0.04, 0.99, 1 - 0.9 / (2.3 * rows + 0.5), 0.28, 0.5)
    FigureCanvasAgg(figure)
    best = best_first(individuals)[0]
    order = sorted(individuals, key=lambda each: each.generation)
    fitness = np.array([each.fitness for each in order])
    shade = np.linspace(0.25, 0.9, len(order)) if len(order) > 1 else np.array([0.9])
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for axes, name in zip(panels, genes, strict=False):
        values = np.array([each.hyp[name] for each in order])
        axes.scatter(values, fitness, s=16, color=_DOT, alpha=shade, linewidths=0)
        axes.scatter([best.hyp[name]], [best.fitness], s=55, color=_BEST, marker="P", zorder=3)
        axes.set_title(f"{name}  {best.hyp[name]:.3g}", fontsize=10, color=_INK, loc="left")
        axes.grid(color=_GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#9aa5b1")
        axes.tick_params(colors=_INK, labelsize=7, color="#9aa5b1")
        if np.ptp(values):
            axes.xaxis.set_major_locator(MaxNLocator(4))
        else:
            axes.set_xticks(values[:1])
        axes.yaxis.set_major_locator(MaxNLocator(4))
    for axes in panels:  # of the last row, that no gene took
        axes.set_visible(False)
    figure.suptitle(
        f"Fitness of {len(order)} generations; best {best.fitness:.4f}, "
        f"generation {best.generation}",
        fontsize=13, color=_INK, x=0.04, ha="left",
    )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return write_encoded(path, buffer.getvalue())
