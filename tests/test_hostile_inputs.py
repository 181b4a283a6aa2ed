"""Mutated archives by the thousand, and what they found."""

from __future__ import annotations

import random

import pytest

from support.archives import Got, extract
from support.fuzzing import check, mutate, seeds
from support.tars import END, member


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_bytes_are(seed: int) -> None:
    rng, known = random.Random(seed), seeds()
    for _ in range(500):
        check(mutate(rng.choice(known), rng))


def test_seeds_are_read_as_they_should_be() -> None:
    for seed in seeds():
        check(seed)


def test_a_tar_whose_first_name_begins_like_a_zip() -> None:
    packed = member("PK\5\6.jpg", b"1") + END
    assert extract(packed) == [Got("PK\5\6.jpg", 1, b"1")]
