"""The command line of the programs: `--config`, `--workdir`, `--config.a.b=value`, and readable errors."""

import abc
import ast
import importlib.util
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from taming_jax.checkpoint import quiet_orbax
from taming_jax.files import printable

CONFIG = re.compile(r"^(--?config=)(~.*)")
NONE = re.compile(r"--config\.([\w.]+)=none$", re.IGNORECASE)  # which the flags of numbers cannot read


class Numbers(abc.ABC):  # noqa: B024  # nothing is made of it
    """The type of a setting that is one whole number or several, for `ConfigDict`, which keeps one type a setting."""


for _kind in (int, tuple, list):
    Numbers.register(_kind)


class _NumbersParser(flags.ArgumentParser):
    """Reads `256`, `96,160` and `"(96, 160)"`; what the numbers may be is known by the settings."""

    syntactic_help = "a whole number, or several with commas between them"

    def parse(self, argument: Any) -> Any:
        try:
            value = ast.literal_eval(argument) if isinstance(argument, str) else argument
        except (SyntaxError, ValueError):
            value = None
        values = value if isinstance(value, (tuple, list)) else (value,)
        if not all(type(number) is int for number in values):
            raise ValueError(f"{argument!r} is not {self.syntactic_help}")
        return value

    def flag_type(self) -> str:
        return "numbers"


config_flags.register_flag_parser_for_type(Numbers, _NumbersParser())


def run(
    main: Callable[..., bool],
    example: str,
    options: Mapping[str, tuple[Any, str]] = MappingProxyType({}),
    *,
    has_workdir: bool = True,
    instead: str = "",
) -> None:
    """Parse the flags and call main(config, workdir); an error that the user can mend ends the program in one line.

    options: further flags by name, each with default (a text, a whole number, yes or no) and help; keywords of `main`.
    has_workdir: False for a program without `--workdir`, whose main is not given one.
    instead: the option that may be given in place of `--config`; config is then None, and workdir "" by default.

    Where main returns False, a signal has stopped it, and the exit status is that of a program ended by SIGTERM, so
    that a script does not go on to its next command.
    """
    config, given = _define(example, options, has_workdir, instead)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow only reads files here, and need not narrate it

    def parse(argv: list[str]) -> list[str]:
        try:
            plain = [CONFIG.sub(lambda found: found[1] + _home(found[2]), flag) for flag in argv]
            rest = app.parse_flags_with_usage([flag for flag in plain if not NONE.match(flag)])
            for path in (found[1] for flag in argv if (found := NONE.match(flag))):
                _set_to_none(config.value, path)
            return rest
        except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            text = str(error.args[0] if error.args else error).strip().replace("\\n", " ").replace("\\'", "'")
            sys.exit(f"error: in the flags or the configuration file: {text}")

    def call(_: list[str]) -> None:
        for name in ("absl", "taming_jax"):
            logging.getLogger(name).setLevel(logging.INFO)
        logging.getLogger("jax").setLevel(logging.WARNING)
        quiet_orbax()
        try:
            folder = config.value.workdir if config.value is not None else ""  # a file that could not be read shows
        except OSError as error:
            sys.exit(f"error: {error}")
        arguments = {name: _home(flag.value) for name, flag in given.items()}
        if has_workdir:
            arguments["workdir"] = arguments["workdir"] or _home(folder)
        try:
            finished = main(config.value, **arguments)
        except (ValueError, FloatingPointError, OSError) as error:
            _end(f"error: {printable(str(error))}")
        except Exception as error:
            if not _several():
                raise
            traceback.print_exc()
            _end(
                f"error: {type(error).__name__}, see above. Where it says that a connection was closed or timed out, "
                "another process has ended, and its log says why. The same command on all of them goes on from the "
                "newest complete checkpoint."
            )
        if not finished:
            sys.exit(143)

    app.run(call, flags_parser=parse)


def _define(
    example: str, options: Mapping[str, tuple[Any, str]], has_workdir: bool, instead: str
) -> tuple[flags.FlagHolder, dict[str, flags.FlagHolder]]:
    """The flag of the configuration, and the others by their names."""
    config = config_flags.DEFINE_config_file("config", None, f"A configuration file, such as {example}.")
    given = {name: _definer(default)(name, default, text) for name, (default, text) in options.items()}
    if has_workdir:
        help = "For checkpoints, logs and pictures; default: config.workdir."
        given["workdir"] = flags.DEFINE_string("workdir", None, help)
    if instead:
        one = lambda values: values["config"] is not None or bool(values[instead])
        flags.register_multi_flags_validator(["config", instead], one, f"Give --config, or --{instead}.")
    else:
        flags.mark_flag_as_required("config")
    return config, given


def _definer(default: Any) -> Callable[..., flags.FlagHolder]:
    """What defines a flag with this default."""
    if isinstance(default, bool):
        return flags.DEFINE_boolean
    return flags.DEFINE_integer if isinstance(default, int) else flags.DEFINE_string


def config_named(workdir: str) -> ConfigDict | None:
    """The configuration whose `workdir` this is, of those beside the file of `--config`; None where there is none.

    "runs/imagenet_vqgan_16384" is that of imagenet_vqgan.py with the argument 16384: every word is in one of the two.
    """
    folder = Path(config_flags.get_config_filename(flags.FLAGS["config"])).parent
    words = Path(workdir).name.split("_")
    for path in sorted(folder.glob("*.py")):
        stem = path.stem.split("_")
        if set(stem) <= set(words):
            argument = ",".join(word for word in words if word not in stem)
            try:
                found = load_config(path, argument)
            except (AttributeError, ValueError):  # no configuration, or none with these arguments
                continue
            if found.workdir == workdir:
                return found
    return None


def load_config(path: str | os.PathLike[str], argument: str = "") -> ConfigDict:
    """What `--config=PATH:ARGUMENT` names, without further flags."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def _set_to_none(config: ConfigDict, path: str) -> None:
    """Empty a setting; one of text gets the word."""
    *sections, key = path.split(".")
    for section in sections:
        config = config[section]
    config[key] = "none" if config.get_type(key) is str else None


def _home(value: Any) -> Any:
    """A flag's value, where `~` at its beginning, which a shell leaves alone behind a `=`, is the home folder."""
    return os.path.expanduser(value) if isinstance(value, str) else value


def _several() -> bool:
    """Whether this is one of several processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def _end(message: str) -> None:
    """End the program with a message, and without waiting for other processes, which may wait for this one."""
    if _several():
        print(message, file=sys.stderr, flush=True)
        os._exit(1)
    sys.exit(message)
