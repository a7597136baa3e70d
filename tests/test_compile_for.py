"""Programs compiled for TPUs and GPUs that are not there: their names, what a program's text says, and tiny stages."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from configs import imagenet_cond
from taming_jax import compile_for
from taming_jax.compiling import gpus, report, search
from taming_jax.compiling.costs import costs, is_copy, loop_instructions
from taming_jax.compiling.hlo import Instruction, Shape, parse
from taming_jax.compiling.slices import slice_of

ROOT = Path(__file__).parent.parent
CUDA = Path(sys.prefix) / "cuda"  # where the compiler for GPUs is looked for, of half a gigabyte
TPU = Path(sys.prefix) / "tpu"  # where `make test` puts libtpu: with it on its path JAX looks for TPUs, and complains


@pytest.mark.parametrize(
    ("name", "kind", "topology", "chips"),
    [
        ("v5litepod-16", "v5e", "4x4", 16),  # the number counts chips
        ("v5e-1", "v5e", "1x1", 1),
        ("v6e-16", "v6e", "4x4", 16),
        ("v4-32", "v4", "2x2x4", 16),  # the number counts cores
        ("v5p-64", "v5p", "2x4x4", 32),
        ("2xv5p-64", "v5p", "2x4x4", 64),
        ("v5e:2x2", "v5e", "2x2", 4),
    ],
)
def test_slices_by_the_names_of_cloud_tpu(name, kind, topology, chips):
    found = slice_of(name)
    assert (found.kind, found.topology, found.chips) == (kind, topology, chips)


@pytest.mark.parametrize("name", ["v5litepod-3", "v4-7", "v5p-2", "v7-8", "v5e", "", "v5e-4x4", "8xH100:2"])
def test_other_names_are_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=r"v5litepod|known: "):
        slice_of(name)


def test_gpus_by_number_and_name():
    assert gpus.parts_of("8xH100") == (8, gpus.GPUS["H100"]) and gpus.parts_of("16xA100")[0] == 16
    assert gpus.known("8xH200") and not gpus.known("v5litepod-16") and not gpus.known("2xv5p-64")
    for name in ("H100", "0xH100", "12xH100", "2x8xH100"):
        assert gpus.known(name)
        with pytest.raises(ValueError, match=r"8xH100|whole nodes"):
            gpus.parts_of(name)


def test_without_the_compiler_for_gpus_the_command_that_brings_it_is_told(monkeypatch):
    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"pip install --no-deps --target FOLDER .*plugin=={jax.__version__}"):
        gpus.target("8xH100")


def test_layouts_fill_up_tiles():
    assert Shape("bf16", (8, 24, 257, 64), "3,2,1,0:T(8,128)(2,1)").padded_bytes == 2 * 8 * 24 * 264 * 128
    assert Shape("f32", (100,), "0:T(128)").padded_bytes == 4 * 128
    assert Shape("f32", (5, 3), "0,1:T(8,128)S(1)").padded_bytes == 4 * 8 * 128  # the last axis is the slowest
    assert Shape("f32", (5, 3), "0,1:T(8,128)S(1)").space == 1
    assert Shape("f32", (5, 3)).padded_bytes == 60


def test_loops_are_multiplied_out():
    matrix = jax.ShapeDtypeStruct((16, 16), jnp.float32)

    def looped(x: jax.Array) -> jax.Array:
        inner = lambda y, _: (jnp.sin(y @ x), None)
        outer = lambda y, _: (jax.lax.scan(inner, y, length=3)[0], None)
        return jax.lax.scan(outer, x, length=5)[0]

    module = parse(jax.jit(looped).lower(matrix).compile().as_text())
    assert sorted(module.trips(*place) for place in module.loops.values()) == [3, 5]
    assert costs(module).flops == 15 * 2 * 16**3


TEXT = (Path(__file__).parent / "tpu_program.hlo").read_text(encoding="utf-8")


@pytest.mark.parametrize(("end", "trips", "times"), [("length", {}, 48), ("q", {"walk/while": 7, "while": 2}, 7)])
def test_what_the_text_of_a_tpu_says(end, trips, times):
    """Ends of loops that are carried; slices and not whole arrays are read; a chain of one collective is one; what lies
    in the chip's own memory is no traffic."""
    module = parse(TEXT.replace("%END", f"%{end}"))
    found = costs(module, trips)
    assert (found.cycles, found.unknown) == (1000 * times, [])
    layer, whole = 4 * 1024 * 128, 4 * 48 * 1024 * 128
    assert found.copied_bytes == times * whole
    scalar, part, gathered = 4, 2 * 16 * 128, 2 * 64 * 128
    assert found.hbm_bytes == times * (2 * layer + scalar + whole + 3 * part + 2 * gathered)
    [row] = found.collective_rows()
    assert row["count"] == times and row["bytes"] == row["overlapped"] == times * 2 * 64 * 128
    assert {i.opcode for i in loop_instructions(module)} >= {"all-gather", "copy", "dynamic-slice"}


