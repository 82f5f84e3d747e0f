"""Merges: functions from deltas to a delta, exactly as published, or in a variant that says whose it is."""

from polyad.adapters_store.merge.compress import Compress
from polyad.adapters_store.merge.execution import Execution, Merged
from polyad.adapters_store.merge.greedy_soup import GreedySoup, greedy_soup
from polyad.adapters_store.merge.method import Form, Method, Products, Tensors
from polyad.adapters_store.merge.parameter import Parameter
from polyad.adapters_store.merge.recipe import Input, Recipe
from polyad.adapters_store.merge.registry import method_of, methods, register
from polyad.adapters_store.merge.report import ModuleReport, Report

__all__ = [
    "Recipe",
    "Input",
    "Compress",
    "Execution",
    "Merged",
    "GreedySoup",
    "greedy_soup",
    "Report",
    "ModuleReport",
    "Method",
    "Form",
    "Parameter",
    "Products",
    "Tensors",
    "method_of",
    "methods",
    "register",
]
