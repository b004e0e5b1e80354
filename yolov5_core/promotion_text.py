"""The verdict on a new model for people: a sentence, the numbers, a table of classes."""

from collections.abc import Mapping
from typing import Any

from yolov5_core.report_markdown import plain_text


def headline(result: Mapping[str, Any]) -> str:
    """The verdict in one sentence."""
    if result["promoted"]:
        return f"New champion: {result['reason']}."
    return f"Champion kept (run {result['champion']}): {result['reason']}."


def class_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A class of the comparison as texts: name, labels, before, now, gain, interval, remark."""
    return (
        row["class"],
        f"{row['labels']:,}",
        f"{row['champion']:.3f}",
        f"{row['challenger']:.3f}",
        f"{row['gain']:+.3f}",
        f"{row['low']:+.3f} to {row['high']:+.3f}",
        "lost too much" if row["lost"] else "",
    )


CLASS_COLUMNS = ("class", "labels", "champion", "new", "gain", "90 of 100 draws", "")


def promotion_markdown(result: Mapping[str, Any]) -> str:
    """Verdict and numbers, for a Prefect artifact."""
    numbers = result["numbers"]
    lines = [f"# {plain_text(headline(result), longest=1000)}", ""]
    lines += [f"Champion: `{result['address']}`, entry {result['entry']} of its log.", ""]
    if numbers:
        lines += [
            f"Fitness {numbers['champion']:.4f} before, {numbers['challenger']:.4f} now: "
            f"{numbers['gain']:+.4f}; ahead in {100 * numbers['chance_of_better']:.0f} of 100 "
            f"draws of {numbers['images']:,} pictures ({numbers['draws']:,} drawn).",
            "",
            f"| {' | '.join(CLASS_COLUMNS)} |",
            f"|{'---|' * len(CLASS_COLUMNS)}",
        ]
        for row in numbers["classes"][:100]:
            cells = (plain_text(cell, longest=100) for cell in class_cells(row))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
