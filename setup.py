"""Builds the CPU kernels where a C++ compiler is at hand; without them polyad computes in plain torch, and says so."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "polyad.kernels._delta",
            ["kernels/csrc/delta.cpp"],
            depends=["kernels/csrc/delta_kernel.h"],
            language="c++",
            extra_compile_args=["-O3", "-g0", "-std=c++17", "-fopenmp", "-fvisibility=hidden"],
            extra_link_args=["-fopenmp"],
            optional=True,
        )
    ]
)
