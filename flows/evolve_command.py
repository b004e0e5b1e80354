"""`yolov5-retrain evolve`: every setting of a run, and how many generations there shall be."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.cli import config_of, parse_flags, ready_prefect, settings_parser, shorten_errors
from tasks.settings import GENERATIONS

if TYPE_CHECKING:
    from flows.evolve import EvolutionSummary


_EPILOG = """\
Each generation trains with another table of hyperparameters, made from one of the five best so far,
and is evaluated once, after its last epoch; no weights are kept, and nothing is published but:
  BUCKET/evolve.txt         a row a table, the fittest first: 7 results, then the values
  BUCKET/evolve.jsonl       the same with everything known of each, in full precision
  BUCKET/evolve.png         each value against the fitness
  BUCKET/hyp_evolved.yaml   the fittest table, for --hyp
(without a bucket: in the store; with --name street: evolve_street.txt and so on).

It can be stopped at any time; the same command goes on. The same command on several machines, or
with another --device, shares the generations between them: they need the same bucket and store.

examples:
  yolov5-retrain evolve --data pictures/data.yaml --epochs 10 --generations 100
  yolov5-retrain --data pictures/data.yaml --epochs 300 --hyp store/hyp_evolved.yaml
"""


def evolve_command(argv: Sequence[str]) -> str:
    """Does what the command line says and returns what there is to say.

    Raises:
        ConfigError: Flags or values that cannot work.
        SystemExit: After --help.
    """
    parser = settings_parser(
        "yolov5-retrain evolve",
        usage="%(prog)s [--generations N] [--data DATA] [--bucket BUCKET] [--epochs N] [flags]",
        description="Looks for hyperparameters that suit your pictures better.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--generations",
        type=int,
        default=GENERATIONS,
        metavar="N",
        help=f"how many there shall be, those that are done included (default: {GENERATIONS})",
    )
    given = parse_flags(parser, argv)
    debug, generations = given.pop("debug"), given.pop("generations")
    config = config_of(given)
    ready_prefect()
    from flows.evolve import evolve  # noqa: PLC0415  it takes seconds to import
    from flows.heartbeats import our_heartbeats  # noqa: PLC0415  as above

    if not debug:
        shorten_errors()
    with our_heartbeats():
        return describe(evolve(config, generations))


def describe(summary: "EvolutionSummary") -> str:
    """Where everything is and what it was worth, for people."""
    lines = [f"{summary.generations} generations of {summary.evolution}"]
    if summary.best:
        first = f", the table as given {summary.first:.4f}" if summary.first is not None else ""
        lines[0] += f"; best is generation {summary.best}: fitness {summary.fitness:.4f}{first}"
    lines += [f"  {title:<6} {place}" for title, place in summary.files.items()]
    return "\n".join(lines)
