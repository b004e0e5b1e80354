"""The check of pictures on the workers of a Dask cluster, piece by piece, in their order.

Workers read the source and nothing else: what they packed comes back, so that shards, store and
lease stay with the one process that prepares. A worker that dies costs its pieces another try.
"""

import importlib
import logging
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tasks.errors import TransientError
from tasks.stage import source_digest
from yolov5_core.config import ConfigError
from yolov5_core.shards import CheckedPiece, Piece, check_piece

log = logging.getLogger(__name__)

_PATIENCE_S = 60  # for a scheduler to answer, and for a worker to be there
_AHEAD = 2  # pieces for each thread: one under way, one that waits; bounds what is in memory
# Faults that may be the worker's, which sees other files than we do.
_DOUBTED = ("image-missing", "image-unreadable", "label-unreadable")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Returned:
    """What a worker sends back."""

    checked: CheckedPiece
    packed: bytes  # the tar members, up to a piece's bytes
    worker: str  # its host, for messages


def on_cluster(address: str, pieces: Sequence[Piece]) -> Iterator[CheckedPiece]:
    """The pieces in their order, checked by the workers of a cluster.

    Args:
        address: Of its scheduler.
        pieces: Each is written to its output here.

    Raises:
        ConfigError: No Dask here, another version of this program or of OpenCV there, or a worker
            that does not see the files that this process sees.
        TransientError: No scheduler, no worker, or workers died over one piece again and again.
        StoreError: A worker cannot read a bucket.
    """
    dask = _distributed()
    with closing(_connected(dask, address)) as client:
        window = _AHEAD * sum(client.nthreads().values())
        log.info("%d pieces for %d workers of %s", len(pieces), len(client.nthreads()), address)
        waiting, coming = deque[tuple[Piece, Any]](), iter(pieces)
        try:
            while True:
                while len(waiting) < window and (piece := next(coming, None)) is not None:
                    # a key of their own: an equal piece of another run is another piece
                    waiting.append(
                        (piece, client.submit(_check_there, piece, identity(), pure=False))
                    )
                if not waiting:
                    return
                piece, future = waiting.popleft()
                yield _taken(piece, future.result())
        except dask.KilledWorker as error:
            raise TransientError(
                "workers of the Dask cluster died again and again over one piece of the pictures, "
                "most often for want of memory; start again, with more memory for a worker"
            ) from error
        except (dask.CancelledError, dask.comm.CommClosedError) as error:
            raise TransientError(
                f"dask={address}: the scheduler was lost; start again when it is back"
            ) from error
        finally:
            client.cancel([future for _, future in waiting])


def identity() -> str:
    """What makes a check the same everywhere: our source and the libraries that decode."""
    return f"source {source_digest()[:12]}, OpenCV {cv2.__version__}, numpy {np.__version__}"


def _distributed() -> Any:
    try:
        return importlib.import_module("distributed")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "dask: the package distributed is not installed; pip install 'yolov5-retrain[dask]', "
            "or leave dask empty to use this machine alone"
        ) from error


def _connected(dask: Any, address: str) -> Any:
    try:
        client = dask.Client(address, timeout=_PATIENCE_S, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise TransientError(
            f"dask={address}: no scheduler answers ({type(error).__name__}); start one with `dask "
            "scheduler`, or leave dask empty to use this machine alone"
        ) from error
    try:
        client.wait_for_workers(1, timeout=_PATIENCE_S)
    except TimeoutError as error:
        client.close()
        raise TransientError(
            f"dask={address}: the scheduler has no worker; start some with `dask worker {address}`"
        ) from error
    return client


def _check_there(piece: Piece, wanted: str) -> _Returned:
    """Runs on a worker."""
    worker = importlib.import_module("distributed").get_worker().address
    if (own := identity()) != wanted:
        raise ConfigError(
            f"Dask worker {worker} has {own}, and the run {wanted}; install the same version there"
        )
    cv2.setNumThreads(1)  # a worker's threads are its parallelism
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "piece"
        checked = check_piece(replace(piece, output=output))
        return _Returned(checked=checked, packed=output.read_bytes(), worker=worker)


def _taken(piece: Piece, returned: _Returned) -> CheckedPiece:
    """What came back, written here; nothing is left out because one worker cannot see it."""
    for number, fault in returned.checked.faults:
        if fault.kind not in _DOUBTED:
            continue
        item = piece.items[number]
        path = item.truth if fault.kind == "label-unreadable" else item.image
        (here,) = piece.files.read_many([path])
        if not isinstance(here, OSError):
            raise ConfigError(
                f"Dask worker {returned.worker} cannot read {path} ({fault.reason}), and this "
                "process can: mount the data under the same path on every worker, or give it as "
                "the URL of a bucket"
            )
    piece.output.write_bytes(returned.packed)
    return replace(returned.checked, output=piece.output)
