"""`yolov5-retrain export`: a checkpoint as ONNX or TorchScript, compared with the original.

A file that does not say what the original says is written to the folder, with the report, and never
published.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.command_parser import CommandParser
from yolov5_core.config import ConfigError

if TYPE_CHECKING:
    from yolov5_core.export import Exported, Source

_IMAGE_SIZE = 640  # pixels, where the checkpoint does not say what it was trained on
_EPILOG = """\
examples:
  yolov5-retrain export --weights best_street.pt --pictures pictures/images/val
      best_street.onnx and its parity report, in this folder
  yolov5-retrain export --weights gs://models/weights/best_street.pt --format onnx torchscript \\
      --image-size 640 --pictures pictures/images/val --out exported --bucket gs://models
      both formats; published beside the weights if they say what the checkpoint says
  yolov5-retrain export --weights yolov5s.pt --nms --pictures photos
      a public checkpoint, with suppression inside the ONNX file

On up to 20 of the pictures the exported files are run (onnxruntime, OpenCV, torch) and compared
with the checkpoint: boxes must agree to 0.001 pixels (large ones as far as float32 goes) and scores
to 0.0001. ONNX needs two packages more: pip install onnx onnxruntime.
"""


def export_command(argv: Sequence[str]) -> str:
    """Does what the command line says and returns what there is to say.

    Raises:
        ConfigError: Flags, sizes or files that cannot work.
        CheckpointError, ForeignCheckpointError: The weights are damaged.
        DataError: No such pictures.
        ParityError: An exported file differs from the original; nothing was published.
        StoreError: The bucket failed.
    """
    given = _parser().parse_args(argv)
    # torch takes seconds to import, and --help must not wait for it
    from tasks.store import open_store  # noqa: PLC0415
    from yolov5_core.data_yaml import list_images, whole_path  # noqa: PLC0415
    from yolov5_core.export import ExportConfig, export, read_pictures  # noqa: PLC0415
    from yolov5_core.nms import NmsConfig  # noqa: PLC0415
    from yolov5_core.parity import require  # noqa: PLC0415

    if not given.nms and (given.confidence is not None or given.iou is not None):
        raise ConfigError("export: --confidence and --iou belong to --nms; add it")
    if given.nms and "onnx" not in given.format:
        raise ConfigError("export: --nms is for ONNX files; add --format onnx")
    if given.exact_sums and "onnx" not in given.format:
        raise ConfigError("export: --exact-sums is for ONNX files; add --format onnx")
    nms = None
    if given.nms:
        try:
            told = {"confidence": given.confidence, "iou": given.iou}
            nms = NmsConfig(**{name: value for name, value in told.items() if value is not None})
        except ValueError as error:
            raise ConfigError(f"export: {error}") from error
    bucket = open_store(given.bucket) if given.bucket else None
    if bucket:
        bucket.check_writable()
    formats = tuple(dict.fromkeys(given.format))
    images = read_pictures(list_images([whole_path(given.pictures)]))
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        source = _source(given.weights, Path(scratch))
    size = given.image_size
    if size is None:
        size = source.payload.get("image_size", _IMAGE_SIZE)
    config = ExportConfig(
        formats=formats, image_hw=(size, size), nms=nms, exact_sums=given.exact_sums
    )
    done = export(source, config, images, given.out)
    require(done.checks)
    published = []
    if bucket:
        for path in (*done.models, *done.reports):
            bucket.put_file(path, f"weights/{path.name}")
            published.append(bucket.url(f"weights/{path.name}"))
    return _told(done, published)


def _parser() -> CommandParser:
    parser = CommandParser(
        "export",
        description="Writes a checkpoint as ONNX or TorchScript and compares it with the original.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--weights", required=True, help="path or URL of a checkpoint, ours or a public one")
    add("--pictures", required=True, help="folder or list file of real pictures, to compare on")
    add(
        "--format",
        nargs="+",
        choices=("onnx", "torchscript"),
        default=["onnx"],
        help="what to write (default: onnx)",
    )
    add(
        "--image-size",
        type=int,
        metavar="N",
        help=f"side of the square input (default: as trained, or {_IMAGE_SIZE} pixels)",
    )
    add(
        "--exact-sums",
        action="store_true",
        help="add up in pieces in the ONNX file: closer to the checkpoint, and slower",
    )
    add("--nms", action="store_true", help="suppression inside the ONNX file")
    add("--confidence", type=float, metavar="C", help="of --nms (default: 0.25)")
    add("--iou", type=float, metavar="IOU", help="of --nms (default: 0.45)")
    add(
        "--out", type=Path, default=Path(), metavar="DIR", help="folder to write to (default: here)"
    )
    add("--bucket", default="", help="publish to weights/ there, if the files agree")
    return parser


def _source(weights: str, scratch: Path) -> "Source":
    from tasks.digests import file_sha256  # noqa: PLC0415  as above
    from tasks.weights import fetch_weights  # noqa: PLC0415
    from yolov5_core.checkpoint import load  # noqa: PLC0415
    from yolov5_core.convert import from_public  # noqa: PLC0415
    from yolov5_core.export import Source  # noqa: PLC0415
    from yolov5_core.foreign import is_public_checkpoint  # noqa: PLC0415

    path = fetch_weights(weights, scratch)
    sha256 = file_sha256(path)
    payload = from_public(path, sha256) if is_public_checkpoint(path) else load(path)
    return Source(payload=payload, name=path.stem, sha256=sha256)


def _told(done: "Exported", published: Sequence[str]) -> str:
    rows = [("written", str(path)) for path in (*done.models, *done.reports)]
    rows += [
        (
            "compared",
            f"{c.file} in {c.program}: boxes {c.boxes:.2g} px, those detected {c.detected:.2g} px, "
            f"scores {c.scores:.2g} apart at most ({c.pictures} pictures)",
        )
        for c in done.checks
    ]
    rows += [("published", url) for url in published]
    return "\n".join(f"{title:<10} {text}" for title, text in rows)
