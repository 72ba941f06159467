"""Planted mistakes are found by the random cases: by a recorded seed in every run, by an open search in the soak.

`python -m tests.oracle.test_mutations` searches anew and records the seeds; do so after a change of the generator.
"""

import json
import time
from pathlib import Path

import pytest

from compiler.errors import PenstockError
from tests.oracle.compare import differences
from tests.oracle.engine import engine_log
from tests.oracle.generate import generate
from tests.oracle.interpreter import run
from tests.oracle.mutations import MUTATIONS

RECORDED = Path(__file__).with_name("mutation_seeds.json")
SOON, BOUND = 20, 2000
"""Half of the mistakes show themselves in so many cases, every one in so many."""
SLOW = 1.5
"""Seconds after which the record looks for a cheaper case that finds the mistake, too."""


def found(mistake: str, seed: int) -> bool:
    """Whether the logs of a seed differ, or the engine says that it fails, with a mistake planted."""
    case = generate(seed)
    expected = run(case)
    with pytest.MonkeyPatch.context() as patch:
        MUTATIONS[mistake](patch)
        try:
            return bool(differences(expected, engine_log(case)))
        except AssertionError:  # it could not be planted in this case's workflows
            raise
        except PenstockError:
            return True


def recorded() -> dict[str, int]:
    """The seed that finds each mistake."""
    seeds: dict[str, int] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return seeds


def test_every_mistake_has_a_seed() -> None:
    """None is left out, and there are enough of them."""
    assert set(recorded()) == set(MUTATIONS)
    assert len(MUTATIONS) >= 30


@pytest.mark.parametrize("mistake", sorted(MUTATIONS))
def test_a_mistake_is_found(mistake: str) -> None:
    """By the recorded case, on which the logs agree without the mistake."""
    assert found(mistake, recorded()[mistake]), "search anew: python -m tests.oracle.test_mutations"


@pytest.mark.soak
def test_the_logs_agree_without_a_mistake() -> None:
    """Whatever a recorded case finds is the planted mistake."""
    for seed in sorted(set(recorded().values())):
        case = generate(seed)
        assert not differences(run(case), engine_log(case)), f"seed {seed}"


@pytest.mark.soak
def test_mistakes_are_found_soon() -> None:
    """By the first cases, whichever they are."""
    seeds = {name: next((seed for seed in range(SOON) if found(name, seed)), None) for name in sorted(MUTATIONS)}
    print(*(f"{seed} {name}" for name, seed in seeds.items()), sep="\n")
    assert sum(seed is not None for seed in seeds.values()) > len(seeds) / 2


def search(mistake: str, first: int = 0) -> int | None:
    """A cheap case that finds a mistake."""
    best: tuple[float, int] | None = None
    for seed in range(first, BOUND):
        started = time.process_time()
        if found(mistake, seed):
            best = min(best or (float("inf"), seed), (time.process_time() - started, seed))
        if best is not None and (best[0] < SLOW or seed > best[1] + 20):
            break
    return best[1] if best else None


if __name__ == "__main__":
    before = recorded() if RECORDED.exists() else {}
    seeds = {}
    for name in sorted(MUTATIONS):
        known = before.get(name)
        seeds[name] = known if known is not None and found(name, known) else search(name)
        print(f"{seeds[name]} {name}", flush=True)
    RECORDED.write_text(json.dumps(seeds, indent=2) + "\n", encoding="utf-8")
