"""Plans change in place, one at a time, whole, and come back: also under threads, exceptions and interruptions."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitzones import serve
from bitzones.backends.weights import plain_tensors
from bitzones.schema.errors import ArgumentError
from bitzones.serve.bundle_writer import Bundled
from bitzones.serve.served_model import ServedModel
from bitzones.serve.switching import Switch

TASKS = {"a": {"0": torch.nn.Identity(), "2.0": torch.nn.Identity()}, "b": {"1": torch.nn.Identity(), "2.0": torch.nn.Identity()}}


def small() -> tuple[torch.nn.Sequential, Switch]:
    model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.ReLU(), torch.nn.Sequential(torch.nn.ReLU()))
    return model, Switch(model, TASKS)


def installed(model: torch.nn.Sequential) -> dict[str, torch.nn.Module]:
    return {name: model.get_submodule(name) for name in ("0", "1", "2.0")}


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["base", "a", "b"]), st.sampled_from(["use", "enter", "leave", "raise"])), max_size=30))
def test_after_any_steps_exactly_the_current_plans_modules_are_in_place(steps: list[tuple[str, str]]) -> None:
    model, switch = small()
    of_base = installed(model)
    open_blocks: list[tuple[Any, str]] = []
    now = "base"
    for task, step in steps:
        if step == "use" and not open_blocks:
            switch.use(task)
            now = task
        elif step == "enter":
            block = switch.precision(task)
            block.__enter__()
            open_blocks.append((block, now))
            now = task
        elif step in {"leave", "raise"} and open_blocks:
            block, now = open_blocks.pop()
            error = RuntimeError("inside") if step == "raise" else None
            assert not block.__exit__(type(error) if error else None, error, None)  # an exception goes on
        assert switch.current == now
        assert installed(model) == {**of_base, **TASKS.get(now, {})}
    while open_blocks:
        open_blocks.pop()[0].__exit__(None, None, None)


def test_use_inside_a_block_is_refused_and_an_unknown_task_names_those_there_are() -> None:
    _, switch = small()
    with switch.precision("a"), pytest.raises(ArgumentError, match="leave the block first"):
        switch.use("b")
    for call in (switch.use, lambda task: switch.precision(task).__enter__()):
        with pytest.raises(ArgumentError, match="no task 'c'; tasks: base, a, b"):
            call("c")
    assert switch.current == "base"


class Interrupting(dict[str, torch.nn.Module | None]):
    """Ctrl-C while a module is put in its place."""

    armed = False

    def __setitem__(self, key: str, value: torch.nn.Module | None) -> None:
        if self.armed:
            raise KeyboardInterrupt
        super().__setitem__(key, value)


def test_a_switch_that_is_interrupted_half_way_is_put_right_by_the_next() -> None:
    model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.ReLU(), torch.nn.Sequential(torch.nn.ReLU()))
    model[2]._modules = Interrupting(model[2]._modules)
    of_base = installed(model)
    switch = Switch(model, TASKS)
    model[2]._modules.armed = True
    with pytest.raises(KeyboardInterrupt):
        switch.use("a")
    model[2]._modules.armed = False
    with switch.precision("b"):
        assert installed(model) == {**of_base, **TASKS["b"]}
    assert installed(model) == of_base
    switch.use("a")
    assert installed(model) == {**of_base, **TASKS["a"]}


def test_another_thread_waits_until_a_block_has_ended() -> None:
    _, switch = small()
    inside, leave, order = threading.Event(), threading.Event(), list[str]()

    def generating() -> None:
        with switch.precision("a"):
            inside.set()
            leave.wait()
            order.append(switch.current)

    def changing() -> None:
        inside.wait()
        switch.use("b")
        order.append(switch.current)

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(generating), pool.submit(changing)]
        inside.wait()
        assert switch.current == "a"
        assert not waiting[1].done()
        leave.set()
        for found in waiting:
            found.result()
    assert order == ["a", "b"]


@pytest.fixture(scope="module")
def served(bundled: Bundled) -> ServedModel:
    return serve.load(bundled.folder)


def generated(served: ServedModel, prompt: torch.Tensor) -> tuple[list[int], bytes]:
    """Greedy tokens, and the bits of the prompt's logits."""
    with torch.no_grad():
        logits = served.model(input_ids=prompt, use_cache=False).logits
        tokens = served.model.generate(  # type: ignore[operator]
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=2, do_sample=False, pad_token_id=0
        )
    return tokens[0].tolist(), logits.numpy().tobytes()


def test_under_threads_every_output_is_that_of_the_plan_alone(served: ServedModel) -> None:
    prompts = [torch.tensor([[1 + n, 2 + n, 3 + n]]) for n in range(3)]
    alone = {}
    for task in served.tasks:
        served.use(task)
        alone[task] = [generated(served, prompt) for prompt in prompts]
    served.use("base")

    def work(seed: int) -> int:
        rng = random.Random(seed)
        for _ in range(6):
            task, place = rng.choice(served.tasks), rng.randrange(3)
            with served.precision(task):
                assert generated(served, prompts[place]) == alone[task][place]
        return 6

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 48
    assert served.task == "base"


def test_resident_bytes_are_the_base_and_what_differs(served: ServedModel) -> None:
    """Counted by hand from the tensors of the modules in which the tasks differ."""
    before = served.resident_bytes
    base = bytes_of(served.model)
    extra = 0
    for task in served.tasks[1:]:
        own = {id(module) for module in served.model.modules()}
        with served.precision(task):
            extra += sum(bytes_of(module) for module in served.model.modules() if id(module) not in own)
            assert served.resident_bytes == before
    assert before == base + extra


def bytes_of(module: torch.nn.Module) -> int:
    owned = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(part.nbytes for tensor in owned.values() for part in plain_tensors(tensor))
