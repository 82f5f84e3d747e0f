"""How large a composition may be, as text and as JSON alike. Each error that says so names its bound."""

MAX_LENGTH = 1024
MAX_DEPTH = 8
MAX_TERMS = 64
MAX_OPTIONS = 16
MAX_WEIGHT = 1000.0

WEIGHT_RULE = f"a number from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
