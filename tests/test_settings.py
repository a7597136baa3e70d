"""Settings from mappings: what fits, and what each misfit is told."""

from dataclasses import dataclass

import pytest

from taming_jax.settings import from_dict, to_dict


@dataclass(frozen=True)
class Inner:
    width: int = 4
    rate: float = 0.5
    mult: tuple[int, ...] = (1, 2)
    limit: int | None = None

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width {self.width} must be at least 1")


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner()


def test_there_and_back():
    settings = Outer("a", Inner(8, 1.0, (3,), 2))
    assert from_dict(Outer, to_dict(settings)) == settings
    assert to_dict(settings)["inner"]["mult"] == [3]  # as JSON gives it back


def test_numbers_and_lists_are_fitted():
    settings = from_dict(Outer, {"name": "a", "inner": {"rate": 1, "mult": [1, 2, 4], "limit": None}})
    assert settings.inner == Inner(rate=1.0, mult=(1, 2, 4))
    assert isinstance(settings.inner.rate, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "a", "inner": {"widht": 3}},
            r"config.inner has unknown key\(s\) widht; known keys: limit, mult, rate",
        ),
        ({"inner": {}}, r"config needs the key\(s\) name"),
        ({"name": 3}, r"config.name is 3 \(int\), but it must be str"),
        ({"name": "a", "inner": {"width": 2.5}}, r"config.inner.width is 2.5 \(float\), but it must be int"),
        ({"name": "a", "inner": {"width": True}}, r"config.inner.width is True"),
        ({"name": "a", "inner": {"mult": [1, "x"]}}, r"config.inner.mult is 'x'"),
        ({"name": "a", "inner": {"limit": "x"}}, r"config.inner.limit is 'x'"),
        ({"name": "a", "inner": {"width": 0}}, r"config.inner: width 0 must be at least 1"),
    ],
)
def test_misfits_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(Outer, values)
