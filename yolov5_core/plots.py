"""Figures of a run: results over epochs, labels, metric curves, confusion matrix; no computation.

Figures are made through matplotlib's objects, never pyplot, so that threads share no state. Equal
input gives equal bytes: PNG without dates.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from yolov5_core.metrics import DetectionMetrics
from yolov5_core.pictures import colour, write_encoded
from yolov5_core.results import ResultsRow

# Panel title and index into ResultsRow.scalars; two rows of five (spec E.8, results.png).
_PANELS = (
    ("Box loss", 0),
    ("Objectness loss", 1),
    ("Classification loss", 2),
    ("Precision", 3),
    ("Recall", 4),
    ("Validation box loss", 7),
    ("Validation objectness loss", 8),
    ("Validation classification loss", 9),
    ("mAP@0.5", 5),
    ("mAP@0.5:0.95", 6),
)
_METRICS = range(3, 7)  # of ResultsRow.scalars: in [0, 1]; the others are losses
_NAMED_CLASSES = 20  # curves of more classes are drawn grey, without legend entries
_OVERLAID_BOXES = 1500
_NAME_LENGTH = 22  # characters of a class or run name in a figure
_INK = "#1f2933"
_PALE = "#7b8794"
_GRID = "#e4e7eb"
_HEAT = LinearSegmentedColormap.from_list("heat", ["#f3f8fe", "#6baed6", "#1f5fa8", "#0b2545"])


def plot_results(runs: Mapping[str, Sequence[ResultsRow]], path: Path) -> Path:
    """Writes results.png: losses and metrics over the epochs, one line per run.

    Losses of zero are not drawn: they mean "not measured" or "one class". A dot marks the epoch of
    the best fitness, 0.1 mAP50 + 0.9 mAP50-95.

    Args:
        runs: Rows by run name; a run may be empty.
        path: A .png, replaced as a whole.

    Returns:
        The path.

    Source: spec E.8.
    """
    figure = _figure(15, 6)
    panels = figure.subplots(2, 5).flat
    tables = [np.array([row.scalars for row in rows]).reshape(-1, 10) for rows in runs.values()]
    epochs = [np.array([row.epoch for row in rows]) for rows in runs.values()]
    for axes, (title, column) in zip(panels, _PANELS, strict=True):
        drawn = False
        for number, (x, table) in enumerate(zip(epochs, tables, strict=True)):
            hidden = ~table[:, 3:].any(axis=1) if column in _METRICS else table[:, column] == 0
            y = np.where(hidden | ~np.isfinite(table[:, column]), np.nan, table[:, column])
            drawn |= bool(np.isfinite(y).any())
            marker = "o" if len(x) <= 60 else None  # dots show where short runs were measured
            size = 3 if len(x) > 1 else 6
            axes.plot(x, y, color=_rgb(number + 1), lw=1.6, marker=marker, ms=size)
            if column in (5, 6):
                _mark_best(axes, x, y, table, single=len(runs) == 1)
        _finish_panel(axes, title, is_metric=column in _METRICS, drawn=drawn)
    if len(runs) > 1:
        lines = axes.get_lines()
        figure.legend(
            [line for line in lines if line.get_label() != "best"],
            [_plain(name) for name in runs],
            loc="outside lower center",
            ncols=min(len(runs), 6),
            frameon=False,
        )
    return _save(figure, path)


def plot_labels(labels: np.ndarray, names: Sequence[str], path: Path) -> Path:
    """Writes labels.png: class counts, boxes on top of each other, places and sizes.

    Args:
        labels: (N, 5) class, cxcywh normalised to [0, 1].
        names: Class names.
        path: A .png, replaced as a whole.

    Returns:
        The path.

    Source: spec E.8.
    """
    counts = np.bincount(labels[:, 0].astype(int), minlength=len(names))
    if len(counts) <= _NAMED_CLASSES:
        figure = _figure(10, 9.5)
        counts_axes, boxes_axes, place_axes, size_axes = figure.subplots(2, 2).flat
    else:  # a row of its own for the many names
        figure = _figure(15, 10)
        grid = figure.add_gridspec(2, 3)
        counts_axes = figure.add_subplot(grid[0, :])
        boxes_axes, place_axes, size_axes = (figure.add_subplot(grid[1, i]) for i in range(3))
    _draw_counts(counts_axes, counts, names)

    some_rows = np.linspace(0, len(labels) - 1, min(len(labels), _OVERLAID_BOXES)).astype(int)
    shown = labels[some_rows]
    half = shown[:, 3:5] / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
    outlines = half[:, None, :] * corners
    colours = [(*_rgb(int(c)), min(1.0, 0.15 + 20 / len(shown))) for c in shown[:, 0]]
    boxes_axes.add_collection(LineCollection(list(outlines), colors=colours, linewidths=1.1))
    boxes_axes.set(xlim=(-0.5, 0.5), ylim=(0.5, -0.5), xticks=[], yticks=[], aspect="equal")
    boxes_axes.spines[:].set_color("#9aa5b1")
    some = f" ({len(shown)} of {len(labels)})" if len(shown) < len(labels) else ""
    _title(boxes_axes, f"Boxes, centred{some}")

    for axes, first, what in ((place_axes, 1, "Box centres"), (size_axes, 3, "Box sizes")):
        heat, _, _ = np.histogram2d(
            labels[:, first + 1], labels[:, first], bins=40, range=[[0, 1], [0, 1]]
        )
        image = np.ma.masked_equal(heat, 0)
        axes.imshow(
            image, cmap=_HEAT, origin="lower", extent=(0, 1, 0, 1), aspect="equal", zorder=1
        )
        _ground(axes)
        _title(axes, what)
    place_axes.set(xlabel="x / picture width", ylabel="y / picture height")
    place_axes.invert_yaxis()  # as in the picture: y points down
    size_axes.set(xlabel="width / picture width", ylabel="height / picture height")
    return _save(figure, path)


def plot_pr_curve(metrics: DetectionMetrics, names: Sequence[str], path: Path) -> Path:
    """Writes PR_curve.png: precision over recall at IoU 0.5, AP50 of each class in the legend."""
    figure = _figure(9, 6)
    axes = figure.subplots()
    labels = [
        f"{_class_name(names, int(index))}  {ap50:.3f}"
        for index, ap50 in zip(metrics.classes, metrics.ap50, strict=True)
    ]
    mean = f"all classes  {metrics.map50:.3f} mAP@0.5"
    recall = np.linspace(0, 1, metrics.pr_curve.shape[1])
    _draw_curves(axes, recall, metrics.pr_curve, metrics.classes, [*labels, mean])
    axes.set(xlabel="Recall", ylabel="Precision")
    _title(axes, "Precision over recall")
    return _save(figure, path)


def plot_f1_curve(metrics: DetectionMetrics, names: Sequence[str], path: Path) -> Path:
    """Writes F1_curve.png: F1 over the confidence threshold, per class and mean."""
    return _confidence_curve(metrics, metrics.f1_curve, "F1", names, path)


def plot_p_curve(metrics: DetectionMetrics, names: Sequence[str], path: Path) -> Path:
    """Writes P_curve.png: precision over the confidence threshold, per class and mean."""
    return _confidence_curve(metrics, metrics.precision_curve, "Precision", names, path)


def plot_r_curve(metrics: DetectionMetrics, names: Sequence[str], path: Path) -> Path:
    """Writes R_curve.png: recall over the confidence threshold, per class and mean."""
    return _confidence_curve(metrics, metrics.recall_curve, "Recall", names, path)


def plot_confusion(matrix: np.ndarray, names: Sequence[str], path: Path) -> Path:
    """Writes confusion_matrix.png: what each true class was taken for, columns normalised.

    Args:
        matrix: (C + 1, C + 1) counts, rows predicted, columns true, last index background.
        names: C class names.
        path: A .png, replaced as a whole.

    Returns:
        The path.

    Source: spec E.5, E.8.
    """
    size = len(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=0, keepdims=True), 1e-9)
    side = float(np.clip(0.42 * size, 5.5, 14))
    figure = _figure(side + 2.4, side + 0.8)
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_less(shares, 0.005), cmap=_HEAT, vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=30, label="share of the true class")
    bar.outline.set_visible(False)
    if size <= 31:  # more cells are too small for numbers
        _write_cells(axes, matrix, shares)
    labels = [_class_name(names, index) for index in range(size - 1)] + ["background"]
    font = 10 if size <= 13 else 7 if size <= 40 else 5.5
    axes.set_xticks(range(size), labels, rotation=90 if size > 5 else 0, fontsize=font)
    axes.set_yticks(range(size), labels, fontsize=font)
    axes.set_xticks(np.arange(1, size) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, size) - 0.5, minor=True)
    axes.grid(which="minor", color=_GRID, lw=0.6)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_color(_GRID)
    axes.set(xlabel="True", ylabel="Predicted")
    _title(axes, "Confusion matrix")
    return _save(figure, path)


def _mark_best(
    axes: Axes, epochs: np.ndarray, y: np.ndarray, table: np.ndarray, *, single: bool
) -> None:
    fitness = 0.1 * table[:, 5] + 0.9 * table[:, 6]
    measured = np.isfinite(y) & np.isfinite(fitness)
    if not measured.any():
        return
    best = int(np.where(measured, fitness, -1).argmax())
    line = axes.get_lines()[-1]
    axes.plot(
        epochs[best], y[best], label="best", lw=0, zorder=3, marker="o", ms=8,
        mfc=line.get_color(), mec=_INK, mew=1.6,
    )  # fmt: skip
    if single:
        text = f"best {y[best]:.3f} @ {epochs[best]}"
        axes.set_title(text, fontsize=9, color=_PALE, loc="right")


def _finish_panel(axes: Axes, title: str, *, is_metric: bool, drawn: bool) -> None:
    _title(axes, title)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", fontsize=8, color=_PALE, labelpad=1)
    _ground(axes)
    if not drawn:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color=_PALE)
    elif is_metric:
        top = min(1.02, axes.get_ylim()[1] * 1.05)
        axes.set_ylim(-0.03 * top, top)  # a value of 0 stays whole


def _draw_counts(axes: Axes, counts: np.ndarray, names: Sequence[str]) -> None:
    positions = np.arange(len(counts))
    axes.bar(positions, counts, color=[_rgb(int(i)) for i in positions], width=0.8)
    few = len(counts) <= 12
    if few:
        for position, count in zip(positions, counts, strict=True):
            axes.annotate(
                str(count), (position, count), (0, 3), textcoords="offset points", ha="center",
                color=_INK, fontsize=9,
            )  # fmt: skip
    labels = [_class_name(names, int(index)) for index in positions]
    _ground(axes)
    font = 9 if few else max(3.5, min(8.0, 700 / len(counts)))
    turned = len(counts) > 6 or max(map(len, labels), default=0) > 10
    axes.set_xticks(positions, labels, rotation=90 if turned else 0, fontsize=font)
    axes.set_xlim(-0.7, len(counts) - 0.3)
    axes.set_ylim(0, max(1.0, 1.08 * counts.max(initial=0)))
    axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(visible=False, axis="x")
    _title(axes, f"Labels per class ({counts.sum()} in all)")


def _write_cells(axes: Axes, matrix: np.ndarray, shares: np.ndarray) -> None:
    """The share in each cell that is not blank, and the count under it where there is room."""
    for row, column in np.argwhere(shares >= 0.005):
        share = f"{shares[row, column]:.2f}"
        texts: list[tuple[str, float, float]] = [(share, 0, 6)]  # text, points raised, font size
        if len(matrix) <= 13:
            texts = [(share, 5, 10), (f"{matrix[row, column]:.0f}", -8, 7)]
        for text, raised, font in texts:
            axes.annotate(
                text, (column, row), (0, raised), textcoords="offset points", ha="center",
                va="center", color="white" if shares[row, column] > 0.4 else _INK, fontsize=font,
            )  # fmt: skip


def _confidence_curve(
    metrics: DetectionMetrics, curves: np.ndarray, what: str, names: Sequence[str], path: Path
) -> Path:
    figure = _figure(9, 6)
    axes = figure.subplots()
    labels = [_class_name(names, int(index)) for index in metrics.classes]
    mean = "all classes"
    if len(curves):
        heights = curves.mean(axis=0)
        best = int(heights.argmax())
        mean += f"  {heights[best]:.3f} at {metrics.confidence[best]:.3f}"
    _draw_curves(axes, metrics.confidence, curves, metrics.classes, [*labels, mean])
    axes.set(xlabel="Confidence threshold", ylabel=what)
    _title(axes, f"{what} over confidence")
    return _save(figure, path)


def _draw_curves(
    axes: Axes, x: np.ndarray, curves: np.ndarray, classes: np.ndarray, labels: Sequence[str]
) -> None:
    """Thin lines per class, a thick one for their mean, and the legend; the last label is its."""
    named = len(curves) <= _NAMED_CLASSES
    lines = []
    for curve, index in zip(curves, classes, strict=True):
        ink = _rgb(int(index)) if named else "#b8c2cc"
        lines += axes.plot(x, curve, color=ink, lw=1.4 if named else 0.7)
    mean = curves.mean(axis=0) if len(curves) else np.full(len(x), np.nan)
    lines += axes.plot(x, mean, color="#0b2545", lw=3)
    shown = slice(None) if named else slice(-1, None)
    axes.legend(lines[shown], labels[shown], loc="upper left", bbox_to_anchor=(1.01, 1.0),
                frameon=False, borderaxespad=0)  # fmt: skip
    if not len(curves):
        axes.text(0.5, 0.5, "no labels", ha="center", color=_PALE)
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    _ground(axes)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches of 110 pixels."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    # Without the program's version, so that the bytes depend on what is drawn alone.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return write_encoded(path, buffer.getvalue())


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=11, color=_INK, loc="left", weight="bold")


def _ground(axes: Axes) -> None:
    """Quiet axes: a pale grid behind the data, no frame."""
    axes.grid(color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa5b1")
    axes.tick_params(colors=_INK, labelsize=9, color="#9aa5b1")


def _rgb(index: int) -> tuple[float, float, float]:
    red, green, blue = colour(index)
    return red / 255, green / 255, blue / 255


def _class_name(names: Sequence[str], index: int) -> str:
    return _plain(names[index] if index < len(names) else str(index))


def _plain(name: str) -> str:
    """A name as matplotlib shows it unchanged: no formulas ($), not hidden (leading _), short."""
    short = name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"
    return short.replace("$", r"\$").replace("_", " _", int(short.startswith("_")))
