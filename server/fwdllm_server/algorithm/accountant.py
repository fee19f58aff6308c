"""What releases of noised sums tell of one device: (ε, δ) by Google's accountant, and the noise that a budget needs.

Each release is a Gaussian mechanism. Its noise is discrete, for which the accountant's Rényi divergences are bounds
(Canonne, Kamath and Steinke, NeurIPS 2020). A device counts by the releases that it is in. Devices are not drawn by
Poisson sampling, so that nothing is claimed for those that it is not in but that they do not count.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from math import ceil
from types import ModuleType

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.job_sections import Budget, PrivacySection

_DIGITS = 10_000
"""A noise multiplier is rounded up to four decimals, so that it is the same whatever the accountant's last digits."""


def check_accountant(section: PrivacySection) -> None:
    """Check that the accountant of a job with differential privacy is installed.

    :raises BadInputError: it is not.
    """
    if section.epsilon is not None and find_spec("dp_accounting") is None:
        raise BadInputError("[privacy] epsilon: accounting needs dp-accounting; pip install 'fwdllm[privacy]'")


@lru_cache(maxsize=64)
def noise_multiplier(budget: Budget) -> float:
    """Return the standard deviation of the noise over the clip, the least with which the budget holds.

    :raises BadInputError: the accountant is not installed.
    """
    library = _library()
    found = library.calibrate_dp_mechanism(
        library.rdp.RdpAccountant,
        lambda noise: library.SelfComposedDpEvent(library.GaussianDpEvent(noise), budget.releases),
        budget.epsilon,
        budget.delta,
        tol=1e-6,
    )
    return ceil(float(found) * _DIGITS) / _DIGITS


@lru_cache(maxsize=1024)
def epsilon_after(budget: Budget, releases: int) -> float:
    """Return the ε that so many releases with the budget's noise have cost a device that is in each, at its δ."""
    if releases == 0:
        return 0.0
    library = _library()
    accountant = library.rdp.RdpAccountant()
    accountant.compose(library.GaussianDpEvent(noise_multiplier(budget)), releases)
    return float(accountant.get_epsilon(budget.delta))


def _library() -> ModuleType:
    try:
        # Imported here: it takes a second, and most jobs need none.
        import dp_accounting
        import dp_accounting.rdp
    except ImportError as error:
        raise BadInputError("accounting needs dp-accounting; pip install 'fwdllm[privacy]'") from error
    module: ModuleType = dp_accounting
    return module
