"""`lookaway bench`: is saved work saved time? And what do the engine and the gates cost themselves?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import SettingsError
from .model_options import PublishedModel

if TYPE_CHECKING:
    from ..core.decision import Policy
    from ..core.draft import Draft
    from ..evaluation.energy import EnergyRow
    from ..evaluation.speed_row import SpeedRow
    from ..evaluation.time_shares import TimeShares


SHORTEST = 3
"""Tokens of the shortest answer of which one can be guessed."""


@dataclass(frozen=True, kw_only=True)
class Options(PublishedModel):
    """Measure prefill, first token and decoding with and without policies, alternating in one process."""

    model: str = "lookaway-mini"
    """Model folder or hub id; lookaway-mini and lookaway-mini-plain are the default models."""
    shape: str | None = None
    """Instead of a model: a published model's shape with random weights and a synthetic picture, without any download.
    llava-1.5-7b, llava-1.5-13b, llava-next-7b, internvl3-8b, qwen2.5-vl-7b, qwen3-vl-8b or smolvlm-2b."""
    scale: float | None = None
    """Of a shape: fewer layers and narrower ones by this factor, in the same ratios, with the published number of
    visual tokens; default: 0.1 on a CPU, 1 elsewhere."""
    text_tokens: int = 64
    """Of a shape: words of the prompt."""
    policy: tuple[str, ...] = ()
    """Folder, hub id or YAML file of a policy; may be given several times, and all are timed in turns. Several joined
    by commas are one policy, one after another (`la.chain`). Without it the default model's own gates, or none for
    other models."""
    exits: tuple[int, ...] = ()
    """Fixed exit layers to time; default: about 1/8, 1/4, 1/2 and 3/4 of the depth."""
    keep: tuple[float, ...] = ()
    """Shares of the visual tokens, evenly spaced, that stay from layer 2 on; default of a shape: 0.5."""
    before: tuple[float, ...] = ()
    """Shares of the visual tokens, evenly spaced, that enter the decoder at all; default of a shape: 0.25."""
    draft: tuple[str, ...] = ()
    """Guess answer tokens and check several in one pass: a number of decoder layers (early exit), or a twig's folder,
    hub id or YAML file; may be given several times. Timed in the decode parts, without a policy and with each."""
    data: str = "scenes"
    """Where the timed sample comes from (the first question with an image)."""
    batch_size: int = 1
    """Rows of the batch, all of them the timed sample."""
    batch_sizes: tuple[int, ...] = ()
    """Several sizes of the batch, one after another, e.g. 1, 8 and 32; default: --batch-size alone."""
    new_tokens: tuple[int, ...] = (16,)
    """Tokens generated for the decode part; may be given several times, e.g. 1, 32 and 256."""
    repeats: int | None = None
    """Measured rounds; every variant runs once per round. Default: 30; of a shape on a CPU 5."""
    dtype: str | None = None
    """float32, bfloat16, float16; default: float32 on a CPU, the checkpoint's own elsewhere."""
    attention: str | None = None
    """sdpa, eager, flash_attention_2; default: transformers' choice."""
    profile: bool = False
    """Also profile one run of each variant until its first token, and tell each part's share of the time."""
    energy: bool = False
    """Then also joules of a prefill and of an output token, of each variant and without a policy (lookaway[energy]): by
    the counters of the hardware where they can be read, else an estimate from the time, which is called one."""
    out: Path = Path("out/bench")
    """Folder of records.jsonl, which every run writes anew."""
    allow_other_model: bool = False
    """Use the policy although it was made for another model (other weights); the records say so."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""

    def __post_init__(self) -> None:
        if self.repeats is not None and self.repeats < 1:
            raise SettingsError(f"--repeats must be at least 1, not {self.repeats}.")
        if self.shape is None and self.scale is not None:
            raise SettingsError("--scale is of a published shape: give --shape, too.")
        several = max(self.batch_sizes or (self.batch_size,))
        if self.draft and several > 1:
            raise SettingsError(
                f"A batch of {several} rows cannot be drafted: transformers' assisted generation takes one row. Time "
                "batches without --draft, in a run of their own."
            )
        if self.draft and max(self.new_tokens, default=0) < SHORTEST:
            raise SettingsError(
                f"An answer's first token comes with the prompt and its last with a check, so --draft needs "
                f"--new-tokens of {SHORTEST} or more, not {', '.join(map(str, self.new_tokens))}."
            )


LOOKS = (
    "note: all rows of a batch are the same question, so of a second look the row of the policy itself is its best "
    "case (no row looks again) or its worst (all do). What counts are the rows with 'again': a batch of different "
    "questions lies between them, by how many of its rows look again."
)


ANOTHER = (
    "the drafted answer is not the one without a draft: two tokens were equally probable to the last bits, which sums "
    "in another order decide (docs/methods/twig.md). --dtype float32 leaves fewer such places."
)


def run(options: Options) -> dict[str, Any]:
    from ..anatomy.find import anatomy_of
    from ..core.earlier_results import start_anew
    from ..core.errors import LookawayError
    from ..core.provenance import policy_facts, provenance
    from ..core.record import RecordWriter
    from ..evaluation.energy import ROUNDS, measure_energy
    from ..evaluation.energy_meter import EnergyMeter
    from ..evaluation.header import run_header
    from ..evaluation.speed import measure_speed, profile_speed
    from .bench_subject import model_and_sample, shaped
    from .bench_tables import show, show_energies, show_shares
    from .common import choose_policy, fit_to, tell
    from .progress import progress
    from .settings import tell_settings
    from .stopping import sigterm_as_interrupt

    meter = EnergyMeter() if options.energy else None
    sizes = options.batch_sizes or (options.batch_size,)
    how: dict[str, Any] = {"dtype": options.dtype, "device": options.device, "attention": options.attention}
    if options.shape is not None:
        subject = shaped(options.shape, options.scale, options.text_tokens, **how)
    else:
        subject = model_and_sample(options.model, options.data, **how, **options.published)
    model = subject.model
    tell_settings(model, max(sizes))
    anatomy = anatomy_of(model)
    depth = anatomy.num_layers
    policies: dict[str, Policy] = {}
    other: list[str] = []
    own = options.shape is None and options.model.startswith("lookaway-mini")
    given: tuple[str | None, ...] = options.policy or ((None,) if own else ())
    for path, name in zip(given, names_of(options.policy) or ["policy"], strict=False):
        policy = choose_policy(options.model, path, None, options.allow_other_model)
        policies[name], found = fit_to(model, policy, options.allow_other_model)
        other += found
    policies |= reductions(options)
    drafts, found = drafts_of(options, model)
    other += found
    parts = (1 / 4, 1 / 2, 3 / 4) if options.shape is not None else (1 / 8, 1 / 4, 1 / 2, 3 / 4)
    exits = options.exits or tuple(sorted({max(1, round(depth * part)) for part in parts}))
    if anatomy.only_before and not options.exits:
        tell(f"note: no exits are timed: {anatomy.only_before}.")
        exits = ()
    facts = provenance(
        model=model, processor=subject.processor, samples=subject.samples, options=options,
        policies=[policy_facts(policy) for policy in (*policies.values(), *twigs_of(drafts))],
    )  # fmt: skip
    header = run_header("bench", model, subject.data, options, 0, subject.name, facts, other)
    start_anew(options.out / "records.jsonl")  # seconds of another policy or another day are not this run's
    rows: list[SpeedRow] = []
    shares: list[TimeShares] = []
    energies: list[EnergyRow] = []
    lengths = len({n for n in options.new_tokens if n > 1})
    repeats = options.repeats or (5 if options.shape is not None and model.device.type == "cpu" else 30)
    warmup, parts_timed = min(2, repeats), len(sizes) * (2 + lengths)
    try:
        with sigterm_as_interrupt(), RecordWriter(options.out / "records.jsonl") as writer:
            writer.write("run", **header)
            with progress("timing, rounds", parts_timed * (warmup + repeats)) as advance:
                for size in sizes:
                    measure_speed(
                        model, subject.inputs(size), exits=exits, policies=policies, drafts=drafts,
                        new_tokens=options.new_tokens, repeats=repeats, warmup=warmup, writer=writer, progress=advance,
                        finished=rows.extend,
                    )  # fmt: skip
            for size in sizes if options.profile else ():
                shares += profile_speed(model, subject.inputs(size), exits, policies)
            for one in shares:
                writer.write("time shares", **vars(one))
            if meter is not None:
                with progress("energy, rounds", parts_timed * ROUNDS) as advance:
                    for size in sizes:
                        found_now = measure_energy(
                            model, subject.inputs(size), meter, exits=exits, policies=policies,
                            new_tokens=options.new_tokens, progress=advance,
                        )  # fmt: skip
                        energies += found_now
                        for row in found_now:
                            writer.write("energy", **vars(row))
    except KeyboardInterrupt:
        show(rows)
        show_energies(energies)
        done = len({(row.batch_size, row.part, row.new_tokens) for row in rows})
        raise LookawayError(
            f"Stopped when {done} of {parts_timed} parts were timed. Those are {'above and ' if rows else ''}in "
            f"{writer.path}; the same command times all of them anew. Fewer --repeats take less time."
        ) from None
    show(rows)
    if any(row.variant.endswith(" again") for row in rows):
        tell(LOOKS)
    for timed in rows:
        if timed.same_answer is False:
            tell(f"note: {timed.variant}, {timed.new_tokens} tokens: {ANOTHER}")
    show_shares(shares)
    show_energies(energies)
    profiled = {"time_shares": [vars(one) for one in shares]} if shares else {}
    if energies:
        profiled["energy"] = [vars(row) for row in energies]
    return {"timings": [vars(row) for row in rows], **profiled, "records": str(writer.path)}


def reductions(options: Options) -> dict[str, Policy]:
    """Evenly spaced tokens, kept from layer 2 on or before the decoder, by what records call them.

    Raises:
        SettingsError: (by the policies) a share is out of range.
    """
    import lookaway as la

    shape = options.shape is not None
    inside, before = options.keep or ((0.5,) if shape else ()), options.before or ((0.25,) if shape else ())
    found: dict[str, Policy] = {f"{share:.0%} from layer 2": la.UniformKeep(share, layer=2) for share in inside}
    return found | {f"{share:.0%} before the decoder": la.UniformKeep(share, layer=0) for share in before}


def drafts_of(options: Options, model: Any) -> tuple[dict[str, Draft], list[str]]:
    """What guesses, by what records call it; and what differs where a twig was made for another model.

    Raises:
        SettingsError: one is given twice, is out of range, or has no twig.
        ModelMismatch: a twig was made for another model, and that is not allowed.
    """
    from dataclasses import replace

    from .common import choose_draft, fit_to, short_names

    drafts: dict[str, Draft] = {}
    other = list[str]()
    for given, name in zip(options.draft, short_names(options.draft, what="draft"), strict=True):
        draft = choose_draft(given)
        if not isinstance(draft.by, int):
            policy, found = fit_to(model, draft.by, options.allow_other_model)
            draft, other = replace(draft, by=policy), other + found
        drafts[f"draft {name}"] = draft
    return drafts, other


def twigs_of(drafts: Mapping[str, Draft]) -> list[Policy]:
    """The policies whose twigs guess."""
    return [draft.by for draft in drafts.values() if not isinstance(draft.by, int)]


def names_of(given: Sequence[str]) -> list[str]:
    """What records and table call each of the policies: 'policy' where there is one, else the last part of each path,
    or the whole where two end alike.

    Raises:
        SettingsError: one is given twice.
    """
    from .common import short_names

    return ["policy"] if len(given) == 1 else short_names(given, taken=("idle",))
