"""The command `yolov5-retrain`: RetrainConfig as flags, the flow in this process, one exit code.

Nothing heavy is imported before the flags are known to be good, so `--help` answers at once.
"""

import argparse
import copy
import difflib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

from flows.temporary_api import start_temporary_api
from tasks.errors import FAILURE, USAGE, TerminatedError, exit_code
from tasks.place import launched
from tasks.records import STAGES, RunSummary
from tasks.settings import LATEST, RetrainConfig
from tasks.settings_files import config_from_mapping, read_yaml_settings, with_current_names
from yolov5_core.config import ConfigError

REPORT = "report"  # what --only takes beside the stages
# Commands beside the retraining itself: the first word, and the function that takes the others and
# returns what to say. Its module is imported only when it is asked for.
COMMANDS = {
    "evolve": "flows.evolve_command:evolve_command",
    "convert": "flows.convert:convert_command",
    "export": "flows.export:export_command",
    "rollback": "flows.rollback:rollback_command",
    "predict": "flows.predict:predict_command",
    "compare": "flows.compare:compare_command",
}
_INTERRUPTED = 130  # what shells report for Ctrl-C
# What continues a command that was interrupted, where anything is left of it.
_GOES_ON = {"": "; --resume continues the run", "evolve": "; the same command goes on with it"}

_GROUPS = {
    "data": "data",
    "model": "model",
    "training": "training",
    "run": "the run and the machine",
    "publish": "publishing",
}

_EPILOG = """\
examples:
  yolov5-retrain
      draws a small picture set and trains on it: a first look, no data needed
  yolov5-retrain --data pictures/data.yaml --name street --bucket gs://models --epochs 300
      trains on your pictures; publishes weights/last_street.pt, weights/best_street.pt and
      results/results_street.txt in gs://models
  yolov5-retrain --config nightly.yaml --device 0
      settings from a file (same names, with underscores); flags win over the file,
      and --no-FLAG takes back a switch that it sets
  yolov5-retrain --data pictures/data.yaml --weights yolov5s.pt --cfg s --freeze 10
      fine-tunes a public checkpoint, its first 10 layers kept
  yolov5-retrain --data gs://pictures/data.yaml --dask tcp://scheduler:8786
      has the pictures checked by the workers of a Dask cluster
  yolov5-retrain --resume
      continues the newest interrupted run where it stopped
  yolov5-retrain --data pictures/data.yaml --gpus 4 --batch-size 256
      trains on four GPUs; for several machines start the same command with torchrun
  yolov5-retrain --only upload --run 20260101-020000_street
      runs one stage of that run again
  yolov5-retrain evolve --data pictures/data.yaml --bucket gs://models --generations 100
      looks for better hyperparameters, for as long as you let it; evolve --help tells more
  yolov5-retrain rollback --bucket gs://models --name street
      makes the champion before the present one champion again; --list shows all of them
  yolov5-retrain predict pictures film.mp4 --weights champion --bucket gs://models --name street
      draws what the best model finds in a folder and a video; see predict --help
  yolov5-retrain compare 20260101-020000_street 20260102-020000_street --out comparison
      two runs of the store beside each other: settings, data, metrics, classes, times, curves
  yolov5-retrain export --weights best_street.pt --format onnx --pictures pictures/images/val
      writes ONNX or TorchScript, and how exactly it says what the checkpoint says
  yolov5-retrain convert yolov5s.pt ours.pt
      makes a checkpoint of ours from a public one, and the other way a plain state_dict

data.yaml names the pictures; labels lie in labels/ beside images/, one .txt per picture with
rows `class x y w h`, centre and size as fractions of the picture:
  train: images/train
  val: images/val
  names: [person, bicycle, car]

exit codes: 0 done; 2 a setting or the data is wrong, the message says what to change;
75 a passing fault (network, full disk, stopped by SIGTERM), run again with --resume;
1 anything else
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a retraining from the command line and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words and words[0] in COMMANDS else ""
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        if command:
            module, _, function = COMMANDS[command].partition(":")
            text = getattr(importlib.import_module(module), function)(words[1:])
        else:
            text = _run(parse(words))
    except SystemExit:  # after --help
        raise
    except KeyboardInterrupt:
        _say(sys.stderr, f"yolov5-retrain: interrupted{_GOES_ON.get(command, '')}")
        return _INTERRUPTED
    except BaseException as error:  # noqa: BLE001  the edge: every error becomes a code and a line
        return _complain(error)
    finally:
        signal.signal(signal.SIGTERM, before)
    _say(sys.stdout, text)
    return 0


def _stop(_number: int, _frame: object) -> NoReturn:
    """On SIGTERM, also when Prefect hands the signal on after its flow has ended."""
    raise TerminatedError("stopped by SIGTERM; what was done is saved, --resume continues the run")


class Command(NamedTuple):
    """What the command line asks for."""

    config: RetrainConfig
    debug: bool  # show tracebacks
    only: str  # the one stage to run, "" for all


def parse(argv: Sequence[str]) -> Command:
    """Reads the command line; flags win over the --config file.

    Raises:
        ConfigError: Unknown flags, values of a wrong kind, values that cannot work.
        SystemExit: After --help.
    """
    given = parse_flags(_parser(), argv)
    debug, only = given.pop("debug"), given.pop("only")
    config = config_of(given)
    if only and not config.run:
        raise ConfigError(f"--only {only}: give --run, the id of the run whose stage it is")
    return Command(config, debug, only)


def parse_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, by their names.

    Raises:
        ConfigError: Unknown flags, values of a wrong kind.
        SystemExit: After --help.
    """
    flags, unknown = parser.parse_known_args(argv)
    if unknown:
        raise ConfigError(f"unknown argument {unknown[0]!r}{_nearest_flag(unknown[0], parser)}")
    return vars(flags)


