"""`yolov5-retrain convert`: public checkpoints to ours, weights of ours for the public program."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from flows.command_parser import CommandParser
from yolov5_core.config import ConfigError

_EPILOG = """\
examples:
  yolov5-retrain convert yolov5s.pt ours.pt
      a public checkpoint (v3 to v7) becomes one of ours; nothing in it is executed
  yolov5-retrain convert gs://models/weights/best_street.pt street_state.pt
      a checkpoint of ours becomes a plain state_dict for the public program:
      model.load_state_dict(torch.load("street_state.pt", weights_only=True))

Which way is seen from the file.
"""


def convert_command(argv: Sequence[str]) -> str:
    """Does what the command line says and returns what there is to say.

    Raises:
        ConfigError: Unknown flags, no such file, or a target that exists.
        CheckpointError, ForeignCheckpointError: A file of neither kind.
        CheckpointWriteError, StoreError: It cannot be written or read.
    """
    parser = CommandParser(
        "convert",
        description="Converts a checkpoint between the public program's format and ours.",
        epilog=_EPILOG,
    )
    parser.add_argument("source", metavar="FILE", help="path or URL of a .pt file")
    parser.add_argument("target", metavar="NEW", type=Path, help="the file to write")
    given = parser.parse_args(argv)
    target: Path = given.target
    if target.exists():
        raise ConfigError(f"convert: {target} exists already; give the name of a new file")
    # torch takes seconds to import, and --help must not wait for it
    from tasks.digests import file_sha256  # noqa: PLC0415
    from tasks.weights import fetch_weights  # noqa: PLC0415
    from yolov5_core import checkpoint  # noqa: PLC0415
    from yolov5_core.convert import from_public, to_public  # noqa: PLC0415
    from yolov5_core.foreign import is_public_checkpoint  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="convert-") as scratch:
        source = fetch_weights(given.source, Path(scratch))
        if is_public_checkpoint(source):
            payload = from_public(source, file_sha256(source))
            checkpoint.save(payload, target)
            return (
                f"{target}: a checkpoint of this program with all {len(payload['model'])} entries "
                f"of {given.source}, {payload['nc']} classes"
            )
        state = to_public(checkpoint.load(source), given.source)
    checkpoint.save_state_dict(state, target)
    return (
        f"{target}: a state_dict of {len(state)} entries for the public program's model class, "
        f"from {given.source}"
    )