def test_loops_that_end_at_run_time_are_named():
    assert costs(parse(TEXT.replace("%END", "%q"))).unknown == ["jit(step)/walk/while"]


GPU_TEXT = """HloModule m, is_scheduled=true

ENTRY %main (x: bf16[2,8,8,3], k: bf16[16,4,4,3], q: bf16[2,256,4,64], a: f32[4,8], b: f32[2,8]) -> f32[] {
  %x = bf16[2,8,8,3]{3,2,1,0} parameter(0)
  %k = bf16[16,4,4,3]{3,2,1,0} parameter(1)
  %q = bf16[2,256,4,64]{3,2,1,0} parameter(2)
  %a = f32[4,8]{1,0} parameter(3)
  %b = f32[2,8]{1,0} parameter(4)
  %to = (bf16[2,4,4,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), WINDOW, custom_call_target="__cudnn$convForward"
  %y = bf16[2,4,4,16]{3,2,1,0} get-tuple-element(%to), index=0
  %in = (bf16[2,8,8,3]{3,2,1,0}, u8[0]{0}) custom-call(%y, %k), WINDOW, custom_call_target="__cudnn$convBackwardInput"
  %of = (bf16[16,4,4,3]{3,2,1,0}, u8[0]{0}) custom-call(%x, %y), WINDOW, custom_call_target="__cudnn$convBackwardFilter"
  %at = (bf16[2,4,256,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax", SCORES
  %ag = ((f32[4,8], f32[2,8]), (f32[32,8], f32[16,8])) all-gather-start(%a, %b), dimensions={0}, backend_config={SYNC}
  ROOT %r = f32[] constant(0)
}
"""
WINDOW = "window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f"
SCORES = (
    'backend_config={"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "4", "256", "256"]}}'
)


@pytest.mark.parametrize("sync", ["true", "false"])
def test_what_the_text_of_a_gpu_says(sync):
    """Convolutions and attention are calls of a library; several arrays are gathered in one call."""
    text = GPU_TEXT.replace("WINDOW", WINDOW).replace("SCORES", SCORES).replace("SYNC", f'"is_sync":{sync}')
    found = costs(parse(text))
    inside = (4 * 4 - 2) ** 2  # of the windows of 4 along 8 pixels, two places lie outside
    convolution, attention = 2 * 2 * inside * 3 * 16, 2 * 2 * (2 * 4 * 256 * 256) * 64
    assert found.flops == 3 * convolution + attention
    [row] = found.collective_rows()
    assert row["bytes"] == 4 * (32 + 16) * 8 and row["overlapped"] == (row["bytes"] if sync == "false" else 0)


def test_a_report_without_cycles():
    bytes = dict.fromkeys(("argument_bytes", "output_bytes", "temporary_bytes", "code_bytes", "copied_bytes"), 0)
    seconds = {"trace_s": 1.0, "compile_s": 2.0}
    counts = {"flops": 1e12, "hbm_bytes": 3e9, "cycles": None, "estimated_ms": None, "collectives": [], "times": 256}
    found = {"program": "sample", "config": "c", "slice": "8xH100", "mesh": {"data": 8}, "batch": 8, "fits": False}
    found |= {"peak_bytes": 70e9, "memory_bytes": 60e9, "loops_counted_once": [], "per": "token", "note": "no cycles"}
    told = report.table(found | bytes | seconds | counts)
    assert "DOES NOT FIT: 70.00 GB at most on a device of 60.00 GB" in told and "no cycles" in told
    assert "1.000 TFLOP" in told and "0.012 GB of traffic" in told and "M cycles" not in told


@pytest.mark.parametrize(
    "message",
    [
        "Ran out of memory in memory space hbm. Used 27.75G of 15.75G hbm.",
        "temporaries (27.75G) exceeds available HBM (15.75G).",
    ],
)
def test_what_a_refused_program_would_take_is_read(message):
    gibi = 2**30
    assert report._exhausted(message) == {"peak_bytes": round(27.75 * gibi), "memory_bytes": round(15.75 * gibi)}


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        parse("nothing")


