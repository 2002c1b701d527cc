"""vLLM's prefix cache with policies inside the decoder: what is shared is what would have been computed."""

import random

import pytest
from vllm_checkpoints import FAMILIES
from vllm_engine import WITHOUT_CHUNKS, compare, core, engine, request, sampling
from vllm_judge import FIXED_SIZE

import lookaway as la

pytestmark = pytest.mark.vllm
BLOCK = 32
CACHED = {"enable_prefix_caching": True, "mm_processor_cache_gb": 1}
LETTERS = "abcdefghijklmnop"
EXITS = ("off", "exit-1", "vtw-5", "never", "uniform-vtw")
LOOKING = ("gates", "fastv", "second-look", "question-schedule")


def related(judge, count=12, seed=0, tight=False):
    """Indexes of prompts that share beginnings of many lengths: a text, a picture behind it, words of the question, and
    in some a second picture. Tight ones need another block for their third new token."""
    from PIL import Image

    draw = random.Random(seed)
    sizes = [(32, 32)] if judge.family in FIXED_SIZE else [(32, 32), (64, 32)]
    pictures = [Image.frombytes("RGB", size, draw.randbytes(3 * size[0] * size[1])) for size in sizes * 2]
    leads = ["", "".join(draw.choices(LETTERS, k=40)), "".join(draw.choices(LETTERS, k=33))]
    question = "".join(draw.choices(LETTERS, k=90))
    mark, first = FAMILIES[judge.family][1], len(judge.prompts)
    for number in range(count):
        images = draw.choices(pictures, k=2 if number % 4 == 3 else 1)
        words = question[: draw.randint(1, 90)] + "".join(draw.choices(LETTERS, k=draw.randint(1, 40)))
        lead = leads[number % 3]
        text = lead + mark + words + (mark + question[:20] if len(images) == 2 else "")
        tokens = len(judge.processor(text=[text], images=images)["input_ids"][0]) if tight else BLOCK - 2
        judge.prompts.append((text + "p" * ((BLOCK - 2 - tokens) % BLOCK), images))
    return range(first, first + count)


@pytest.fixture(scope="module")
def asking(judges):
    """Family -> its judge, and the indexes of its related prompts."""
    known = {}

    def of_family(family):
        if family not in known:
            judge = judges(family)
            judge.add({"uniform-vtw": la.chain(la.UniformKeep(0.5, layer=0), la.VTW(5))})
            known[family] = judge, related(judge)
        return known[family]

    return of_family


def asked(llm, judge, pairs):
    """Prompts at once, (index, policy) each; compared. Tokens of each that came from the cache."""
    prompts = [request(judge, index) for index, _ in pairs]
    outputs = llm.generate(prompts, [sampling(name) for _, name in pairs], use_tqdm=False)
    for (index, name), output in zip(pairs, outputs, strict=True):
        compare(judge, index, name, output)
    return [output.num_cached_tokens for output in outputs]


def of(judge, names):
    return {"policies": {name: judge.saved[name] for name in names if name != "off"}, "default": "off"}


@pytest.mark.parametrize(
    ("family", "chunked"), [*((family, False) for family in FAMILIES), ("llava", True), ("qwen2_5_vl", True)]
)
def test_fixed_exits_cold_and_warm(asking, family, chunked):
    """Each prompt under each policy, in an order of their own: the same pictures and texts under several policies."""
    judge, indexes = asking(family)
    chunks = {"enable_chunked_prefill": True, "max_num_batched_tokens": 48} if chunked else WITHOUT_CHUNKS
    pairs = [(index, name) for index in indexes for name in EXITS]
    random.Random(1).shuffle(pairs)
    with engine(judge, of(judge, EXITS), **CACHED, max_num_seqs=6, **chunks) as llm:
        cold = asked(llm, judge, pairs)
        warm = asked(llm, judge, pairs)
    assert sum(warm) > sum(cold) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_policies_that_look_beside_a_fixed_exit(asking, family):
    """They compute their whole prompts, and what they leave to others is right."""
    judge, indexes = asking(family)
    names = ("off", "exit-3", "divprune-exit", *LOOKING)  # the chain looks at prompts with several pictures
    pairs = [(index, name) for index in indexes[:6] for name in names]
    random.Random(2).shuffle(pairs)
    with engine(judge, of(judge, names), **CACHED, max_num_seqs=6, **WITHOUT_CHUNKS) as llm:
        asked(llm, judge, pairs)
        warm = asked(llm, judge, pairs)
    assert any(warm)
    for (_, name), cached in zip(pairs, warm, strict=True):
        assert not (cached and name in LOOKING)


