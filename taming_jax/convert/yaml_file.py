"""Settings in YAML, as people and programs give them. Its aliases can make a few letters mean values without end."""

from pathlib import Path
from typing import Any

from taming_jax.data.text import read_text
from taming_jax.limits import told

LARGEST = 1 << 17  # bytes; the original's have three thousand
MOST = 100_000  # values, each counted where it stands and where an alias names it


def _values(node: Any) -> int:
    """How many values a node has, aliases followed. Raises ValueError for one that holds itself."""
    counts: dict[int, int] = {}
    waiting: list[tuple[Any, bool]] = [(node, False)]
    while waiting:
        here, ready = waiting.pop()
        inside = here.value if isinstance(here.value, list) else []
        parts = [part for item in inside for part in (item if isinstance(item, tuple) else (item,))]
        if ready:
            counts[id(here)] = 1 + sum(counts[id(part)] for part in parts)
        elif id(here) not in counts:
            counts[id(here)] = 0  # while what it holds is counted
            waiting.append((here, True))
            waiting += [(part, False) for part in parts if id(part) not in counts]
            if any(counts.get(id(part)) == 0 for part in parts):
                raise ValueError("it has a value that holds itself")
    return counts[id(node)]


def read_yaml(path: str | Path) -> Any:
    """What a file of settings says. Raises ValueError where it is no YAML, or means far more than it holds."""
    import yaml

    text = read_text(path, LARGEST)
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if (count := _values(node)) > MOST:
            raise ValueError(f"it has {told(count)} values, aliases followed, and at most {MOST} are read")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {str(error).splitlines()[0][:200]}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is no YAML that can be read: its brackets lie too deep in one another") from error
    except ValueError as error:
        raise ValueError(f"{path} is no YAML that can be read: {str(error).splitlines()[0][:200]}") from error
    except Exception as error:  # of its constructors, for !!int "" and the like
        raise ValueError(
            f"{path} is no YAML: it has a value that is none of its type ({type(error).__name__})"
        ) from error
    finally:
        if loader is not None:
            loader.dispose()
