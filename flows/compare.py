"""`yolov5-retrain compare`: runs of a store beside each other.

Only the store is asked: Prefect's database may be gone, and torch is not needed.
"""

from collections.abc import Sequence

from flows.command_parser import CommandParser

_EPILOG = """\
examples:
  yolov5-retrain compare 20260101-020000_street 20260102-020000_street
      what differs: settings, data, metrics, classes, times
  yolov5-retrain compare RUN RUN RUN --store gs://models/retrain --out comparison
      the same of three, as comparison/comparison.txt and, with their curves, comparison.png
"""


def compare_command(argv: Sequence[str]) -> str:
    """Does what the command line says and returns the table.

    Raises:
        ConfigError: Unknown flags or runs.
        StoreError: The store failed.
    """
    parser = CommandParser(
        "compare",
        description="Shows two or more runs beside each other; changes are against the first.",
        epilog=_EPILOG,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="id of a run")
    parser.add_argument("--store", default="store", help="where they live (default: store)")
    parser.add_argument(
        "--out", default="", metavar="FOLDER", help="a new or empty folder for table and curves"
    )
    given = parser.parse_args(argv)
    from tasks.compare import compare  # noqa: PLC0415  matplotlib takes its time, --help not

    return compare(given.store, given.runs, given.out)
