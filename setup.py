"""Builds the CPU kernels where a C++ compiler is at hand; without them polyad computes in plain torch, and says so."""

from glob import glob

from setuptools import Extension, setup


def native(name: str) -> Extension:
    """The kernels of one source file under kernels/csrc."""
    return Extension(
        f"polyad.kernels._{name}",
        [f"kernels/csrc/{name}.cpp"],
        depends=sorted(glob("kernels/csrc/*.h")),
        language="c++",
        extra_compile_args=["-O3", "-g0", "-std=c++17", "-fopenmp", "-fvisibility=hidden"],
        extra_link_args=["-fopenmp"],
        optional=True,
    )


setup(ext_modules=[native(name) for name in ("delta", "factors", "fusion", "merging", "sieve")])
