"""Kinds of adapters as they lie on disk, one file for each; `registry` finds the one that a config is of."""
