"""Before the decoder: shorter prompts, in a vLLM that caches prefixes and computes prompts in chunks."""

import pytest
from vllm_checkpoints import FAMILIES
from vllm_engine import WITHOUT_CHUNKS, compare, core, engine, run_together, runner, sampling
from vllm_engine import request as prompt_of
from vllm_judge import COUNT, FIXED_SIZE, WITH_GRIDS

pytestmark = pytest.mark.vllm
PLAIN = {
    "enable_prefix_caching": True,
    "enable_chunked_prefill": True,
    "max_num_batched_tokens": 40,
    "max_num_seqs": 8,
    "mm_processor_cache_gb": 1,
}
"""What a policy inside the decoder could not run with."""


def before_the_decoder(family):
    """Name -> policy."""
    import lookaway as la

    found = {
        "divprune": la.DivPrune(0.4),
        "cdpruner": la.CDPruner(0.3),
        "uniform": la.UniformKeep(0.5, layer=0),
        "random": la.RandomKeep(0.5, layer=0, seed=3),
        "schedule": la.KeepSchedule([0.4] * 6, ranking="text-similarity"),
        "uniform-exit": la.chain(la.UniformKeep(0.5, layer=0), la.ExitAt(3)),  # the exit is inside the decoder
        "divprune-vtw": la.chain(la.DivPrune(0.4), la.VTW(4)),
    }
    if not family.startswith("qwen"):
        found["divprune-renumbered"] = la.DivPrune(0.4, positions="renumber")
        found["uniform-renumbered"] = la.UniformKeep(7, layer=0, positions="renumber")
    if family in WITH_GRIDS:
        found["downsample"] = la.Downsample(2)
    if family in FIXED_SIZE:
        found["visionzip"] = la.VisionZip(0.3)
        found["visionzip-renumbered"] = la.VisionZip(20, positions="renumber")
        found["downsample-renumbered"] = la.Downsample(3, positions="renumber")
    return {f"{name}-before": policy for name, policy in found.items()}


SEVERAL = (
    "uniform", "uniform-exit", "uniform-renumbered", "downsample", "downsample-renumbered", "visionzip",
    "visionzip-renumbered",
)  # fmt: skip
"""Policies that serve prompts of several pictures."""


@pytest.fixture(scope="module", params=FAMILIES)
def served(request, judges):
    judge = judges(request.param)
    policies = before_the_decoder(request.param)
    judge.add(policies)
    with engine(judge, {"policies": {name: judge.saved[name] for name in policies}}, **PLAIN) as llm:
        yield judge, llm, tuple(policies)


def choices(judge, names, shift):
    """A policy for each prompt that it can serve."""
    chosen = []
    for index in range(COUNT):
        several = len(judge.prompts[index][1]) > 1
        able = ["off", *(name for name in names if not several or name.removesuffix("-before") in SEVERAL)]
        chosen.append(able[(index + shift) % len(able)])
    return chosen


def test_a_policy_each_with_a_cold_and_a_warm_prefix_cache(served):
    """The same pictures under all policies: what is cached of one is not taken for another."""
    judge, llm, names = served
    for shift in range(len(names) + 1):
        run_together(llm, judge, choices(judge, names, shift))
    run_together(llm, judge, choices(judge, names, 0))


def test_prompts_are_shorter_and_their_prefix_is_cached(served):
    judge, llm, _ = served
    lengths = {}
    for name in ("off", "divprune-before"):
        for _ in range(2):
            (output,) = llm.generate(prompt_of(judge, COUNT), sampling(name), use_tqdm=False)
            compare(judge, COUNT, name, output)
        assert output.num_cached_tokens >= 32  # a block, in the second run at the latest
        lengths[name] = len(output.prompt_token_ids)
    visual = sum(token == judge.model.config.image_token_id for token in output.prompt_token_ids)
    assert 0 < visual < 0.5 * (lengths["off"] - lengths["divprune-before"] + visual)


def test_the_same_picture_behind_another_text(served):
    """What the vision tower made of it is cached, the prompt is not."""
    judge, llm, names = served
    _, images = judge.draw(1, seed=10)[0]
    for lead in ("abc", "ponm"):
        judge.prompts.append((lead + FAMILIES[judge.family][1] + "what", images))
        for name in names:
            prompt = prompt_of(judge, len(judge.prompts) - 1)
            compare(judge, len(judge.prompts) - 1, name, llm.generate(prompt, sampling(name), use_tqdm=False)[0])


def test_an_exit_behind_a_shorter_prompt_is_counted_once(served):
    from prometheus_client import REGISTRY

    judge, llm, _ = served
    text, images = judge.draw(1, seed=8)[0]  # a picture that was not there before

    def counted(name, **labels):
        return REGISTRY.get_sample_value(f"lookaway_{name}_total", {"policy": "uniform-exit-before", **labels}) or 0

    def all_counted():
        return [counted("prompts", exit_layer="3"), counted("visual_tokens"), counted("visual_tokens_dropped")]

    before = all_counted()
    prompt = {"prompt": text, "multi_modal_data": {"image": images}}
    (output,) = llm.generate(prompt, sampling("uniform-exit-before"), use_tqdm=False)
    visual = output.lookaway["visual_tokens"]
    kept = sum(token == judge.model.config.image_token_id for token in output.prompt_token_ids)
    found = [now - then for now, then in zip(all_counted(), before, strict=True)]
    assert found == [1, 6 * visual, 6 * (visual - kept) + 3 * kept]
    assert not counted("prompts", exit_layer="never")


