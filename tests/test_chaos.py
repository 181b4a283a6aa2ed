"""Everything that sources and buckets do wrong, done to the real program; docs/reliability.md is the table of it.

One trial of each fault here, a few at a time; `make chaos` makes ROUNDS of them, and random mixtures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from campaign import LONG, ROUNDS, Fault, Trial, try_out
from faults import FAULTS

AT_ONCE = 4  # trials; most of their time is waiting
CASES = [
    pytest.param((fault, place, number), id=f"{fault.name}-{place}-{number}")
    for fault in FAULTS
    for place in fault.places
    for number in range(ROUNDS)
    if LONG or not fault.is_long
]

Case = tuple[Fault, str, int]


@pytest.fixture(scope="session")
def trials(request: pytest.FixtureRequest) -> Iterator[Callable[[Case], Trial]]:
    """Begins all trials that were asked for, and hands out what became of each."""
    asked = [item for item in request.session.items if "trials" in getattr(item, "fixturenames", ())]
    cases: list[Case] = [vars(item)["callspec"].params["case"] for item in asked]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun = {id(case): pool.submit(try_out, *case) for case in cases}
        yield lambda case: begun[id(case)].result()
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("case", CASES)
def test_survives(case: Case, trials: Callable[[Case], Trial]) -> None:
    assert trials(case).wrong == []
