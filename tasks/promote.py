"""Promote stage: the new model against the champion of the bucket, on the same pictures."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact

from tasks import champions
from tasks.champions import Champion
from tasks.datasets import Dataset, open_run_data
from tasks.errors import DamagedObjectError, MissingObjectError, StoreUnavailableError
from tasks.evaluate import evaluate_checkpoint
from tasks.records import Artifact, Prepared, RunInfo, StageRecord
from tasks.stage import StageContext, run_stage
from tasks.store import Store, json_bytes, open_store
from tasks.task_options import RETRIED
from yolov5_core import checkpoint
from yolov5_core.bootstrap import compare
from yolov5_core.checkpoint import CheckpointError
from yolov5_core.evaluation import Evaluation
from yolov5_core.promotion import Verdict, judge
from yolov5_core.promotion_text import promotion_markdown

log = logging.getLogger(__name__)

_TRIES = 20  # other runs that may win in between


@task(name="promote", task_run_name="promote", **RETRIED)
def promote_model(info: RunInfo, prepared: Prepared, finalized: StageRecord) -> StageRecord:
    """The promote stage as a Prefect task, with its verdict as an artifact."""
    record = promote_stage(info, prepared, finalized)
    create_markdown_artifact(
        promotion_markdown(record.result), key="promotion", description=record.result["reason"]
    )
    return record


def promote_stage(info: RunInfo, prepared: Prepared, finalized: StageRecord) -> StageRecord:
    """Compares the run's model with the champion; the better one is the champion then.

    Raises:
        CheckpointError, DataError: The new model or the data are not what they were.
        StoreError: Store or bucket failed.
    """
    config = info.config
    bucket, challenger = open_store(config.bucket), _challenger(finalized)
    inputs = {
        "bucket": bucket.shown,
        "model": champions.model_name(config.name),
        "challenger": challenger.sha256,
        "data": {"digest": prepared.digest, "single_cls": config.single_cls},
        "rule": [config.min_gain, config.max_class_loss, config.seed],
    }

    def work(context: StageContext) -> Mapping[str, Any]:
        result = _Night(context, info, prepared, bucket, challenger).decide()
        path = context.scratch / "promotion.json"
        path.write_bytes(json_bytes(result))
        context.publish(path, path.name)
        log.info("%s: %s", "new champion" if result["promoted"] else "champion kept",
                 result["reason"])  # fmt: skip
        return result

    return run_stage(open_store(config.store), info.run, "promote", inputs, work)


def _challenger(finalized: StageRecord) -> Artifact:
    """The finished best weights, the last ones where no best was saved."""
    weights = [a for a in finalized.outputs if a.key.endswith(".pt")]
    best = [a for a in weights if PurePosixPath(a.key).name.startswith("best")]
    return (best or weights)[0]


class _Night:
    """One run's claim to the title."""

    def __init__(
        self,
        context: StageContext,
        info: RunInfo,
        prepared: Prepared,
        bucket: Store,
        challenger: Artifact,
    ) -> None:
        self.context = context
        self.info = info
        self.prepared = prepared
        self.bucket = bucket
        self.challenger = challenger
        self.local = context.fetch(challenger)
        self._data: Dataset | None = None
        self._found: Evaluation | None = None

    def decide(self) -> Mapping[str, Any]:
        """The verdict; a new champion is entered and shown.

        Raises:
            StoreUnavailableError: Others win all the time.
        """
        name = self.info.config.name
        for _ in range(_TRIES):  # whoever is champion meanwhile is compared with
            after, champion = champions.newest(self.bucket, name) or (0, None)
            if champion and (champion.run, champion.weights.sha256) == (
                self.info.run,
                self.challenger.sha256,
            ):  # an earlier attempt entered it, and may not have come to show it
                champions.show(self.bucket, name, self.context.scratch)
                return self._result(True, champion.reason, champion.verdict, after)
            verdict = self._verdict(champion)
            if not verdict.promoted:
                return self._result(False, verdict.reason, verdict.numbers, after)
            if champions.crown(self.bucket, name, after, self._entry(verdict)):
                champions.show(self.bucket, name, self.context.scratch)
                return self._result(True, verdict.reason, verdict.numbers, after + 1)
        raise StoreUnavailableError(
            f"{self.bucket.url('champions')}: others became champion {_TRIES} times meanwhile; "
            "run this stage again"
        )

    def _verdict(self, champion: Champion | None) -> Verdict:
        if champion is None:
            return Verdict(promoted=True, reason="the first model of its name", numbers={})
        if champion.weights.sha256 == self.challenger.sha256:
            return Verdict(promoted=False, reason="it is the champion, byte by byte", numbers={})
        try:
            payload = self._load_champion(champion)
        except (MissingObjectError, DamagedObjectError, CheckpointError) as error:
            reason = f"the champion of run {champion.run} cannot be read, so it stays: {error}; "
            fix = f"yolov5-retrain rollback --bucket {self.bucket.shown} names another one"
            return Verdict(promoted=False, reason=reason + fix, numbers={})
        data = self._open_data()
        if tuple(payload["names"]) != data.names:
            reason = (
                f"it knows other classes ({len(data.names)}) than the champion "
                f"({len(payload['names'])}), so they cannot be compared; give it another name, as "
                "in --name street2, and it begins a line of its own"
            )
            return Verdict(promoted=False, reason=reason, numbers={})
        before, after = self._evaluate(payload, "champion"), self._evaluate_challenger()
        config = self.info.config
        comparison = compare(before.images, after.images, config.seed)
        return judge(comparison, data.names, config.min_gain, config.max_class_loss)

    def _load_champion(self, champion: Champion) -> Mapping[str, Any]:
        local = self.context.scratch / "before.pt"
        self.bucket.get_file(champion.weights.key, local, champion.weights)
        return checkpoint.load(local)

    def _evaluate_challenger(self) -> Evaluation:
        if self._found is None:
            self._found = self._evaluate(checkpoint.load(self.local), self.challenger.key)
        return self._found

    def _evaluate(self, payload: Mapping[str, Any], where: str) -> Evaluation:
        return evaluate_checkpoint(payload, where, self._open_data().splits["val"], self.info)

    def _open_data(self) -> Dataset:
        if self._data is None:
            config = self.info.config
            self._data = open_run_data(self.context.store, self.prepared, config, ("val",))
        return self._data

    def _entry(self, verdict: Verdict) -> Champion:
        metrics = checkpoint.load(self.local)["metrics"]
        return Champion(
            run=self.info.run,
            store=self.context.store.shown,
            weights=champions.keep(
                self.bucket, self.info.config.name, self.local, self.challenger.sha256
            ),
            data=self.prepared.digest,
            metrics={key: float(value) for key, value in metrics.items()},
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            kind="promoted",
            reason=verdict.reason,
            verdict=verdict.numbers,
        )

    def _result(
        self, promoted: bool, reason: str, numbers: Mapping[str, Any], entry: int
    ) -> dict[str, Any]:
        found = champions.newest(self.bucket, self.info.config.name)
        return {
            "promoted": promoted,
            "reason": reason,
            "champion": found[1].run if found else "",
            "entry": entry,
            "address": self.bucket.url(champions.address(self.info.config.name)),
            "numbers": dict(numbers),
        }
