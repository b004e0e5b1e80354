"""How the commands beside the retraining itself read their words."""

import argparse
from typing import NoReturn

from yolov5_core.config import ConfigError


class CommandParser(argparse.ArgumentParser):
    """Of one command: whole flags only, examples as they are written, faults as ConfigError."""

    def __init__(self, command: str, *, description: str, epilog: str) -> None:
        super().__init__(
            prog=f"yolov5-retrain {command}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._command = command

    def error(self, message: str) -> NoReturn:
        """Refuses the words.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self._command}: {message}")
