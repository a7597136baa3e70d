"""The benchmark of the quantizers: its kinds, a run of it from end to end, and the table in the documents."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import codebooks

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "benchmarks" / "codebooks.json"


def test_the_document_has_the_table_of_the_committed_runs():
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    options = vars(codebooks.parse([]))
    assert kept["options"] == {name: options[name] for name in kept["options"]}
    assert codebooks.table(kept["rows"]) in (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("codes", codebooks.LEVELS)
def test_kinds_differ_in_their_codes_alone(codes):
    options = codebooks.parse([])
    networks = {kind: codebooks.network(kind, codes, options.size) for kind in options.kinds}
    for kind, network in networks.items():
        assert 0.9 * codes < network.n_embed <= codes
        assert (network.estimator == "rotation") == kind.endswith("+rotation")
        assert all(getattr(network, name) == value for name, value in codebooks.NETWORK.items())
        assert network.grid(options.size, options.size) == (16, 16)
    assert networks["paper"].restart_below == 0 and networks["paper"].embed_dim == networks["paper"].z_channels


def test_it_trains_measures_and_goes_on(tmp_path, capsys, monkeypatch):
    quick = ["--steps=2", "--second_steps=2", "--size=32", "--codes=1024", "--pictures=16", "--held=8", "--seeds=1"]
    codebooks.main([*quick, "--kinds=fsq", f"--out={tmp_path}"])
    (row,) = json.loads((tmp_path / "codebooks.json").read_text(encoding="utf-8"))["rows"]
    assert (row["kind"], row["codes"], row["seed"], row["steps"]) == ("fsq", 1024, 0, 2)
    assert 0 < row["usage"] <= 64 * 8 / 1000 and row["distance"] > 0
    assert row["total_bits"] == pytest.approx(row["bits"] + row["residual_bits"]) and row["bits"] > 0
    assert "| fsq | 1024 | 1 |" in capsys.readouterr().out
    assert (tmp_path / "codebooks.png").stat().st_size > 1000

    def again(*given):
        raise AssertionError("what is in the JSON was trained again")

    monkeypatch.setattr(codebooks, "first_stage", again)
    codebooks.main([*quick, "--kinds=fsq", f"--out={tmp_path}"])
    assert json.loads((tmp_path / "codebooks.json").read_text(encoding="utf-8"))["rows"] == [row]
    monkeypatch.setitem(codebooks.KINDS, "fsq", {"quantizer": "fsq", "ema_decay": 0.9})
    with pytest.raises(AssertionError, match="trained again"):
        codebooks.main([*quick, "--kinds=fsq", f"--out={tmp_path}"])


def test_what_does_not_fit_is_refused(capsys):
    for wrong in ("--codes=512", "--kinds=vq,none", "--held=12"):
        with pytest.raises(SystemExit):
            codebooks.parse([wrong])
    assert "must be a multiple of 8" in capsys.readouterr().err
