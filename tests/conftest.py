"""What every test may rely on: the same draws each time, and a time limit (pyproject.toml).

The profile `judge` draws the same cases on every run and every machine. `make explore` draws new ones, with the profile
`explore` and a seed, which draws them again.
"""

import random
import signal
import sys

import pytest
from hypothesis import HealthCheck, Phase, settings

# Neither a slow machine nor what an earlier run has left in a database decides.
COMMON = dict(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("judge", **COMMON, derandomize=True)
settings.register_profile("explore", **COMMON)
# A test that fails for a mutant need not find the smallest case for which it does.
settings.register_profile("mutants", settings.get_profile("judge"), phases=[Phase.explicit, Phase.generate])
settings.load_profile("judge")  # `--hypothesis-profile` comes later and wins
# In the background of a script, or of nohup, a process and all that it starts ignore Ctrl-C. Tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Start Python's, NumPy's and PyTorch's generators alike: what a test draws does not depend on its neighbours."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
