"""Puts the repository's root where Python looks for modules; a script's first import.

So that the scripts run from anywhere, and before anything is installed: Python itself looks in the
script's own folder alone.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
