"""`evaluate compare`: results side by side, and where their protocols differ."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taming_jax.differences import flat
from taming_jax.limits import read_json, told
from taming_jax.priors.filters import with_filters

# Of a protocol, what may differ from run to run without harm to a comparison.
PASSING = ("command", "began", "seconds", "versions.", "devices", "processes", "statistics", "checkpoint.", "exported")


def read_result(path: str) -> dict[str, Any]:
    """Raises ValueError for a file that is no result."""
    try:
        found = read_json(path)
        if isinstance(found, dict) and isinstance(found["protocol"], dict):
            if isinstance(drawn := found["protocol"].get("drawn"), dict):
                found["protocol"]["drawn"] = with_filters(drawn)
            return found
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no result of taming_jax.evaluate ({type(error).__name__})") from error
    raise ValueError(f"{path} is no result of taming_jax.evaluate")


def compare_results(paths: Sequence[str]) -> str:
    """A table in Markdown, a result a column, with the differences of their protocols below. Raises ValueError."""
    if len(paths) < 2:
        raise ValueError("a comparison needs at least two results")
    found = [read_result(path) for path in paths]
    names = list(dict.fromkeys(key for one in found for key, value in one.items() if isinstance(value, (int, float))))
    lines = [_row("measure", [Path(path).stem for path in paths]), "|---" * (len(paths) + 1) + "|"]
    lines += [_row(name, [_text(one.get(name)) for one in found]) for name in names]
    different = protocol_differences([one["protocol"] for one in found])
    if different:
        lines += ["", "Measured otherwise:", "", _row("protocol", [Path(path).stem for path in paths])]
        lines += ["|---" * (len(paths) + 1) + "|"]
        lines += [_row(name, [json.dumps(value) for value in values]) for name, values in different.items()]
    return "\n".join(lines) + "\n"


def protocol_differences(protocols: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What differs, by path, with the value of each."""
    plain = [flat(protocol) for protocol in protocols]
    names = [n for n in dict.fromkeys(name for one in plain for name in one) if not n.startswith(PASSING)]
    values = {name: [one.get(name) for one in plain] for name in names}
    return {name: several for name, several in values.items() if any(x != several[0] for x in several)}


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, (int, float)) and abs(value) < 1 << 63 else told(value)