def config_of(given: dict[str, Any]) -> RetrainConfig:
    """The settings that flags and the file of --config make; flags win.

    Raises:
        ConfigError: Values that cannot work.
    """
    path = given.pop("config")
    where = "command line"
    if path is not None:
        given = {**with_current_names(read_yaml_settings(path), str(path)), **given}
        where = f"{path} with the flags"
    return config_from_mapping(given, where)


def format_summary(summary: RunSummary) -> str:
    """Where everything is, for people."""
    metrics = "  ".join(f"{name} {value:.3f}" for name, value in summary.metrics.items())
    rows = [
        ("run", summary.folder),
        ("report", summary.report),
        ("data", summary.data),
        ("weights", "\n".join(summary.weights)),
        ("results", summary.results),
        ("plot", summary.plot),
        ("published", "\n".join(p.url for p in summary.published)),
        ("metrics", metrics),
    ]
    lines = [f"{summary.epochs} epochs completed in {summary.hours:.3f} hours."]
    for title, text in rows:
        for number, line in enumerate(text.splitlines()):
            lines.append(f"  {title if number == 0 else '':<10} {line}")
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _parser() -> argparse.ArgumentParser:
    parser = settings_parser(
        "yolov5-retrain",
        usage="%(prog)s [--data DATA] [--name NAME] [--bucket BUCKET] [--epochs N] [flags below]",
        description="Trains, evaluates and publishes a YOLOv5 detector from labelled pictures.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--only",
        choices=(*STAGES, REPORT),
        default="",
        metavar="STAGE",
        help=f"run one stage of the run --run again: {', '.join(STAGES)}; {REPORT}: its run card",
    )
    return parser


