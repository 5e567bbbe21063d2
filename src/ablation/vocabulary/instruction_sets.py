"""The instruction sets that arithmetic on a CPU may use, and how libraries are told.

A wider instruction set adds in another order, so the last bits of a sum depend on it, and after a
training so does everything. Libraries read these variables when they are loaded.
"""

NATIVE = "native"
_AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # matrix products by oneDNN
    "MKL_CBWR": "AVX2",  # by MKL, the same for every alignment of memory and number of threads
    "OPENBLAS_CORETYPE": "Haswell",  # by OpenBLAS, which numpy uses
}
INSTRUCTION_SETS: dict[str, dict[str, str]] = {"avx2": _AVX2, NATIVE: {}}
