"""What needs a GPU: mixed precision trains, and a GPU evaluates what a CPU does."""

import math

import numpy as np
import pytest
import torch

from tests.tiny import CPU, tiny_trainer
from yolov5_core import checkpoint
from yolov5_core.auto_batch import CudaMeter, largest_batch
from yolov5_core.dataset import Record
from yolov5_core.evaluate import evaluate
from yolov5_core.loss import DetectionLoss, assign
from yolov5_core.loss_watch import TrainingDivergedError
from yolov5_core.nms import NmsConfig, non_max_suppression

Data = tuple[tuple[Record, ...], tuple[Record, ...]]
pytestmark = pytest.mark.gpu
GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _as_a_run_on_a_gpu_sets_it() -> None:
    torch.use_deterministic_algorithms(False)  # the conftest's fixture puts it back


def test_an_epoch_in_mixed_precision_trains_with_a_finite_loss(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, device=GPU, workers=1)
    before = trainer.model.model[0].conv.weight.clone()  # type: ignore[union-attr,operator]
    report = trainer.train_epoch()
    trainer.train_epoch()
    assert all(math.isfinite(loss) for loss in report.losses)
    assert report.memory.endswith("G")
    assert report.memory != "0G"
    assert trainer.scaler.is_enabled()
    assert not torch.equal(trainer.model.model[0].conv.weight, before)
    state = trainer.ema.model.state_dict()
    assert all(torch.isfinite(value).all() for value in state.values())
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


@pytest.mark.parametrize("precision", ["bfloat16", "full"])
def test_other_precisions_train_without_a_loss_scale(tiny_data: Data, precision: str):
    trainer = tiny_trainer(*tiny_data, device=GPU, precision=precision)
    losses = [trainer.train_epoch().losses for _ in range(2)]
    assert all(math.isfinite(loss) for epoch in losses for loss in epoch)
    assert not trainer.scaler.is_enabled()


def test_the_first_losses_are_those_of_a_cpu(tiny_data: Data):
    losses = [tiny_trainer(*tiny_data, device=d).train_epoch().losses for d in (CPU, GPU)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_gpu_evaluates_as_a_cpu_does(tiny_data: Data):
    trainers = [tiny_trainer(*tiny_data, device=device) for device in (CPU, GPU)]
    for conv in trainers[0].ema.model.detect.m:
        conv.bias.data.view(3, -1)[:, 4] += 4  # so that there is something to compare
    trainers[1].ema.model.load_state_dict(trainers[0].ema.model.state_dict())
    cpu, gpu = (trainer.evaluate() for trainer in trainers)
    assert gpu.losses == pytest.approx(cpu.losses, rel=0.01)
    assert gpu.results[:4] == pytest.approx(cpu.results[:4], abs=0.02)
    assert sum(len(image.detections) for image in cpu.images) > 0


def test_in_full_precision_a_gpu_finds_the_same_boxes(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data)
    model = trainer.ema.model
    images = torch.rand(2, 3, 64, 64)
    cpu = model(images)[0]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    gpu = model.to(GPU)(images.to(GPU))[0].cpu()
    torch.testing.assert_close(gpu, cpu, rtol=1e-3, atol=1e-3)
    config = NmsConfig(confidence=0.0001, iou=0.6, multi_label=True)
    for ours, theirs in zip(
        non_max_suppression(cpu.to(GPU), config), non_max_suppression(cpu, config), strict=True
    ):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-4)


