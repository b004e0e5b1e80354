"""The shape of the program: who imports whom, how large things are, and the list of options."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from tasks.settings import RetrainConfig
from yolov5_core.config import Hyperparameters

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows", "tasks", "yolov5_core")

# Reading down is reading the system: a module imports only modules above it.
CORE = (
    # what a run is told, and its randomness
    "limits",
    "strict_yaml",
    "zips",
    "config",
    "randomness",
    # pictures and labels as people have them
    "faults",
    "dataset",
    "durable",
    "memory",
    "allocator",
    "files",
    "boxes",
    "decode",
    "features",
    "label_places",
    "labels",
    "pixel_boxes",
    "coco",
    "voc",
    "check",
    # a data set, prepared
    "index",
    "data_yaml",
    "sources",
    "shards",
    # samples
    "paint",
    "synthetic",
    "augment",
    "mosaic",
    "perspective",
    "samples",
    "anchors",
    # the model
    "architecture",
    "distributed",
    "layers",
    "sync_batch_norm",
    "detect",
    "model",
    "iou",
    "loss",
    "nms",
    # files
    "inert_pickle",
    "torch_archive",
    "checkpoint",
    "foreign",
    "convert",
    # models for other programs
    "onnx_graph",
    "export_formats",
    "parity",
    "export",
    # training and evaluation
    "start",
    "schedule",
    "optimizer",
    "ema",
    "loader",
    "matching",
    "metrics",
    "evaluation",
    "bootstrap",
    "promotion",
    "sizes",
    "coco_metrics",
    "worst",
    "predictions",
    "evaluation_report",
    "evaluate",
    "predict",
    "results",
    "epochs",
    "loss_watch",
    "step_policy",
    "auto_batch",
    "trainer",
    "evolve",
    # what people look at
    "events",
    "pictures",
    "plots",
    "evolve_text",
    "evolve_plot",
    "histograms",
    "duplicates",
    "drift",
    "data_counts",
    "data_report",
    "histogram_svg",
    "line_chart_svg",
    "report_style",
    "page",
    "report_html",
    "report_markdown",
    "promotion_text",
    "report_samples",
    "run_card_changes",
    "run_comparison",
    "run_card_style",
    "run_card_pictures",
    "run_card_objects",
    "run_card_progress",
    "run_card_timing",
    "run_card",
    "run_card_markdown",
)
WITH_TORCH = (
    *("layers", "detect", "model", "iou", "loss", "nms", "checkpoint", "foreign", "start"),
    *("optimizer", "ema", "loader", "evaluate", "predict", "loss_watch", "step_policy"),
    *("trainer", "auto_batch", "distributed", "sync_batch_norm", "convert", "onnx_graph"),
    *("export_formats", "export"),
)
WITHOUT_TORCH = tuple(module for module in CORE if module not in WITH_TORCH)
LIGHT_TASKS = ("tasks.errors", "tasks.records", "tasks.settings")  # what `--help` needs
NEVER_IN_THE_CORE = ("prefect", "fsspec", "gcsfs", "google")
# A new option is a visible difference here.
RETRAIN_FIELDS = """
    data single_cls cache_images rect image_weights max_rejected max_leakage max_drift name
    bucket promote min_gain max_class_loss mlflow store run run_on dask resume device gpus
    workers seed nosave save_period checkpoint_minutes max_hours deadline notest
    test_time_augmentation cfg weights freeze noautoanchor epochs patience batch_size auto_batch
    image_size multi_scale quad hyp optimizer precision lr_curve iou autobalance
"""
HYPERPARAMETER_FIELDS = """
    lr0 lrf momentum weight_decay warmup_epochs warmup_momentum warmup_bias_lr box cls cls_pw obj
    obj_pw anchor_t anchors fl_gamma label_smoothing hsv_h hsv_s hsv_v degrees translate scale
    shear perspective flipud fliplr mosaic mosaic9 mixup copy_paste
