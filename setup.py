"""Builds the CPU kernels where a C++ compiler is at hand; without them polyad computes in plain torch, and says so."""

from setuptools import Extension, setup


def native(name: str, *headers: str) -> Extension:
    """The kernels of one source file under kernels/csrc."""
    return Extension(
        f"polyad.kernels._{name}",
        [f"kernels/csrc/{name}.cpp"],
        depends=[f"kernels/csrc/{header}" for header in ("instruction_set.h", "number.h", "vector.h", *headers)],
        language="c++",
        extra_compile_args=["-O3", "-g0", "-std=c++17", "-fopenmp", "-fvisibility=hidden"],
        extra_link_args=["-fopenmp"],
        optional=True,
    )


setup(ext_modules=[native(name, f"{name}_kernel.h") for name in ("delta", "fusion", "merging")])