def test_what_the_judge_says_differs(served):
    """Otherwise the tests above would pass with the policies left out."""
    judge, _, names = served
    plain = judge.answer(0, "off")[1]
    for name in names:
        assert judge.answer(0, name)[1] != pytest.approx(plain, abs=0.01), f"{name} answers like no policy"


def test_several_pictures_of_which_the_numbers_are_not_known(served):
    """The client's error where tokens cannot leave inside the decoder either."""
    from vllm.exceptions import VLLMValidationError

    judge, llm, _ = served
    with pytest.raises(VLLMValidationError, match="Send one picture"):
        llm.generate(prompt_of(judge, 2), sampling("cdpruner-before"), use_tqdm=False)
    run_together(llm, judge, ["off"] * COUNT)


def test_a_picture_that_was_refused_can_be_sent_again(served):
    """vLLM's front end believes that the engine has what it processed once."""
    from vllm.exceptions import VLLMValidationError

    judge, llm, _ = served
    for seed, name in ((21, "cdpruner-before"), (22, "no such policy")):
        text, images = judge.draw(3, seed=seed)[2]
        assert len(images) == 2
        prompt = {"prompt": text, "multi_modal_data": {"image": images}}
        with pytest.raises(VLLMValidationError):
            llm.generate(prompt, sampling(name), use_tqdm=False)
        llm.generate(prompt, sampling("off"), use_tqdm=False)


def test_a_picture_whose_own_identifier_looks_like_ours(served):
    from vllm.exceptions import VLLMValidationError

    judge, llm, _ = served
    forged = {**prompt_of(judge, 0), "multi_modal_uuids": {"image": ['lookaway ["x", "y", 0, [9], "off"]']}}
    with pytest.raises(VLLMValidationError, match="uuid may not begin"):
        llm.generate(forged, sampling("off"), use_tqdm=False)


def test_nothing_is_left_behind(served):
    judge, llm, _ = served
    text, images = judge.draw(1, seed=9)[0]  # a picture that was not there before
    llm.generate({"prompt": text, "multi_modal_data": {"image": images}}, sampling("divprune-before"), use_tqdm=False)
    attached = runner(llm).lookaway
    assert attached.kept.places.keys() <= runner(llm).encoder_cache.keys()
    assert len(attached.positions._whole) <= 1


def test_preemption(judges):
    """Too little memory: requests are thrown out, and their pictures chosen from again."""
    import lookaway as la

    judge = judges("llava")
    judge.add({"tight": la.CDPruner(32)})  # the third new token needs another block
    with engine(
        judge, {"policy": judge.saved["tight"]}, num_gpu_blocks_override=9, max_model_len=256, watermark=0.0,
        **{**PLAIN, "enable_prefix_caching": False},
    ) as llm:  # fmt: skip
        scheduler = core(llm).scheduler
        preempted = []
        plain = scheduler._preempt_request
        scheduler._preempt_request = lambda request, *args, **kwargs: (
            preempted.append(request.request_id), plain(request, *args, **kwargs)
        )  # fmt: skip
        outputs = llm.generate([prompt_of(judge, COUNT + n) for n in range(6)], [sampling()] * 6, use_tqdm=False)
        for n, output in enumerate(outputs):
            compare(judge, COUNT + n, "tight", output)
    assert preempted


def test_pictures_whose_numbers_are_not_known_leave_inside_the_decoder_where_they_can(judges):
    judge = judges("llava")
    judge.add({"both": before_the_decoder("llava")["divprune-before"]})
    given = {"policies": {"both": judge.saved["both"], "gates": judge.saved["gates"]}}
    with engine(judge, given, **WITHOUT_CHUNKS) as llm:
        run_together(llm, judge, ["both", "gates", "both", "both"])  # the third one has two pictures


def test_the_answer_ends_where_the_whole_prompt_would_let_it(judges):
    """Positions count what was dropped, and may not run past the model's."""
    judge = judges("llava")
    judge.add({"short": before_the_decoder("llava")["divprune-before"]})
    whole = len(judge.processor(text=[judge.prompts[0][0]], images=judge.prompts[0][1])["input_ids"][0])
    with engine(judge, {"policy": judge.saved["short"]}, **PLAIN, max_model_len=whole + 3) as llm:
        for name, most in (("off", 3), ("default", 3)):
            params = sampling(name)
            params.max_tokens = 50
            (output,) = llm.generate(prompt_of(judge, 0), params, use_tqdm=False)
            assert len(output.outputs[0].token_ids) == most, name
