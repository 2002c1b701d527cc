"""A made-up evaluator whose best schedule is known: layer i needs so many tokens, and each that it lacks costs."""

from lookaway.core.cost import DecoderShape
from lookaway.search.schedules.budget import Workload
from lookaway.search.schedules.schedule_shapes import Span
from lookaway.search.trials.schedule_evaluator import ScheduleScore

SHAPE = {"hidden_size": 8, "intermediate_size": 16, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "vocab_size": 20}


def workload(num_layers=6, visual=(8,), text=(3,)):
    return Workload(DecoderShape(num_layers=num_layers, **SHAPE), tuple(visual), tuple(text))


class Needs:
    """`needs[i]` tokens at layer i; each one lacking costs `price` of effectiveness."""

    def __init__(self, needs, units=8, price=0.05, first=2):
        self.needs, self.price = needs, price
        self.workload = workload(len(needs), (units,))
        self.span = Span(len(needs), first)
        self.judged, self.settled = [], []

    def effect(self, counts):
        return 1 - self.price * sum(max(0, need - count) for need, count in zip(self.needs, counts, strict=True))

    def evaluate(self, schedule, needed=0.0):
        self.judged.append(schedule.counts)
        w = self.workload
        return ScheduleScore(self.effect(schedule.counts), w.share(schedule.counts), w.share(schedule.counts, "tokens"))

    def sync_cache_lengths(self, schedule, layer):
        self.settled.append((layer, schedule.counts[:layer]))


class Near(Needs):
    """The nearer to a set of rates, the better."""

    def __init__(self, rates, units, first=2):
        super().__init__([0] * len(rates), units, first=first)
        self.rates = rates

    def effect(self, counts):
        return 1 - sum((c / self.workload.units - r) ** 2 for c, r in zip(counts, self.rates, strict=True))
