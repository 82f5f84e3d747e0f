"""The chart's sources, which lie outside of any package."""

import sys

from tests.helm.chart import CHART

sys.path.insert(0, str(CHART / "source"))
