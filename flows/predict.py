"""`yolov5-retrain predict`: what a model finds in pictures, videos or a camera."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.command_parser import CommandParser
from tasks.settings import CHAMPION
from yolov5_core.config import ConfigError

if TYPE_CHECKING:
    from tasks.predict import PredictSummary

_EPILOG = """\
examples:
  yolov5-retrain predict pictures --weights gs://models/weights/best_street.pt
      every picture and video below a folder
  yolov5-retrain predict 'pictures/2026-*/*.jpg' list.txt film.mp4 --weights yolov5s.pt --save-txt
      a glob, a list of pictures and a video, with a public checkpoint
  yolov5-retrain predict gs://camera/today --weights champion --bucket gs://models --name street
      a bucket's pictures, with the best model published so far
  yolov5-retrain predict 0 --weights best.pt
      the first camera, until Ctrl-C

Drawn pictures and videos, predictions.json (COCO results) and what else is asked for go to --out;
the folders of the pictures are only read. A picture that cannot be read is named and left out.
"""
_FAULTS_SHOWN = 10


def predict_command(argv: Sequence[str]) -> str:
    """Does what the command line says and returns what there is to say.

    Raises:
        ConfigError: Unknown flags, or flags, sources or weights that cannot work.
        CheckpointError, ForeignCheckpointError: The weights are damaged, or of no known kind.
        DataError: Not one picture could be read.
        StoreError: A bucket failed.
    """
    given = _parser().parse_args(argv)
    if given.limit < 0 or given.batch_size < 1 or given.image_size < 0:
        raise ConfigError("predict: --limit, --batch-size and --image-size are counts")
    if given.save_conf and not given.save_txt:
        raise ConfigError(
            "predict: --save-conf adds a column to the files of --save-txt; give both"
        )
    # They take seconds to import, and --help must not wait for it.
    from tasks.predict import PredictRequest, predict  # noqa: PLC0415
    from tasks.prediction_files import Wanted  # noqa: PLC0415

    done = predict(
        PredictRequest(
            sources=given.sources,
            weights=given.weights,
            bucket=given.bucket,
            name=given.name,
            out=given.out,
            wanted=Wanted(
                pictures=not given.nosave,
                txt=given.save_txt,
                scores=given.save_conf,
                crops=given.save_crop,
            ),
            image_size=given.image_size,
            confidence=given.conf,
            iou=given.iou,
            max_detections=given.max_det,
            classes=given.classes,
            agnostic=given.agnostic,
            augmented=given.augment,
            device=given.device,
            batch_size=given.batch_size,
            limit=given.limit,
        )
    )
    return describe(done, given.batch_size)


def describe(done: "PredictSummary", batch_size: int) -> str:
    """What came of a prediction, for people: counts by class, speeds, what was left out."""
    pictures, times = max(done.done, 1), done.times
    seconds = {
        "read": done.read_s,
        "pre-process": times.prepare_s,
        "network": times.network_s,
        "NMS": times.nms_s,
        "write": done.write_s,
    }
    spent = ", ".join(f"{what} {1000 * each / pictures:.1f}" for what, each in seconds.items())
    found = "  ".join(f"{name} {count}" for name, count in done.found.most_common())
    rate = done.done / max(done.wall_s, 1e-9)
    lines = [f"{done.done} pictures done{', interrupted' if done.interrupted else ''}"]
    if done.faults:
        lines.append(f"  left out   {len(done.faults)}, because they could not be read")
        lines += [f"             {fault}" for fault in done.faults[:_FAULTS_SHOWN]]
        if len(done.faults) > _FAULTS_SHOWN:
            lines.append(f"             and {len(done.faults) - _FAULTS_SHOWN} more, in the log")
    lines += [
        f"  found      {found or 'nothing'}",
        f"  speed      {spent} ms a picture; {rate:.1f} pictures/s",
        f"             on {done.device}, {done.image_size} pixels, batches of {batch_size}",
        f"  out        {done.folder}",
    ]
    return "\n".join(lines)


def _parser() -> CommandParser:
    parser = CommandParser(
        "predict",
        description="Finds objects in pictures, videos or a camera, and shows them.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="picture, video, folder, glob or .txt list, path or URL; or the number of a camera",
    )
    add(
        "--weights",
        required=True,
        help=f"checkpoint, ours or a public .pt, path or URL; {CHAMPION!r}: the best in --bucket",
    )
    add("--bucket", default="", help=f"whose {CHAMPION} it is")
    add("--name", default="", help="of the model, as its runs have it")
    add(
        "--out",
        default="",
        metavar="FOLDER",
        help="a new or empty folder (default: predictions, predictions2 ...)",
    )
    add("--image-size", type=int, default=0, metavar="PIXELS",
        help="longer side (default: what the weights were trained with, else 640)")  # fmt: skip
    add("--conf", type=float, default=0.25, metavar="SHARE",
        help="least confidence (default: 0.25)")  # fmt: skip
    add("--iou", type=float, default=0.45, metavar="SHARE",
        help="of boxes that overlap more only the best stays (default: 0.45)")  # fmt: skip
    add("--max-det", type=int, default=1000, metavar="N",
        help="boxes a picture, at most (default: 1000)")  # fmt: skip
    add("--classes", nargs="+", default=[], metavar="CLASS", help="only these, names or numbers")
    add("--agnostic", action="store_true", help="boxes of different classes suppress each other")
    add("--augment", action="store_true",
        help="also look at a flipped and two resized copies: slower, often better")  # fmt: skip
    add("--device", default="", help="'cpu' or the number of a GPU (default: the first GPU)")
    add("--batch-size", type=int, default=8, metavar="N", help="pictures at once (default: 8)")
    add("--limit", type=int, default=0, metavar="N", help="stop after so many pictures and frames")
    add("--save-txt", action="store_true",
        help="YOLO label files too, labels/NAME.txt: class x y w h")  # fmt: skip
    add("--save-conf", action="store_true", help="with the confidence behind")
    add(
        "--save-crop", action="store_true", help="cut-outs of all boxes too, crops/CLASS/NAME-1.jpg"
    )
    add("--nosave", action="store_true", help="no drawn pictures and videos")
    return parser
