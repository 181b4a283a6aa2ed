"""Everything that sources and buckets do wrong, done to the real program; docs/reliability.md is the table of it.

One trial of each fault that takes no minutes, and a few mixtures; `make chaos` makes ROUNDS trials of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from support.fault_harness import LONG, ROUNDS, Trial, try_mixture, try_out
from support.faults import FAULTS

PASSING = [fault for fault in FAULTS if "api" in fault.places and fault.statuses == (0,) and not fault.is_long]
MIXTURES = 10 * ROUNDS if LONG else 2

Case = Callable[[], Trial]
FAULT_CASES = [
    pytest.param(partial(try_out, fault, place, number), id=f"{fault.name}-{place}-{number}")
    for number in range(ROUNDS)
    for fault in FAULTS
    for place in fault.places
    if LONG or not fault.is_long
]
MIXTURE_CASES = [pytest.param(partial(try_mixture, PASSING, number), id=str(number)) for number in range(MIXTURES)]


@pytest.mark.parametrize("case", FAULT_CASES)
def test_survives(case: Case) -> None:
    assert case().wrong == []


@pytest.mark.parametrize("case", MIXTURE_CASES)
def test_survives_a_mixture(case: Case) -> None:
    assert case().wrong == []
