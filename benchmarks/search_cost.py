"""What G-Search's replayed trials cost beside trials run from the image: by arithmetic, for given keep schedules.

No model runs: a made-up evaluator accepts a trial exactly where every layer keeps at least what the schedule says, so
the search walks as it would on a model that needs this schedule. Costs are counted FLOPs of the decoder.

    python benchmarks/search_cost.py
"""

from __future__ import annotations

from lookaway.core.cost import DecoderShape
from lookaway.reports.published_curves import SCHEDULE
from lookaway.search.schedules.budget import Schedule, Workload
from lookaway.search.schedules.g_search import GSearchOptions, g_search
from lookaway.search.schedules.schedule_shapes import Span, logistic
from lookaway.search.trials.queue import TrialQueue
from lookaway.search.trials.schedule_evaluator import ScheduleScore, Work

LLAVA = DecoderShape(32, 4096, 11008, 32, 32, 128, 32064, 2)
MINI = DecoderShape(30, 576, 1536, 9, 3, 64, 49152, 4)


class Needs:
    """Accepts what keeps at least `rates` everywhere, and counts as `ModelScheduleEvaluator` does."""

    def __init__(self, shape: DecoderShape, rates: tuple[float, ...], visual: int, text: int) -> None:
        self.workload = Workload(shape, (visual,), (text,))
        self.span = Span(shape.num_layers)
        self.least = [round(rate * visual) for rate in rates]
        self.work, self.settled, self.known = Work(), self.span.first, {}
        whole = sum(self._costs(Schedule((visual,) * shape.num_layers, visual)))
        self.work.spent, self.work.naive = whole, whole  # the full run

    def evaluate(self, schedule: Schedule, needed: float = 0.0) -> ScheduleScore:
        if schedule.counts not in self.known:
            costs = self._costs(schedule)
            self.work.spent += sum(costs[self.settled :])
            self.work.naive += sum(costs)
            self.work.trials += 1
            good = all(count >= least for count, least in zip(schedule.counts, self.least, strict=True))
            self.known[schedule.counts] = ScheduleScore(1.0 if good else 0.0, self.workload.share(schedule.counts), 0.0)
        return self.known[schedule.counts]

    def sync_cache_lengths(self, schedule: Schedule, layer: int) -> None:
        self.work.spent += sum(self._costs(schedule)[self.settled : layer])
        self.settled = layer

    def _costs(self, schedule: Schedule) -> list[int]:
        return [int(self.workload.flops[count]) for count in schedule.counts]


def main() -> None:
    sigmoid = (1.0, 1.0, *logistic(Span(30), 0.3)(0.25 + 0.5 * (10 - 2 + 40 / 0.3) / (28 + 80 / 0.3) - 0.25))
    cases = {
        "LLaVA-1.5-7B, the paper's schedule": (LLAVA, SCHEDULE, 576, 65),
        "lookaway-mini, a sigmoid around layer 10": (MINI, sigmoid, 196, 34),
    }
    for name, (shape, rates, visual, text) in cases.items():
        for stride in (1, 2, 4):
            evaluator = Needs(shape, rates, visual, text)
            g_search(evaluator, TrialQueue("memory", f"{name}{stride}"), GSearchOptions(stride=stride))
            work = evaluator.work
            print(f"{name}, stride {stride}: {work.trials} trials, {work.ratio:.3f} of the cost from the image")


if __name__ == "__main__":
    main()