"""
MAX_LINES, MAX_STATEMENTS = 400, 50
_MACHINE_PATH = re.compile(r"(?<![\w.~$}])/(?:work|root|home|Users|mnt|private)/\w")
_RUNS_TEXT = re.compile(
    r"eval|exec|compile|__import__|os\.system|os\.popen|c?[pP]ickle\.(load|loads|Unpickler)"
)
# where a person opens an object of a bucket; nothing here asks that page
_OPENED_BY_PEOPLE = r"storage\.cloud\.google\.com[/\"]"
_HOST = re.compile(rf"https?://(?!127\.0\.0\.1|localhost|storage/b\b|[{{\"]|{_OPENED_BY_PEOPLE})")


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imported(path: Path) -> set[str]:
    """Full names of all modules that a file imports, also within functions."""
    names: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages_of(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def core_imports(module: str) -> set[str]:
    names = imported(ROOT / "yolov5_core" / f"{module}.py")
    return {name.split(".")[1] for name in names if name.startswith("yolov5_core.")} & set(CORE)


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("tasks", {"flows", "tests"}), ("yolov5_core", {"flows", "tasks", "tests"})],
)
def test_imports_go_from_flows_to_tasks_to_the_core_and_never_back(
    package: str, forbidden: set[str]
):
    wrong = [str(path) for path in sources(package) if packages_of(path) & forbidden]
    assert wrong == []


def test_the_core_knows_neither_prefect_nor_a_bucket():
    found = {
        path.name: packages_of(path) & set(NEVER_IN_THE_CORE) for path in sources("yolov5_core")
    }
    assert {name: names for name, names in found.items() if names} == {}


def test_every_core_module_has_its_place_in_the_list():
    modules = {path.stem for path in (ROOT / "yolov5_core").glob("*.py")} - {"__init__"}
    assert modules == set(CORE)
    assert len(CORE) == len(set(CORE))


@pytest.mark.parametrize("module", CORE)
def test_a_core_module_imports_only_modules_above_it(module: str):
    assert core_imports(module) <= set(CORE[: CORE.index(module)])


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_what_needs_no_torch_does_not_reach_it(module: str):
    assert "torch" not in packages_of(ROOT / "yolov5_core" / f"{module}.py")
    assert core_imports(module) <= set(WITHOUT_TORCH)


def test_importing_what_needs_no_torch_loads_none_and_no_prefect():
    modules = [*(f"yolov5_core.{name}" for name in WITHOUT_TORCH), *LIGHT_TASKS]
    lines = [f"import {name}" for name in modules]
    code = "; ".join(["import sys", *lines, "print({'torch', 'prefect'} & set(sys.modules))"])
    done = subprocess.run(  # noqa: S603  our own script
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_a_file_fits_a_short_reading():
    lengths = {str(p): len(p.read_text("utf-8").splitlines()) for p in sources(*PACKAGES)}
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_a_function_fits_a_screen():
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path in sources(*PACKAGES)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and sum(isinstance(inner, ast.stmt) for inner in ast.walk(node)) > MAX_STATEMENTS
    ]
    assert long == []


def test_the_options_of_a_run_are_these():
    assert [field.name for field in fields(RetrainConfig)] == RETRAIN_FIELDS.split()


def test_the_hyperparameters_are_these():
    assert [field.name for field in fields(Hyperparameters)] == HYPERPARAMETER_FIELDS.split()


def dangerous(tree: ast.Module) -> Iterator[str]:
    """Calls that could run what a file or a user says."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if _RUNS_TEXT.fullmatch(name):
            yield name
        elif any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords):
            yield f"{name} with a shell"
        elif any(
            k.arg in ("weights_only", "allow_pickle")
            and ast.unparse(k.value) != str(k.arg == "weights_only")
            for k in node.keywords
        ):
            yield f"{name} that unpickles"


def test_nothing_runs_what_a_file_or_a_user_says():
    found = {str(path): list(dangerous(parsed(path))) for path in sources(*PACKAGES, "benchmarks")}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "code",
    ["eval('1')", "os.system(x)", "run(x, shell=True)", "pickle.loads(x)", "load(weights_only=0)"],
)
def test_the_search_for_such_calls_finds_them(code: str):
    assert list(dangerous(ast.parse(code)))
    assert not list(dangerous(ast.parse("model.eval(); run([x], shell=False); re.compile('a')")))


def written_files() -> list[Path]:
    """Every text file of the project, without golden data and what runs leave behind."""
    folders = (*PACKAGES, "tests", "benchmarks", "containers", "docs", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    found = [path for path in (*ROOT.iterdir(), *inside) if path.is_file()]
    left_out = {".json", ".npz", ".pt", ".pyc", ".png", ".jpg", ".gif", ".svg"}
    return [p for p in found if p.suffix not in left_out and p != Path(__file__)]


def test_no_file_names_a_place_of_one_machine():
    wrong = [str(p) for p in written_files() if _MACHINE_PATH.search(p.read_text("utf-8"))]
    assert wrong == []


def test_no_program_names_a_host_of_the_network():
    found = [str(p) for p in sources(*PACKAGES, "tests", "benchmarks") if p != Path(__file__)]
    assert [path for path in found if _HOST.search(Path(path).read_text("utf-8"))] == []
