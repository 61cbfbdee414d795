"""Say whether an agent's score has fallen: short trainings against a reference.

python benchmarks/nightly.py [--seeds 6] [--jobs 2]

It trains each agent of the experiment "nightly" with new seeds, and compares their scores with
those of `results/nightly.jsonl` by a one-sided rank test (Mann and Whitney 1947), whose levels add
up to 1%: if nothing has changed, at most one night in a hundred raises a false alarm. It exits with
1 if a score has fallen. `python benchmarks/trainings.py run nightly` makes the reference anew.
"""

import argparse
import sys
import time

import numpy as np
from experiments import NIGHTLY_SEEDS, nightly
from trainings import RUNS, Queue, results, scores

FALSE_ALARMS = 0.01  # of all tests together
_PERMUTATIONS = 200_000


def fallen(before: np.ndarray, now: np.ndarray) -> float:
    """Return how probable scores as low as `now` are if nothing has changed: [N], [M] to a p-value.

    The statistic is the sum of ranks, ties sharing theirs; its distribution is that of random
    permutations of all scores.
    """
    scores = np.concatenate([now, before])
    ranks = np.searchsorted(np.sort(scores), scores, "left") + np.searchsorted(
        np.sort(scores), scores, "right"
    )  # twice the mean rank, less one
    generator = np.random.default_rng(0)
    keys = generator.random((_PERMUTATIONS, len(scores)))
    chosen = np.argpartition(keys, len(now) - 1, axis=1)[:, : len(now)]
    sums = ranks[chosen].sum(1)
    return float((1 + (sums <= ranks[: len(now)].sum()).sum()) / (1 + _PERMUTATIONS))


def main() -> int:
    """Train, compare and print a line for each agent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=6, help="trainings of each agent")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    given = parser.parse_args()
    night = int(time.time()) // 60
    name, folder = f"nightly-{night}", RUNS / "nights"
    first = NIGHTLY_SEEDS + night % 1_000_000 * 100
    trainings = list(nightly(name, range(first, first + given.seeds)))
    since = time.monotonic()
    Queue(trainings, folder, commit=False).run(given.jobs)
    reference, tonight = results("nightly").values(), results(name, folder).values()
    tasks = list(dict.fromkeys((t.variant, t.env) for t in trainings))
    alarms = 0
    for variant, env in tasks:
        before, now = (
            scores([line for line in lines if (line["variant"], line["env"]) == (variant, env)])
            for lines in (reference, tonight)
        )
        if len(before) < NIGHTLY_SEEDS or len(now) < given.seeds:
            print(f"{variant} on {env}: {len(before)} before, {len(now)} now; not all trained")
            alarms += 1
            continue
        p = fallen(before, now)
        low = p < FALSE_ALARMS / len(tasks)
        alarms += low
        means = f"{before.mean():.1f} before, {now.mean():.1f} now"
        print(f"{variant} on {env}: {means}, p {p:.4f}{', HAS FALLEN' if low else ''}")
    print(f"{(time.monotonic() - since) / 60:.0f} minutes")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
