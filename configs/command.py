"""The command line of the programs: `--config`, `--workdir`, `--config.a.b=value`, and readable errors."""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from absl import app, flags
from ml_collections import config_flags


def run(main: Callable[..., bool], example: str, options: Mapping[str, tuple[Any, str]] | None = None) -> None:
    """Parse the flags and call main(config, workdir); an error that the user can mend ends the program in one line.

    options: for a program without working directory, its flags by name, each with default (a text or a whole number)
    and help; they follow `config` in place of `workdir`.

    Where main returns False, a signal has stopped it, and the exit status is that of a program ended by SIGTERM, so
    that a script does not go on to its next command.
    """
    config = config_flags.DEFINE_config_file("config", None, f"A configuration file, such as {example}.")
    given = {
        name: (flags.DEFINE_integer if isinstance(default, int) else flags.DEFINE_string)(name, default, text)
        for name, (default, text) in (options or {}).items()
    }
    workdir = None
    if options is None:
        workdir = flags.DEFINE_string("workdir", None, "For checkpoints, logs and pictures; default: config.workdir.")
    flags.mark_flag_as_required("config")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow only reads files here, and need not narrate it

    def parse(argv: list[str]) -> list[str]:
        try:
            return app.parse_flags_with_usage(argv)
        except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            text = str(error.args[0] if error.args else error).strip().replace("\\n", " ").replace("\\'", "'")
            sys.exit(f"error: in the flags or the configuration file: {text}")

    def call(_: list[str]) -> None:
        logging.getLogger("absl").setLevel(logging.INFO)
        logging.getLogger("jax").setLevel(logging.WARNING)
        try:
            folder = config.value.workdir  # a file that could not be read shows here
        except OSError as error:
            sys.exit(f"error: {error}")
        try:
            if workdir is None:
                finished = main(config.value, **{name: flag.value for name, flag in given.items()})
            else:
                finished = main(config.value, workdir.value or folder)
        except (ValueError, FloatingPointError) as error:
            sys.exit(f"error: {error}")
        if not finished:
            sys.exit(143)

    app.run(call, flags_parser=parse)
