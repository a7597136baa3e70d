"""An exception of a device without memory, in one line that says what to do."""

import re

import jax

# Of XLA, and of CUDA's libraries, which find no place for their own where a GPU is full.
SAID = re.compile(
    r"RESOURCE_EXHAUSTED|out of memory|CUDA_ERROR_OUT_OF_MEMORY|ran out of memory|Failed to allocate"
    r"|DNN library initialization failed|CU(DNN|BLAS)_STATUS_(NOT_INIT|ALLOC_FAIL)"
    r"|failed to create (cuBLAS|cublas|cuDNN|cusolver)",
    re.IGNORECASE,
)
ASKED = re.compile(
    r"(?:allocat\w+|for|size)\s+(?:an array with shape.*?of size\s+)?([\d.]+)\s*(bytes|[KMGT]i?B)\b", re.IGNORECASE
)
READING = "reading "  # how the message of a MemoryError begins of which a file is the cause
LESS = (
    "a smaller config.data.batch_size (config.sample.batch_size in drawing, --batch_size in evaluation), in training "
    "with config.optimizer.accumulate, and config.model.remat or config.transformer.remat"
)


def out_of_memory(error: BaseException) -> str:
    """What to do where an exception says that memory is full; "" for any other."""
    text = str(error)
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and SAID.search(text)):
        return ""
    asked = f" ({found[1]} {found[2]} were asked for)" if (found := ASKED.search(text)) else ""
    if isinstance(error, MemoryError) and text.startswith(READING):
        return f"this machine's memory is full{asked}, which was needed for {text.split(': ')[0]}. End other programs"
    backend = "cpu" if isinstance(error, MemoryError) else _backend(text)
    if backend == "gpu":
        return (
            f"the GPU's memory is full{asked}. Where another program is on the same GPU (nvidia-smi shows it), start "
            "each with its share, XLA_PYTHON_CLIENT_MEM_FRACTION=0.4, or with XLA_PYTHON_CLIENT_PREALLOCATE=false: JAX "
            f"takes three quarters of the memory at once. Else less of it is needed with {LESS}"
        )
    if backend == "tpu":
        return (
            f"the TPU's memory is full{asked}. Less of it is needed with {LESS}, or on more devices with "
            "config.mesh.fsdp=-1 config.mesh.data=1; python -m taming_jax.compile_for says beforehand what it takes"
        )
    return f"this machine's memory is full{asked}. End other programs, or less of it is needed with {LESS}"


def _backend(text: str) -> str:
    """Which kind of device is meant; the text says it where none could be opened."""
    if re.search(r"cuda|cudnn|cublas|\bGPU\b|DNN library", text, re.IGNORECASE):
        return "gpu"
    try:
        return jax.default_backend()
    except RuntimeError:
        return "tpu" if "TPU" in text else "cpu"