def settings_parser(prog: str, **texts: str) -> argparse.ArgumentParser:
    """A parser that takes every setting of a run, --config and --debug.

    Args:
        prog: The command.
        texts: usage, description and epilog of its help.
    """
    parser = _Parser(
        prog=prog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # only what was given may win over the file
        allow_abbrev=False,
        **texts,  # type: ignore[arg-type]  # they are texts, other arguments are not
    )
    parser.add_argument(
        "--config", type=Path, default=None, metavar="FILE", help="read settings from a YAML file"
    )
    parser.add_argument(
        "--debug", action="store_true", default=False, help="show the traceback of an error"
    )
    hints = get_type_hints(RetrainConfig)
    for group, title in _GROUPS.items():
        section = parser.add_argument_group(title)
        for setting in fields(RetrainConfig):
            if setting.metadata["group"] == group:
                section.add_argument(_flag(setting.name), **_options(setting, hints[setting.name]))
    parser.add_argument(  # what it was called before there were three
        "--adam",
        dest="optimizer",
        action="store_const",
        const="adam",
        help=argparse.SUPPRESS,
    )
    for name in (name for name, hint in hints.items() if hint is bool):
        parser.add_argument(
            f"--no-{_flag(name)[2:]}", dest=name, action="store_false", help=argparse.SUPPRESS
        )
    return parser


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _options(setting: Field[Any], hint: Any) -> dict[str, Any]:
    text = setting.metadata["description"]
    if hint is bool:
        return {"action": "store_true", "help": text}
    unit = f" {setting.metadata['unit']}" if setting.metadata["unit"] else ""
    shown = f" (default: {setting.default}{unit})" if setting.default not in ("", ()) else ""
    options: dict[str, Any] = {"help": f"{text}{shown}".replace("%", "%%")}
    if get_origin(hint) is Literal:
        return options | {"choices": get_args(hint)}
    if get_origin(hint) is tuple:
        return options | {"type": int, "nargs": "+", "metavar": "K"}
    if setting.name == "resume":
        return options | {"nargs": "?", "const": LATEST, "metavar": "RUN"}
    plain = {int: "N", float: setting.metadata["unit"].upper() or "SHARE"}
    metavar = plain[hint] if hint in plain else setting.name.upper().rsplit("_", maxsplit=1)[-1]
    return options | {"type": hint, "metavar": metavar}


def _nearest_flag(word: str, parser: argparse.ArgumentParser) -> str:
    # what has a default is not a setting of a run: --config, --debug and the command's own
    names = [*vars(parser.parse_args([])), *(setting.name for setting in fields(RetrainConfig))]
    known = [_flag(name) for name in names]
    close = difflib.get_close_matches(word.partition("=")[0], known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; see {parser.prog} --help"


class _OneLine(logging.Filter):
    """Shows a foreseen fault as its message alone: Prefect logs every error with a traceback."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self.handler = handler

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or exit_code(error) == FAILURE:
            return True
        plain = copy.copy(record)  # other handlers, such as the UI's, keep the traceback
        plain.exc_info = plain.exc_text = None
        self.handler.emit(plain)
        return False


def ready_prefect() -> None:
    """Sets what Prefect reads when it is imported."""
    for key, value in {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # offline it only logs failures
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 fails on a fresh home
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "yolov5_core,tasks,flows",
        "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",  # we log a line an epoch
    }.items():
        os.environ.setdefault(key, value)


def shorten_errors() -> None:
    """Lets the log show foreseen faults without tracebacks; Prefect must have been imported."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_OneLine(handler))


def _run(command: Command) -> str:
    """Does what was asked for and says where it is; beside other ranks as torchrun starts them."""
    place = launched(os.environ)
    if place is None:
        return _lead(command)
    if command.config.run_on != "here":
        raise ConfigError(
            f"run_on={command.config.run_on}: torchrun trains in this process; leave run_on out"
        )
    if place.rank > 0:
        from tasks.follower import follow  # noqa: PLC0415  torch

        follow(place)
        return f"rank {place.rank} is done"
    from tasks.meeting import dismiss  # noqa: PLC0415  torch

    try:
        return _lead(command)
    finally:
        dismiss(place)


def _lead(command: Command) -> str:
    ready_prefect()
    # A run that goes on may turn out to be one in containers, which need a server that stays.
    alone = command.config.run_on == "here" and not command.config.resume
    api = start_temporary_api() if alone else None
    # They take seconds to import, and --help must not wait for it.
    from flows.heartbeats import our_heartbeats  # noqa: PLC0415
    from flows.retrain import retrain  # noqa: PLC0415
    from flows.stages import STAGE_FLOWS, load, write_report  # noqa: PLC0415

    if alone:
        load(command.only)
    if api:
        api.wait()
    if not command.debug:
        shorten_errors()
    config, only = command.config, command.only
    if only == REPORT:
        return f"the run card is {write_report(config.store, config.run)}"
    with our_heartbeats():
        if not only:
            return format_summary(retrain(config))
        STAGE_FLOWS[only](config.store, config.run)
    return f"stage {only} of run {config.run} is done"


def _complain(error: BaseException) -> int:
    code = exit_code(error)
    hint = "" if code == USAGE else " (--debug shows the traceback)"
    _say(sys.stderr, f"yolov5-retrain: error: {str(error) or type(error).__name__}{hint}")
    return code


def _say(stream: Any, text: str) -> None:
    stream.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