def test_of_several_targets_in_one_cell_the_same_wins_as_on_a_cpu(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data)
    targets = torch.rand(200, 6) * torch.tensor([1.99, 3.99, 0.2, 0.2, 0.5, 0.5])
    targets[:, :2] = targets[:, :2].floor()
    raw = [torch.randn(2, 3, n, n, 9) for n in (8, 4, 2)]
    detect, config = trainer.model.detect, trainer.loss.config
    found = assign(detect.anchors, [(8, 8)], targets, 4.0)[0]
    cells = torch.stack((found.image, found.anchor, found.row, found.column), 1)
    assert len(cells.unique(dim=0)) < len(cells)
    cpu = DetectionLoss(detect.anchors, detect.stride, 4, config)(raw, targets)[1]
    on_gpu = DetectionLoss(detect.anchors.to(GPU), detect.stride, 4, config)
    for _ in range(3):
        gpu = on_gpu([level.to(GPU) for level in raw], targets.to(GPU))[1]
        np.testing.assert_allclose(gpu.cpu(), cpu, rtol=1e-5)


def test_a_run_continues_on_a_gpu_from_a_file(
    tiny_data: Data, tmp_path_factory: pytest.TempPathFactory
):
    path = tmp_path_factory.mktemp("gpu") / "x.pt"
    whole = tiny_trainer(*tiny_data, device=GPU)
    whole.train_epoch()
    checkpoint.save(whole.state(), path)
    resumed = tiny_trainer(*tiny_data, device=GPU)
    resumed.restore(checkpoint.load(path))
    assert (resumed.epoch, resumed.step, resumed.ema.updates) == (1, 3, whole.ema.updates)
    losses = [trainer.train_epoch().losses for trainer in (whole, resumed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_a_loss_that_is_no_number_is_noticed_at_the_end_of_an_epoch_at_the_latest(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, device=GPU)
    with torch.no_grad():
        trainer.model.model[0].conv.weight[0] = float("nan")  # type: ignore[union-attr,operator,index]
    with pytest.raises(TrainingDivergedError, match="not finite"):
        trainer.train_epoch()


def test_evaluate_leaves_an_ema_in_full_precision(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, device=GPU)
    before = {k: v.clone() for k, v in trainer.ema.model.state_dict().items()}
    evaluate(trainer.ema.model, trainer.val_loader, trainer.loss.fixed(), GPU)
    after = trainer.ema.model.state_dict()
    assert all(torch.equal(before[k], v) and v.dtype == before[k].dtype for k, v in after.items())


def test_no_step_waits_for_the_gpu(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, device=GPU, workers=1)
    trainer.train_epoch()  # what is set up once may wait
    steps: list[int] = []

    def after_step(_: object) -> None:
        steps.append(trainer.batch)
        last = trainer.batch == len(trainer.loader)  # then the losses are looked at: one wait
        torch.cuda.set_sync_debug_mode("default" if last else "error")

    try:
        trainer.train_epoch(after_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert steps == list(range(1, len(trainer.loader) + 1))
    assert len(steps) > 1


def test_batches_and_their_targets_are_page_locked(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, device=GPU, workers=1)
    batch = next(iter(trainer.loader.epoch(0)))
    assert batch.images.is_pinned()
    assert batch.targets.is_pinned()


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_the_fused_optimizer_moves_weights_as_a_cpu_does(tiny_data: Data, kind: str):
    trainers = [tiny_trainer(*tiny_data, device=d, optimizer=kind) for d in (CPU, GPU)]
    assert all(group["fused"] for group in trainers[1].optimizer.param_groups)
    for trainer in trainers:
        for parameter in trainer.model.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        trainer.optimizer.step()
    pairs = zip(*(t.model.parameters() for t in trainers), strict=True)
    assert all(torch.allclose(a, b.cpu(), atol=1e-6) for a, b in pairs)


def test_the_largest_batch_trains(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, device=GPU, image_size=640)
    found = largest_batch(
        trainer.model, trainer.loss, trainer.config, trainer.policy, CudaMeter(GPU), 10_000
    )
    assert found >= 8
    assert found % 8 == 0
    model, loss = trainer.model, trainer.loss
    images = torch.zeros(found, 3, 640, 640, device=GPU)
    with torch.autocast("cuda"):
        raw = model(images)
    loss(raw, torch.zeros(0, 6))[0].backward()
