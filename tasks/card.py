"""The run card: `runs/<run>/report.html`, the page to open in the morning, also of a failed run."""

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tasks.card_facts import Run, gather, night_of, open_run
from tasks.history import enter
from tasks.records import Artifact, RunInfo
from tasks.stage import run_key
from yolov5_core.run_card import run_card_html
from yolov5_core.run_card_markdown import run_card_markdown
from yolov5_core.run_card_pictures import as_data_uri

log = logging.getLogger(__name__)

CARD = "report.html"  # of a run
_PICTURES = {  # of plots/, and what there is to say of them
    "worst.jpg": "The most harmful errors on validation pictures, above confidence 0.25 at IoU 0.5",
    "val_batch0_pred.jpg": "Validation pictures: what the model finds above confidence 0.25",
    "val_batch0_labels.jpg": "The same pictures with their labels",
    "confusion_matrix.png": "Which class is taken for which",
    "PR_curve.png": "Precision over recall at IoU 0.5",
}
_BEGUN = {"train_batch0.jpg": "Training pictures, as the model is given them"}


class Card(NamedTuple):
    """A run's card: the page in the store, and the same in short for a Prefect artifact."""

    page: Artifact
    markdown: str  # at most 300 KB


def write_card(info: RunInfo, fault: BaseException | None = None) -> Card:
    """Writes the card of a run and, when the run has ended, enters it in the history.

    Args:
        info: Of the run.
        fault: What it ended with; None if it ended well.

    Raises:
        StoreError: The store failed.
    """
    run = open_run(info)
    facts = gather(run, fault)
    page = run_card_html(facts, _pictures(run))
    card = run.store.put_bytes(page.encode("utf-8", "backslashreplace"), run_key(info.run, CARD))
    if facts["status"] != "unfinished":
        enter(run.store, info.config.name, night_of(facts))
    log.info("run card %s, %.1f MB", run.store.url(card.key), card.size / 1e6)
    return Card(card, run_card_markdown(facts))


def _pictures(run: Run) -> list[tuple[str, str]]:
    """Captions and data URIs; of a training that is not over, what the model was given."""
    is_plotted = "plot" in run.records
    known = {output.key: output for r in run.records.values() for output in r.outputs}
    shown = []
    for name, caption in (_PICTURES if is_plotted else _BEGUN).items():
        key = run_key(run.info.run, f"plots/{name}")
        reading: Callable[[], bytes] | None = None
        if key in known:
            reading = partial(run.store.read_artifact, known[key])
        elif not is_plotted and f"plots/{name}" in run.names:
            reading = partial(run.store.read_bytes, key)
        data = run.read(f"picture {name}", reading) if reading else None
        if data and (uri := as_data_uri(data)):
            shown.append((caption, uri))
    return shown