def test_find_tells_the_best_first():
    """What fits before what does not; a choice that cannot be made is told and passed over."""
    settings = {"first_stage": "", "mesh": {}, "optimizer": {}, "transformer": {}}

    def compiled(changed: dict) -> dict:
        remat, parts = changed["transformer"]["remat"], changed["optimizer"]["accumulate"]
        if parts == 4:
            raise ValueError("4 parts do not divide the batch")
        if not remat:
            return {"fits": False, "peak_bytes": 20e9 / parts}
        return {"fits": True, "peak_bytes": 4e9, "cycles": 100e6 * parts + 50e6 * (remat == "block"), "collectives": []}

    told = []
    found = search.find(settings, compiled, told.append)
    assert len(found) == 2 * 3 * 2 and len(told) == 2 * 3 * 3 and settings["mesh"] == {}
    assert [row["chosen"]["transformer.remat"] for row in found[:4]] == ["dots", "dots", "block", "block"]
    assert [row["fits"] for row in found] == [True] * 8 + [False] * 4 and found[-1]["peak_bytes"] == 20e9
    assert "100.0 M cycles, 4.0 GB" in told[1] and "--config.transformer.remat=dots" in told[1]
    assert sum("do not divide" in line for line in told) == 6


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **variables}
    command = [sys.executable, "-m", "taming_jax.compile_for", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, encoding="utf-8"
    )


def test_mistakes_are_told_in_one_line():
    found = run("--config=configs/imagenet_cond.py:tiny", "--slice=v5litepod-3")
    assert found.returncode == 1 and "known: v5litepod-1" in found.stderr and "Traceback" not in found.stderr
    for name, message in (("", "--slice is missing"), ("v9-1", "no slice of")):
        with pytest.raises(ValueError, match=message):
            compile_for.main(imagenet_cond.get_config("tiny"), name, "train", "", False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[dict, Path]:
    """Both tiny steps, their evaluation and the sampler, compiled for four v5e chips."""
    if importlib.util.find_spec("libtpu") is None and not (TPU / "libtpu").is_dir():
        pytest.skip("the TPU's compiler is not there: pip install libtpu")
    folder = tmp_path_factory.mktemp("programs")
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path(ROOT, TPU)}
    command = [sys.executable, Path(__file__).parent / "compile_tiny.py", folder]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200, encoding="utf-8")
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1]), folder


def test_a_tiny_evaluation_for_gpus(tmp_path):
    """The transformer's, its attention by cuDNN, which is not there either."""
    if not (CUDA / "jax_plugins").is_dir() and not gpus.installed():
        pytest.skip(f"the compiler for GPUs is not there: pip install --no-deps --target {CUDA} {gpus.wanted()}")
    settings = ("mesh.data=1", "mesh.fsdp=-1", "transformer.attention=cudnn", "transformer.dtype=bfloat16")
    flags = ["--slice=2xH100", "--config=configs/imagenet_cond.py:tiny", "--program=eval", f"--save={tmp_path}"]
    flags += [f"--config.{setting}" for setting in settings]
    result = run(*flags, PYTHONPATH=path(ROOT, CUDA))
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["fits"] and found["cycles"] is None and found["chips"] == 2 and found["memory_bytes"] == 60e9
    assert "all-gather" in {row["kind"] for row in found["collectives"]}  # the parameters, over fsdp
    assert "cudnn$fmha" in (tmp_path / "eval.hlo").read_text(encoding="utf-8")


