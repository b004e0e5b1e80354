"""The training loop as an explicit state: one epoch at a time, whoever drives it saves and logs."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from yolov5_core.anchors import class_weights, image_weights
from yolov5_core.config import TrainConfig
from yolov5_core.dataset import Record
from yolov5_core.distributed import ALONE, Group
from yolov5_core.ema import Ema
from yolov5_core.epochs import EpochReport, report_from, row_and_time, stalled
from yolov5_core.evaluate import evaluate, to_float
from yolov5_core.evaluation import Evaluation
from yolov5_core.loader import Batch, TrainingLoader, validation_loader
from yolov5_core.loss import DetectionLoss
from yolov5_core.loss_watch import LossWatch, NotFiniteError, TrainingDivergedError
from yolov5_core.model import Detector
from yolov5_core.optimizer import apply_settings, build_optimizer, freeze, restore_optimizer
from yolov5_core.randomness import generator
from yolov5_core.results import ResultsRow, format_row
from yolov5_core.samples import ImageReader, SampleKey, TrainingSamples
from yolov5_core.schedule import scaled_weight_decay, schedule_of, settings_at
from yolov5_core.step_policy import StepPolicy, autocast, parts, usual_policy
from yolov5_core.sync_batch_norm import synchronise

log = logging.getLogger(__name__)

_GRADIENT_NORM = 10.0  # spec D.3
_QUAD = 4  # pictures that quad makes one, and so what the loss of a batch is short of (spec D.3)


class Trainer:
    """A model in training.

    Attributes:
        epoch: The next epoch to train, or the one under way.
        batch: Batches done of the epoch under way, 0 between epochs.
        report: Of the epoch under way, or of the one before if that is not recorded yet; else None.
        settled: True between two steps, when state() is complete.
        policy: How steps are computed.
        group: Who computes them; all ranks have the same state after each step.
        step: Steps (batches) done.
        history: (row, unix time) of every finished epoch.
        class_maps: (nc,) mAP50-95 of each class in the last evaluation, for image weights.
        best_fitness: Best so far, 0 before.
        best_epoch: Its epoch, -1 before.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Detector,
        train: Sequence[Record],
        val: Sequence[Record],
        device: torch.device,
    ) -> None:
        self.config = config
        self.device = device
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.freeze:
            freeze(self.model, config.freeze)
        self.ema = Ema(self.model)
        self.schedule = schedule_of(config)
        self.optimizer = build_optimizer(
            self.model,
            config.optimizer,
            lr=config.hyp.lr0,
            momentum=config.hyp.momentum,
            weight_decay=scaled_weight_decay(config.hyp.weight_decay, config.batch_size),
        )
        self.use(usual_policy(device, config.precision))
        self.loss = loss_of(self.model, config)
        self.group = ALONE
        self.train_reader = ImageReader(train, config.image_size, augmenting=True)
        self.val_reader = ImageReader(val, config.image_size, augmenting=False)
        self.loader = self._training_loader()
        self.val_loader = validation_loader(
            self.val_reader,
            batch_size=2 * config.batch_size,  # no gradients to hold
            workers=config.workers,
            stride=max(model.max_stride, 32),
            pin=device.type == "cuda",
        )
        self.epoch = 0
        self.batch = 0
        self.step = 0
        self.report: EpochReport | None = None
        self.settled = True
        self._watch = LossWatch(device)
        self.last_update = -1  # step of the last optimizer update
        self.history: list[tuple[ResultsRow, float]] = []
        self.best_fitness = 0.0
        self.best_epoch = -1
        self.class_maps = np.zeros(model.detect.nc)

    def _training_loader(self) -> TrainingLoader:
        c = self.config
        samples = TrainingSamples(self.train_reader, c.hyp.augment, seed=c.seed, mosaic=not c.rect)
        return TrainingLoader(
            samples,
            batch_size=c.batch_size,
            workers=c.workers,
            stride=max(self.model.max_stride, 32),
            pin=self.device.type == "cuda",
            quad=c.quad,
        )

    def use(self, policy: StepPolicy) -> None:
        """Computes the steps from here on in another way."""
        self.policy = policy
        on_gpu = self.device.type == "cuda"  # on a CPU, too, it is bfloat16, which needs no scale
        scaled = policy.mixed and on_gpu and not policy.bfloat16
        self.scaler = torch.amp.GradScaler("cuda", enabled=scaled)

    def join(self, group: Group) -> None:
        """Computes the steps from here on together with other ranks, which are in the same state.

        Rank 0 alone evaluates; `class_maps` is what the others have to be told of that.
        """
        self.group = self.loss.group = group
        self.loader.join(group)
        synchronise(self.model, group)

    @property
    def unrecorded(self) -> EpochReport | None:
        """The epoch that was trained but not yet recorded."""
        return None if self.batch else self.report

    def cache_images(self, progress: Callable[[int, int], None], reserve: int = 0) -> None:
        """Decodes both sets into memory; before the first epoch, so that workers share it.

        Args:
            progress: Called with pictures done and to do, set by set.
            reserve: Bytes of memory that training needs besides, and this leaves free.
        """
        for reader in (self.train_reader, self.val_reader):
            reader.cache(progress, reserve)

    def plan(self) -> Sequence[list[SampleKey]]:
        """Keys of every sample of the next epoch, batch by batch."""
        return self.loader.plan(self.epoch, self._image_weights())

    def train_epoch(self, progress: Callable[[EpochReport], None] = lambda _: None) -> EpochReport:
        """Trains an epoch, or what is left of it.

        Args:
            progress: Called after each step, when state() is complete, with the epoch so far. What
                it raises leaves the trainer as it was after that step.

        Raises:
            TrainingDivergedError: The loss became NaN or infinite; the state is no longer usable.

        Source: spec D.3, D.8.
        """
        self.model.train()
        if self.batch == 0:
            self.report, self._watch = None, LossWatch(self.device)
        try:
            for batch in self.loader.epoch(self.epoch, self._image_weights(), skip=self.batch):
                self.settled = False
                self._step(batch)
                self.settled = True
                progress(self._reported())
            losses = self._watch.look()
        except NotFiniteError as error:
            raise self._diverged(error) from error
        report = self._reported()
        self.report = replace(report, losses=(*losses, sum(losses)))
        self.epoch += 1
        self.batch = 0
        return self.report

    def _step(self, batch: Batch) -> None:
        settings = settings_at(self.step, self.epoch, len(self.loader), self.schedule)
        apply_settings(self.optimizer, settings)
        images = self._scaled(to_float(batch.images, self.device))
        self._watch.add(self._backward(images, batch.targets))
        if self.step - self.last_update >= settings.accumulate:
            self._update()
        self.step += 1
        self.batch += 1
        self.report = self._report(self._watch.seen, batch, images, settings.lr)

    def _backward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Adds the gradients of a batch, part by part, and returns its (3,) losses."""
        items = torch.zeros(3, device=self.device)
        self.group.begin_gradients(self.model.parameters())
        sizes, shares = self.group.split(len(images), self.policy.micro_batches)
        for (part, own), share in zip(parts(images, targets, sizes), shares, strict=True):
            with autocast(self.policy, self.device):
                raw = self.model(part)
            total, part_items = self.loss(raw, own)  # the total is times its pictures: they add up
            if self.config.quad:
                total = total * _QUAD
            self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
            items = items + part_items * share
        return self.group.add_gradients(self.model.parameters(), items)

    def _update(self) -> None:
        """One optimizer update with what was accumulated; an unfinished sum goes on next epoch."""
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), _GRADIENT_NORM, foreach=True)
        if not self.scaler.is_enabled():  # a scaler leaves such an update out by itself
            self._watch.note(norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.ema.update()
        self.last_update = self.step

    def _diverged(self, error: NotFiniteError) -> TrainingDivergedError:
        names = [self.train_reader.records[key.record].name for key in self.plan()[error.batch]]
        first = self.step - self.batch
        box, obj, cls = error.losses
        return TrainingDivergedError(
            f"epoch {self.epoch}, step {first + error.batch}: the loss is not finite (box, obj, "
            f"cls: {box}, {obj}, {cls}); the batch was {', '.join(names)}. What was saved before "
            "is intact: lower lr0 or raise warmup_epochs in the hyperparameters, or check the "
            "labels of these images"
        )

    def _reported(self) -> EpochReport:
        if self.report is None:  # not reachable with a non-empty set, which prepare guarantees
            raise ValueError("the training set has no images")
        return self.report

    def _report(
        self, mean: tuple[float, float, float], batch: Batch, images: Tensor, lr: float
    ) -> EpochReport:
        reserved = torch.cuda.memory_reserved() / 1e9 if self.device.type == "cuda" else 0
        return EpochReport(
            epoch=self.epoch,
            losses=(*mean, sum(mean)),
            targets=self.group.total(len(batch.targets)),
            image_size=images.shape[3],
            memory=f"{reserved:.3g}G",
            lr=lr,
        )

    def _scaled(self, images: Tensor) -> Tensor:
        """The batch at a random size, 50 to 150 %, if multi-scale is on (spec D.3)."""
        if not self.config.multi_scale:
            return images
        stride = max(self.model.max_stride, 32)
        size = self.config.image_size * (2 if self.config.quad else 1)
        rng = generator(self.config.seed, "multi_scale", self.step)
        side = int(rng.integers(int(size * 0.5), int(size * 1.5) + stride)) // stride * stride
        factor = side / max(images.shape[2:])
        if factor == 1:
            return images
        new_hw = [math.ceil(n * factor / stride) * stride for n in images.shape[2:]]
        return F.interpolate(images, size=new_hw, mode="bilinear", align_corners=False)

    def _image_weights(self) -> np.ndarray | None:
        """Chance of each image, from its classes' AP in the last evaluation (spec C.11)."""
        if not self.config.image_weights:
            return None
        labels = [record.labels for record in self.train_reader.records]
        nc = self.model.detect.nc
        per_class = class_weights(labels, nc) * nc * (1 - self.class_maps) ** 2
        weights = image_weights(labels, per_class)
        return weights if weights.sum() > 0 else None

    def evaluate(self, progress: Callable[[int], None] = lambda _: None) -> Evaluation:
        """Evaluates the EMA model on the validation set."""
        loss = self.loss.fixed()
        found = evaluate(self.ema.model, self.val_loader, loss, self.device, progress)
        self.class_maps = found.metrics.maps(self.model.detect.nc)
        return found

    def record(self, report: EpochReport, found: Evaluation | None, time: float) -> bool:
        """Appends the epoch's row to the history and tells whether it is the best so far.

        Args:
            report: The epoch.
            found: Its evaluation; without one the row says zeros and the fitness counts as 0.
            time: Unix time, for TensorBoard.

        Returns:
            True also for a tie: the later of two equals is the better trained (spec D.8).
        """
        self.history.append((self.row(report, found), time))
        self.report = None
        fitness = 0.0 if found is None else found.metrics.fitness
        is_best = math.isfinite(fitness) and fitness >= self.best_fitness
        if is_best:
            self.best_fitness, self.best_epoch = fitness, report.epoch
        return is_best

    def row(self, report: EpochReport, found: Evaluation | None) -> ResultsRow:
        """The row of an epoch; zeros where it was not evaluated."""
        return ResultsRow(
            epoch=report.epoch,
            epochs=self.config.epochs,
            memory=report.memory,
            losses=report.losses,
            targets=report.targets,
            image_size=report.image_size,
            results=(0.0,) * 7 if found is None else found.results,
        )

    @property
    def over(self) -> bool:
        """True when no epoch is left to train, or the fitness has not risen for too long.

        A function of the history alone, so it is the same after a restore(). Without evaluations
        there is no fitness, and nothing stops early.
        """
        patience = self.config.patience
        ended = self.epoch >= self.config.epochs or 0 < patience <= stalled(self.history)
        return ended and self.report is None

    @property
    def results_text(self) -> str:
        """The whole results.txt."""
        return "".join(format_row(row) for row, _ in self.history)

    def state(self) -> dict[str, Any]:
        """Everything an exact continuation needs, in full precision; see checkpoint.py.

        Raises:
            TrainingDivergedError: The loss is no number, so there is nothing to continue.
        """
        if self.report is not None:
            self._require_finite()
        return {
            "epoch": self.epoch - 1,
            "best_fitness": self.best_fitness,
            "training_results": self.results_text,
            "model": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "resume": {
                "model": self.model.state_dict(),
                "gradients": [p.grad for p in self.model.parameters()],
                "ema_updates": self.ema.updates,
                "scaler": self.scaler.state_dict(),
                "policy": asdict(self.policy),
                "step": self.step,
                "batch": self.batch,
                "report": None if self.report is None else asdict(self.report),
                "watch": self._watch.state(),
                "last_update": self.last_update,
                "best_epoch": self.best_epoch,
                "balance": list(self.loss.balance),
                "class_maps": self.class_maps.tolist(),
                "history": [{**asdict(row), "time": time} for row, time in self.history],
            },
        }

    def _require_finite(self) -> None:
        try:
            self._watch.look()
        except NotFiniteError as error:
            raise self._diverged(error) from error

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a state(): what comes will be as if never interrupted."""
        resume = state["resume"]
        if "policy" in resume:  # versions that saved at the ends of epochs only had none
            self.use(StepPolicy(**resume["policy"]))
            self.batch = resume["batch"]
            self.report = report_from(resume["report"])
            self._watch.restore(resume["watch"])
        self.model.load_state_dict(resume["model"])
        for parameter, gradient in zip(self.model.parameters(), resume["gradients"], strict=True):
            parameter.grad = None if gradient is None else gradient.to(self.device).clone()
        self.ema.model.load_state_dict(state["model"])
        self.ema.updates = resume["ema_updates"]
        restore_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(resume["scaler"])
        self.epoch = state["epoch"] + 1
        self.step = resume["step"]
        self.last_update = resume["last_update"]
        self.best_fitness = state["best_fitness"]
        self.best_epoch = resume["best_epoch"]
        self.loss.balance = list(resume["balance"])
        self.class_maps = np.array(resume["class_maps"])
        self.history = [row_and_time(entry) for entry in resume["history"]]


def loss_of(model: Detector, config: TrainConfig) -> DetectionLoss:
    """The loss of a model at a run's settings."""
    detect = model.detect
    gains = config.hyp.loss_config(
        num_levels=detect.nl,
        num_classes=detect.nc,
        image_size=config.image_size,
        iou=config.iou,
        autobalance=config.autobalance,
    )
    return DetectionLoss(detect.anchors, detect.stride, detect.nc, gains)