def prompts_of(judge, lead, *questions):
    """Indexes of prompts with one picture, the same text before it, and these questions."""
    _, images = judge.prompts[0]
    judge.prompts += [(lead + FAMILIES[judge.family][1] + question, images) for question in questions]
    return range(len(judge.prompts) - len(questions), len(judge.prompts))


@pytest.mark.parametrize("lead", [0, 32, 40])
def test_another_question_about_the_same_picture(judges, lead):
    """The picture is not computed again, though the text before it fills no block in the layers behind the exit."""
    judge = judges("llava")
    lead = LETTERS[0] * lead
    first, second = prompts_of(judge, lead, LETTERS[1] * 70, LETTERS[2] * 60)
    visual = len(judge.processor(text=[judge.prompts[first][0]], images=judge.prompts[first][1])["input_ids"][0]) - 70
    judge.add({"vtw-3": la.VTW(3)})
    with engine(judge, of(judge, ("exit-3", "vtw-3")), **CACHED, **WITHOUT_CHUNKS) as llm:
        assert asked(llm, judge, [(first, "exit-3")]) == [0]
        assert asked(llm, judge, [(second, "exit-3")]) == [visual // BLOCK * BLOCK]
        assert asked(llm, judge, [(second, "vtw-3")])[0] > visual  # another policy that leaves the same
        # Twice at once, the one whose block was copied first still running; and the first one is as it was.
        assert (
            min(asked(llm, judge, [(second, "exit-3"), (first, "exit-3"), (second, "exit-3")]))
            >= visual // BLOCK * BLOCK
        )
        # No policy: what the layers behind the exit hold is another thing.
        assert asked(llm, judge, [(first, "off")]) == [len(lead) // BLOCK * BLOCK]
        assert asked(llm, judge, [(second, "off")]) == [visual // BLOCK * BLOCK]
        pool = core(llm).scheduler.kv_cache_manager.block_pool
        assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1  # copied blocks were given back, too
        assert core(llm).scheduler.kv_cache_manager.reset_prefix_cache()
        assert asked(llm, judge, [(second, "exit-3")]) == [0]


def test_no_block_is_copied_before_it_was_written(judges):
    """Copies are made before a step runs: of two prompts that begin in one step, the second one shares whole blocks
    only."""
    judge = judges("llava")
    first, second = prompts_of(judge, LETTERS[4] * 40, LETTERS[1] * 70, LETTERS[2] * 60)
    with engine(judge, of(judge, ("exit-3",)), **CACHED, **WITHOUT_CHUNKS) as llm:
        assert asked(llm, judge, [(first, "exit-3"), (second, "exit-3")]) == [0, BLOCK]
        assert asked(llm, judge, [(first, "exit-3"), (second, "exit-3")]) == [5 * BLOCK, 5 * BLOCK]


def test_without_kv_groups_of_their_own_hits_end_before_the_picture(judges):
    judge = judges("llava")
    first, second = prompts_of(judge, LETTERS[3] * 40, LETTERS[1] * 70, LETTERS[2] * 60)
    given = {**of(judge, ("exit-3",)), "own_kv_groups": False}
    with engine(judge, given, **CACHED, **WITHOUT_CHUNKS) as llm:
        assert asked(llm, judge, [(first, "exit-3")]) == [0]
        for index in (first, second):
            assert asked(llm, judge, [(index, "exit-3")]) == [BLOCK]
            assert asked(llm, judge, [(index, "off")])[0] in (BLOCK, 3 * BLOCK)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("own", [True, False], ids=["own", "shared"])
def test_preemption_and_eviction(judges, family, own):
    """Too little memory: requests begin again behind what is left of them in the cache, and cached blocks go."""
    judge = judges(family)
    indexes = related(judge, 10, seed=3, tight=True)
    names = ("off", "exit-3", "never")
    draw = random.Random(4)
    pairs = [(draw.choice(indexes), draw.choice(names)) for _ in range(40)]
    blocks = {"num_gpu_blocks_override": 48 if own else 24, "max_model_len": 288, "watermark": 0.0}
    given = {**of(judge, names), "own_kv_groups": own}
    with engine(judge, given, **CACHED, **blocks, max_num_seqs=16, **WITHOUT_CHUNKS) as llm:
        scheduler, preempted = core(llm).scheduler, []
        plain = scheduler._preempt_request
        scheduler._preempt_request = lambda request, *args, **kwargs: (
            preempted.append(request.request_id), plain(request, *args, **kwargs)
        )  # fmt: skip
        assert any(asked(llm, judge, pairs))
        managers = scheduler.kv_cache_manager.coordinator.single_type_managers
        assert not any(
            getattr(manager, "layouts", None) or getattr(manager, "cached_until", None) for manager in managers
        )
    assert preempted