def path(*folders: Path) -> str:
    """Where modules are looked for: in these folders first."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_tiny_programs_fit_a_slice(tiny):
    found, _ = tiny
    for row in (found[name] for name in found if name not in ("hops", "slices")):
        assert row["fits"] and row["cycles"] > 0 and row["peak_bytes"] < 1e9 and row["loops_counted_once"] == []
    gathered = {row["kind"] for row in found["second train"]["collectives"]}
    assert "all-gather" in gathered  # the parameters, over fsdp
    assert found["second sample"]["times"] == 256 and found["second sample"]["per"] == "token"


def test_no_collective_of_an_evaluation_carries_activations(tiny):
    """An image of the second stage has 256 x 128 numbers between two blocks, and a block 12 x 128 x 128 parameters."""
    found, _ = tiny
    moved = {name: sum(row["bytes"] for row in found[name]["collectives"]) for name in ("first eval", "second eval")}
    assert moved["first eval"] < 16e3  # sums of what is measured, and of how often codes occur
    assert moved["second eval"] < 3 * (2 * 12 * 128**2 + 3 * 256 * 128)  # bytes of each parameter, which are gathered
    kinds = {row["kind"] for row in found["second eval"]["collectives"] if row["bytes"] > 1e4}
    assert kinds == {"all-gather"}


def test_the_cache_is_updated_in_place(tiny):
    """Of each of the loops over tokens: what is written is a position, and nothing of the cache's size is copied."""
    _, folder = tiny
    inside = loop_instructions(parse((folder / "second sample.hlo").read_text(encoding="utf-8")))
    cache = 8 * 2 * 64  # numbers of the shortest, for the 8 images at least that a device draws
    assert any(found.opcode == "dynamic-update-slice" for found in inside)
    large = lambda found: any(math.prod(shape.sizes) >= 128 * cache for shape in found.shapes)
    assert [found.name for found in inside if found.opcode.startswith("copy") and large(found)] == []
    rows = [shape.sizes for found in inside for shape in found.shapes if found.opcode == "dynamic-update-slice"]
    assert all(sizes[-1] == 128 for sizes in rows if len(sizes) == 4)  # two heads of 64 side by side


def test_what_windows_keep_is_read_and_written_in_place(tiny):
    """Keys and values of 9 columns of windows and an idle one: 256 positions of 256 numbers each."""
    _, folder = tiny
    module = parse((folder / "second window.hlo").read_text(encoding="utf-8"))
    inside, kept = loop_instructions(module), 10 * 256 * 256
    assert any(found.opcode == "dynamic-update-slice" and (10, 1, 256, 256) in sizes(found) for found in inside)
    moved = [found for found in inside if found.opcode in ("copy", "copy-start", "transpose") or is_copy(module, found)]
    assert [found.name for found in moved if any(math.prod(shape) >= kept for shape in sizes(found))] == []
    assert [found.scope for found in inside if found.scope.endswith("scatter") and "attention" in found.scope] == []


def test_keys_and_values_come_from_kernels_as_they_lie(tiny):
    """Of the window's kernels of attention, 256 x 256 each, the query's alone has a copy in another layout."""
    _, folder = tiny
    text = (folder / "second window.hlo").read_text(encoding="utf-8")
    assert "bf16[256,256]" in text and len(re.findall(r"= bf16\[256,256\]\S* copy\(", text)) <= 1


def sizes(instruction: Instruction) -> list[tuple[int, ...]]:
    return [shape.sizes for shape in instruction.shapes]


@pytest.mark.parametrize("name", ["first train", "first eval", "second train", "second sample"])
def test_extremes_are_compared_in_float32(tiny, name):
    _, folder = tiny
    types = re.findall(
        r"= \((\w+)\[[\d,]*\]\S*, s32\[[\d,]*\]\S*\) reduce\(", (folder / f"{name}.hlo").read_text(encoding="utf-8")
    )
    assert types and set(types) == {"f32"}


def test_parameters_are_gathered_within_a_slice(tiny):
    """On two slices of 4 chips; between them only sums travel."""
    found, folder = tiny
    assert found["slices"] == [0] * 4 + [1] * 4
    text = (folder / "two slices.hlo").read_text(encoding="utf-8")
    groups = re.findall(r" all-gather(?:-start)?\(.*replica_groups=(\{\{[\d,{}]*\}\})", text)
    assert groups and set(groups) == {"{{0,1,2,3}}"}  # the text is that of one slice


def test_neighbours_along_an_axis_are_neighbours_in_the_network(tiny):
    found, _ = tiny
    assert found["hops"] == 1  # over a ring of 16 chips; in their own order up to 6


def test_a_program_that_jax_cannot_write_down_is_read_as_the_compiler_wrote_it(tmp_path):
    class Unwritable:
        def as_text(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: async-update instruction should have 1 operands")

    (tmp_path / "module_0001.jit_small.after_codegen.txt").write_text("small", encoding="utf-8")
    (tmp_path / "module_0002.jit_step.after_codegen.txt").write_text("the program", encoding="utf-8")
    (tmp_path / "module_0002.jit_step.after_optimizations.txt").write_text(
        "the program without its costs", encoding="utf-8"
    )
    assert report._text(Unwritable(), tmp_path) == "the program"
