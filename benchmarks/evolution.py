"""What twenty generations of evolution gain over the table they begin with, and what of it stays.

A detector is trained on a small drawn set; evolution then looks for the table with which few more
epochs make it best. Choosing the best of twenty measurements flatters it, so the table found and
the default one are measured once more: other pictures, other seeds of training, nothing chosen.
"""

import os
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measure import parser, report
from flows.cli import ready_prefect

_SIZE = 96  # pixels
_TRAIN, _VAL = 96, 100  # pictures
_FRESH = 2  # measurements of a table, each on pictures and with a seed of its own


def main() -> None:
    """Reports fitness before and after for every seed."""
    arguments = parser(__doc__)
    arguments.add_argument("--generations", type=int, default=20)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--base-epochs", type=int, default=80, help="of the detector")
    arguments.add_argument("--epochs", type=int, default=6, help="of a generation")
    arguments.add_argument("--folder", default="", help="keep all here, and go on from there")
    given = arguments.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tensors are too small for more
    with tempfile.TemporaryDirectory(prefix="evolution-") as scratch:
        folder = Path(given.folder or scratch).absolute()
        weights = _base(folder, given.base_epochs)
        found = []
        for seed in range(given.seeds):
            found.append(_evolve(folder, weights, given.epochs, seed, given.generations))
            sys.stdout.write(f"seed {seed}: {found[-1]}\n")
            sys.stdout.flush()
    rows = [
        (
            f"seed {each['seed']}",
            f"default {each['default']:.4f}, best of {given.generations} {each['best']:.4f} "
            f"(generation {each['generation']}); measured anew: default "
            f"{each['default_fresh']:.4f}, best {each['best_fresh']:.4f}",
        )
        for each in found
    ]
    chosen = statistics.median(each["best"] / each["default"] for each in found)
    fresh = statistics.median(each["best_fresh"] / each["default_fresh"] for each in found)
    rows += [("gain", f"{chosen:.3f} as selected, {fresh:.3f} measured anew (medians of ratios)")]
    report({"runs": found, "gain": chosen, "gain_fresh": fresh}, rows, given.json)


def _draw(folder: Path, seed: int) -> str:
    from yolov5_core.synthetic import draw_dataset  # noqa: PLC0415  after ready_prefect

    drawn = draw_dataset(
        folder / f"data{seed}",
        train=_TRAIN,
        val=_VAL,
        image_size=_SIZE,
        seed=seed,
        progress=lambda *_: None,
    )
    return str(drawn)


def _config(folder: Path, store: str, **more: Any) -> Any:
    from tasks.settings import RetrainConfig  # noqa: PLC0415  as above

    return RetrainConfig(
        store=str(folder / store),
        cfg="n",
        batch_size=16,
        image_size=_SIZE,
        cache_images=True,
        workers=0,
        max_drift=1.0,
        **more,
    )


def _base(folder: Path, epochs: int) -> str:
    """The detector that generations begin with; nothing but its checkpoint is needed."""
    ready_prefect()
    from flows import stages  # noqa: PLC0415  it imports Prefect
    from tasks.run import begin_run  # noqa: PLC0415  as above

    config = _config(folder, "base", data=_draw(folder, 0), hyp="quick", epochs=epochs, run="base")
    info = begin_run(config, datetime.now(UTC))
    stages.prepare(config.store, info.run)
    trained = stages.train(config.store, info.run)
    return str(Path(config.store) / trained.result["last"]["key"])


def _evolve(folder: Path, weights: str, epochs: int, seed: int, generations: int) -> dict[str, Any]:
    from flows.evolve import evolve  # noqa: PLC0415  as above

    def fitness(store: str, generations: int, **more: Any) -> Any:
        return evolve(_config(folder, store, weights=weights, epochs=epochs, **more), generations)

    found = fitness(f"seed{seed}", generations, data=_draw(folder, 0), seed=seed)
    fresh: dict[str, list[float]] = {"scratch-low": [], found.files["hyp"]: []}
    for number in range(1, _FRESH + 1):
        other = 100 * seed + 1000 + number
        for name, hyp in zip(("default", "best"), fresh, strict=True):
            once = fitness(
                f"fresh{seed}-{number}-{name}", 1, data=_draw(folder, other), seed=other, hyp=hyp
            )
            fresh[hyp].append(once.fitness)
    default_fresh, best_fresh = map(statistics.mean, fresh.values())
    return {
        "seed": seed,
        "default": found.first,
        "best": found.fitness,
        "generation": found.best,
        "default_fresh": default_fresh,
        "best_fresh": best_fresh,
    }


if __name__ == "__main__":
    main()
