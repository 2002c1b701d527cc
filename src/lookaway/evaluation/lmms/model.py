"""The model `lookaway` of lmms-eval: any supported model, with or without a policy.

    lmms-eval eval --model lookaway --model_args pretrained=MODEL,policy=FOLDER --tasks gqa --output_path out

`doc_to_messages` of a task is encoded as every other question is, and answered by the model's own `generate`. As in
lmms-eval's own chat models an answer ends at the end token; a task's stop strings are not applied.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics

from ...core.decision import Policy
from ...core.errors import DataError, LookawayError, SettingsError, UnsupportedModel
from ...core.processes import Processes
from ...core.record import RecordWriter, Sample
from ...engine.api import attach
from ...models.encoding import encode
from ...models.loading import load_model
from ...policies import load_chain
from ...policies.fixed import ExitAt
from .answers import Answer, KnownAnswers, answer_key
from .efficiency import Efficiency, efficiency_of, means
from .messages import sample_of_messages
from .settings import generation, whole

__all__ = ["LookawayModel"]


class LookawayModel(lmms):
    """lmms-eval's chat model around `la.attach`.

    Args:
        pretrained: folder, hub id or name of a default model.
        policy: folder, hub id or YAML file of a policy; several, one after another, are parted by ';'.
        exit_at: instead of a policy: remove the visual tokens before this decoder layer.
        dtype, attention, vision_tower, conversation: as `la.load_model` takes them.
        records: JSONL file that gets one 'lmms-sample' record a question with a policy: exit layer, tokens, cost.

    Raises:
        SettingsError: both `policy` and `exit_at`, or a setting that is not known or no number.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "lookaway-mini",
        policy: str | None = None,
        exit_at: int | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        attention: str | None = None,
        vision_tower: str | None = None,
        conversation: str | None = None,
        records: str | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        unknown = sorted(name for name in others if name != "max_batch_size")
        if unknown:
            raise SettingsError(
                f"The model 'lookaway' knows no argument {unknown[0]!r}; it takes pretrained, policy, exit_at, dtype, "
                "attention, vision_tower, conversation, records, batch_size and device."
            )
        if policy is not None and exit_at is not None:
            raise SettingsError(f"Give either policy ({policy}) or exit_at ({exit_at}), not both.")
        self.batch_size, exit_at = (
            whole("batch_size", batch_size),
            None if exit_at is None else whole("exit_at", exit_at),
        )
        if self.batch_size < 1:
            raise SettingsError(f"batch_size must be at least 1, not {batch_size}.")
        self.device = self._join(device)
        model, self.processor = load_model(
            pretrained,
            dtype=dtype,
            device=self.device,
            attention=attention,
            vision_tower=vision_tower,
            conversation=conversation,
        )
        self._held = (model,)  # lmms-eval's `clean` drops modules that lie on this object itself
        self.policy: Policy | None = load_chain(str(policy).split(";")) if policy is not None else None
        if exit_at is not None:
            self.policy = ExitAt(exit_at)
        self.policy_of: Mapping[str, Policy] = {}
        """Task -> the policy of its questions, instead of `policy`."""
        self.known: KnownAnswers | None = None
        """Answers of earlier runs; they are not made again. None: none are kept."""
        self.records = Path(records) if records is not None else None
        self.progress: Callable[[int], object] = lambda count: None
        """Called with the number of questions that were just answered."""
        self.efficiency: dict[tuple[str, Any], Efficiency] = {}
        """(task, document) -> what the policy did, in the latest run; on the first rank of all processes' questions."""

    @property
    def model(self) -> Any:
        """The live Hugging Face model."""
        return self._held[0]

    @property
    def group(self) -> Processes:
        """The processes that share the questions."""
        return Processes(self._rank, self._world_size)

    def _join(self, device: str | None) -> str | None:
        """Rank, world size and device of this process, as torchrun and accelerate set them."""
        from accelerate import Accelerator

        self.accelerator = Accelerator(cpu=device == "cpu")
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        return str(self.accelerator.device) if self._world_size > 1 else device

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests; `batch_size` of one task and its settings run together.

        Raises:
            LookawayError: a question cannot be answered, here or in another process.
        """
        self.efficiency = {}
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            _, _, settings, _, task, _ = request.args
            groups.setdefault(f"{task} {sorted(settings.items(), key=str)}", []).append(place)
        found: dict[int, Answer] = {}
        failed = None
        try:
            for places in groups.values():
                for start in range(0, len(places), self.batch_size):
                    batch = places[start : start + self.batch_size]
                    answers = self._answer([requests[i] for i in batch])
                    found.update(zip(batch, answers, strict=True))
                    self.progress(len(batch))
        except LookawayError as error:
            failed = error
        self.group.all_ok(failed)
        for place, answer in found.items():
            if answer.efficiency is not None:
                self.efficiency[requests[place].args[4], requests[place].args[3]] = answer.efficiency
        self._report(sum(a.seconds for a in found.values()), sum(a.output_tokens for a in found.values()))
        return [
            GenerationResult(
                text=found[place].text,
                token_counts=TokenCounts(
                    input_tokens=found[place].input_tokens, output_tokens=found[place].output_tokens
                ),
            )
            for place in range(len(requests))
        ]

    def _answer(self, requests: Sequence[Instance]) -> list[Answer]:
        """A batch's answers: the known ones where all are known, or else the whole batch, which no interruption
        divides, so that an answer never depends on where a run was cut."""
        _, _, settings, _, task, _ = requests[0].args
        samples = [self._sample(request) for request in requests]
        policy = self.policy_of.get(task, self.policy)
        if self.known is None:
            return self._generate(samples, settings, policy)
        keys = [answer_key(task, sample, settings, policy) for sample in samples]
        known = [self.known.get(key) for key in keys]
        if None in known:
            for key, request, answer in zip(keys, requests, self._generate(samples, settings, policy), strict=True):
                self.known.add(key, answer, task=task, document=request.args[3])
        return [answer for answer in map(self.known.get, keys) if answer is not None]

    @torch.no_grad()
    def _generate(self, samples: Sequence[Sample], settings: dict[str, Any], policy: Policy | None) -> list[Answer]:
        inputs = encode(self.processor, samples, device=self.model.device).inputs
        attached = nullcontext() if policy is None else attach(self.model, policy)
        start = time.perf_counter()
        with warnings.catch_warnings(), attached as run:
            if not any(sample.images for sample in samples):  # questions without an image are part of some tasks
                warnings.filterwarnings("ignore", message="A policy is attached, but no row")
            ids = self.model.generate(**inputs, **generation(settings))
        seconds = (time.perf_counter() - start) / len(samples)
        fresh = ids[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(fresh, skip_special_tokens=True)
        padding = self.processor.tokenizer.pad_token_id
        return [
            Answer(
                text=text.strip(),
                input_tokens=int(inputs["attention_mask"][row].sum()),
                output_tokens=int((fresh[row] != padding).sum()),
                seconds=seconds,
                efficiency=None if run is None else efficiency_of(run.trace, row, seconds, sample.image_key),
            )
            for row, (sample, text) in enumerate(zip(samples, texts, strict=True))
        ]

    def _sample(self, request: Instance) -> Sample:
        _, to_messages, _, document, task, split = request.args
        try:
            messages = to_messages(self.task_dict[task][split][document])
        except Exception as error:  # a task's own code: what it raises on a damaged document is anybody's guess
            raise DataError(
                f"Question {document} of {task} cannot be asked: {type(error).__name__}: {error}. Its picture or "
                "another field may be missing or damaged in the task's data."
            ) from error
        return sample_of_messages(messages, f"{task}/{document}", family=task)

    def _report(self, seconds: float, tokens: int) -> None:
        """Our figures among lmms-eval's: means over all processes, on rank 0; records of all of them."""
        rows = list(self.efficiency.items())
        if self._world_size > 1:
            from accelerate.utils import gather_object

            rows, parts = gather_object(rows), gather_object([(seconds, tokens)])
            seconds, tokens = max(s for s, _ in parts), sum(t for _, t in parts)
        if self._rank:
            return
        self.efficiency = dict(rows)  # shards are padded with repeats of their last question
        figures = means(list(self.efficiency.values()))
        log_metrics(seconds, tokens, tokens / seconds if seconds else 0.0, figures)
        if self.records is not None:
            with RecordWriter(self.records) as writer:
                for (task, document), row in self.efficiency.items():
                    writer.write("lmms-sample", task=task, document=document, **asdict(row))

    def loglikelihood(self, requests: Sequence[Instance]) -> Any:
        raise UnsupportedModel(
            "The task scores given answers by their likelihood; lookaway answers by generation only. Take the task's "
            "generative form."
        )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> Any:
        raise UnsupportedModel("The task needs several rounds of generation; lookaway evaluates tasks of one answer.")
