"""The endpoints, asked over loopback as a client asks them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch
from tiny_served import CHAT, OTHER, two_plans

from bitzones.serve.http import running
from bitzones.serve.pieces import text_of_tokens

PROMPT = "Tom has 3 pens. He buys"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with running(two_plans()) as url, httpx.Client(base_url=url, timeout=60) as asking:
        yield asking


def complete(client: httpx.Client, prompt: Any = PROMPT, **keys: Any) -> dict[str, Any]:
    response = client.post("/v1/completions", json={"prompt": prompt, "temperature": 0, "max_tokens": 8, **keys})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def events(client: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with client.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def ids_of(prompt: str) -> list[int]:
    found: list[int] = two_plans().tokenizer(prompt)["input_ids"]
    return found


def greedy(ids: list[int], new_tokens: int, task: str = "base") -> list[int]:
    """What transformers writes."""
    with two_plans().precision(task), torch.no_grad():
        given = torch.tensor([ids])
        written = two_plans().model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
        )
    found: list[int] = written[0, len(ids) :].tolist()
    return found


def test_a_completion_is_the_greedy_text_of_transformers(client: httpx.Client) -> None:
    answer = complete(client)
    new = greedy(ids_of(PROMPT), 8)
    (choice,) = answer["choices"]
    assert choice["text"] == text_of_tokens(two_plans().tokenizer, new)
    assert choice["finish_reason"] == ("stop" if new[-1] == 0 else "length")
    assert answer["usage"] == {
        "prompt_tokens": len(ids_of(PROMPT)),
        "completion_tokens": len(new),
        "total_tokens": len(ids_of(PROMPT)) + len(new),
    }
    assert (answer["object"], answer["model"], answer["routing"]["by"]) == ("text_completion", "pair:base", "base")
    assert re.fullmatch(r"cmpl-[0-9a-f]{32}", answer["id"])


def test_prompts_of_every_kind_are_answered_in_their_order(client: httpx.Client) -> None:
    texts = [PROMPT, "Which of these is a metal?"]
    by_text = [choice["text"] for choice in complete(client, texts)["choices"]]
    by_ids = complete(client, [ids_of(text) for text in texts])["choices"]
    assert by_text == [complete(client, text)["choices"][0]["text"] for text in texts]
    assert [choice["text"] for choice in by_ids] == by_text
    assert [choice["index"] for choice in by_ids] == [0, 1]
    assert complete(client, ids_of(PROMPT))["choices"][0]["text"] == by_text[0]


def test_logprobs_are_those_of_a_forward_pass(client: httpx.Client) -> None:
    ids = ids_of(PROMPT)
    answer = complete(client, ids, max_tokens=4, logprobs=3, echo=True, return_tokens_as_token_ids=True)
    (choice,) = answer["choices"]
    named = choice["logprobs"]
    tokens = [int(name.removeprefix("token_id:")) for name in named["tokens"]]
    assert tokens == [*ids, *greedy(ids, 4)]
    with torch.no_grad():
        rows = two_plans().model(torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)
    expected = rows.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
    assert named["token_logprobs"][0] is None
    assert named["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
    for row, token, top in zip(rows, tokens[1:], named["top_logprobs"][1:], strict=True):
        best = {f"token_id:{place}": float(row[place]) for place in [*row.topk(3).indices.tolist(), token]}
        assert top == pytest.approx(best, abs=1e-4)
    assert choice["text"] == PROMPT + text_of_tokens(two_plans().tokenizer, tokens[len(ids) :])


def test_one_token_after_ids_is_what_a_canary_asks(client: httpx.Client) -> None:
    ids = ids_of("Tom has 3 pens.\nAnswer: 3")
    (choice,) = complete(client, ids, max_tokens=1, logprobs=20)["choices"]
    assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["top_logprobs"]) == 1
    assert 20 <= len(choice["logprobs"]["top_logprobs"][0]) <= 21


def test_echo_without_new_tokens_scores_a_prompt(client: httpx.Client) -> None:
    (choice,) = complete(client, max_tokens=0, echo=True, logprobs=0)["choices"]
    assert (choice["text"], choice["finish_reason"]) == (PROMPT, "length")
    assert len(choice["logprobs"]["tokens"]) == len(ids_of(PROMPT))
    assert complete(client, max_tokens=0)["choices"][0]["text"] == ""


@pytest.mark.parametrize("keys", [{}, {"logprobs": 2}, {"echo": True, "logprobs": 1}, {"stop": ["Answer"]}, {"temperature": 1, "seed": 4}])
def test_a_stream_is_the_answer_in_pieces(client: httpx.Client, keys: dict[str, Any]) -> None:
    body = {"prompt": [PROMPT, "How many"], "max_tokens": 8, "temperature": 0, **keys}
    whole = client.post("/v1/completions", json=body).json()
    chunks = events(client, "/v1/completions", body | {"stream_options": {"include_usage": True}})
    assert chunks.pop()["usage"] == whole["usage"]
    for choice in whole["choices"]:
        mine = [part for chunk in chunks for part in chunk["choices"] if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in mine) == choice["text"]
        assert [part["finish_reason"] for part in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
        if choice["logprobs"] is not None:
            for key, values in choice["logprobs"].items():
                assert [value for part in mine if part["logprobs"] for value in part["logprobs"][key]] == values


def test_a_stop_string_ends_the_text_before_it(client: httpx.Client) -> None:
    text = complete(client, max_tokens=12)["choices"][0]["text"]
    stop = text[5:8]
    (choice,) = complete(client, max_tokens=12, stop=stop)["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text[: text.index(stop)], "stop")


def test_sampling_repeats_with_a_seed(client: httpx.Client) -> None:
    asked = {"temperature": 1, "top_p": 0.95, "max_tokens": 12}
    assert complete(client, seed=7, **asked)["choices"] == complete(client, seed=7, **asked)["choices"]
    assert len({complete(client, seed=seed, **asked)["choices"][0]["text"] for seed in range(3)}) > 1


def test_a_chat_is_the_template_completed(client: httpx.Client) -> None:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
    body = {"messages": messages, "temperature": 0, "max_tokens": 5, "logprobs": True, "top_logprobs": 2}
    answer = client.post("/v1/chat/completions", json=body).json()
    ids = two_plans().tokenizer(f"system: Be short.\nuser: {PROMPT}\nAnswer:", add_special_tokens=False)["input_ids"]
    new = greedy(ids, 5)
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == text_of_tokens(two_plans().tokenizer, new)
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert len(choice["logprobs"]["content"]) == len(new)
    entry = choice["logprobs"]["content"][0]
    assert (len(entry["top_logprobs"]), bytes(entry["bytes"]).decode()) == (2, entry["token"])
    chunks = [chunk["choices"][0] for chunk in events(client, "/v1/chat/completions", body)]
    assert chunks[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == choice["message"]["content"]
    assert chunks[-1]["finish_reason"] == choice["finish_reason"]


def test_a_chat_without_a_limit_may_fill_the_models_positions(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "\n" * 500}]
    answer = client.post("/v1/chat/completions", json={"messages": messages, "temperature": 0}).json()
    read, room = answer["usage"]["prompt_tokens"], 512 - answer["usage"]["prompt_tokens"]
    assert read == 508
    assert answer["choices"][0]["finish_reason"] == "stop" or answer["usage"]["completion_tokens"] == room
    over = client.post("/v1/chat/completions", json={"messages": messages, "max_completion_tokens": room + 1})
    assert over.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("keys", "task", "by"),
    [
        ({"model": "pair"}, "base", "base"),
        ({"model": f"pair:{OTHER}"}, OTHER, "name"),
        ({"task": OTHER}, OTHER, "name"),
        ({"model": "pair:base", "task": "base"}, "base", "name"),
        ({"prompt": "Tom has 3 apples. He buys"}, OTHER, "rule"),
        ({"prompt": "Tom has 3 apples. He buys", "task": "base"}, "base", "name"),
        ({"prompt": ["Tom has 3 apples.", PROMPT]}, "base", "base"),
    ],
)
def test_the_plan_that_is_asked_for_or_routed_to_answers(client: httpx.Client, keys: dict[str, Any], task: str, by: str) -> None:
    answer = complete(client, **keys)
    assert answer["model"] == f"pair:{task}"
    assert (answer["routing"]["task"], answer["routing"]["by"]) == (task, by)
    prompt = keys.get("prompt", PROMPT)
    first = prompt[0] if isinstance(prompt, list) else prompt
    assert answer["choices"][0]["text"] == text_of_tokens(two_plans().tokenizer, greedy(ids_of(first), 8, task))


def test_the_two_plans_of_these_tests_differ() -> None:
    assert greedy(ids_of("Tom has 3 apples. He buys"), 8) != greedy(ids_of("Tom has 3 apples. He buys"), 8, OTHER)


def test_models_are_listed_and_found_by_name(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["pair", "pair:base", f"pair:{OTHER}"]
    assert {(model["sha256"], model["max_model_len"]) for model in listed} == {("ab" * 32, 512)}
    assert client.get(f"/v1/models/pair:{OTHER}").json() == listed[2]
    assert client.get("/v1/models/another").json()["error"]["code"] == "model_not_found"


def test_metrics_count_requests_tokens_and_tasks(client: httpx.Client) -> None:
    def counted() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}

    before = counted()
    answer = complete(client, task=OTHER)
    client.get("/nowhere/a%20secret?of=mine")
    after = counted()
    new = {name: value - before.get(name, 0) for name, value in after.items()}
    assert new[f'bitzones_tokens_total{{kind="prompt",task="{OTHER}"}}'] == answer["usage"]["prompt_tokens"]
    assert new[f'bitzones_tokens_total{{kind="new",task="{OTHER}"}}'] == answer["usage"]["completion_tokens"]
    assert new['bitzones_requests_total{endpoint="/v1/completions",status="200"}'] == 1
    assert new['bitzones_requests_total{endpoint="other",status="404"}'] == 1
    assert new[f'bitzones_routed_total{{by="name",task="{OTHER}"}}'] == 1
    assert after["bitzones_waiting_requests"] == 0
    assert after["bitzones_resident_bytes"] == two_plans().resident_bytes


REFUSED: list[tuple[str, dict[str, Any], int, str, str | None]] = [
    ("a model", {"model": "gpt-4"}, 404, "model_not_found", "model"),
    ("a model's prefix", {"model": "pair:"}, 404, "model_not_found", "model"),
    ("a task of the model", {"model": "pair:nope"}, 404, "model_not_found", "model"),
    ("a task", {"task": "nope"}, 400, "task_not_found", "task"),
    ("two tasks", {"model": "pair:base", "task": OTHER}, 400, "task_conflict", "task"),
    ("no prompt", {"prompt": None}, 400, "invalid_value", "prompt"),
    ("an empty list", {"prompt": []}, 400, "invalid_value", "prompt"),
    ("an empty prompt of ids", {"prompt": [[]]}, 400, "invalid_value", "prompt"),
    ("a mixed list", {"prompt": [1, "a"]}, 400, "invalid_value", "prompt"),
    ("an id that is none", {"prompt": [768]}, 400, "invalid_token", "prompt"),
    ("a negative id", {"prompt": [-1]}, 400, "invalid_value", "prompt"),
    ("too many prompts", {"prompt": ["a"] * 65}, 400, "too_many_prompts", "prompt"),
    ("too long a prompt", {"prompt": [5] * 510}, 400, "context_length_exceeded", None),
    ("too many tokens", {"max_tokens": 2**31 - 1}, 400, "context_length_exceeded", None),
    ("negative tokens", {"max_tokens": -1}, 400, "invalid_value", "max_tokens"),
    ("a text for a number", {"max_tokens": "8"}, 400, "invalid_value", "max_tokens"),
    ("a boolean for a number", {"max_tokens": True}, 400, "invalid_value", "max_tokens"),
    ("too hot", {"temperature": 2.1}, 400, "invalid_value", "temperature"),
    ("too many alternatives", {"logprobs": 21}, 400, "invalid_value", "logprobs"),
    ("an empty stop string", {"stop": ""}, 400, "invalid_value", "stop"),
    ("five stop strings", {"stop": list("abcde")}, 400, "invalid_value", "stop"),
    ("two answers", {"n": 2}, 400, "invalid_value", "n"),
    ("a penalty", {"presence_penalty": 1}, 400, "invalid_value", "presence_penalty"),
    ("an unknown key", {"top_k": 5}, 400, "unknown_parameter", "top_k"),
]


@pytest.mark.parametrize(("keys", "status", "code", "param"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_answered_is_refused_in_openais_shape(
    client: httpx.Client, keys: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    response = client.post("/v1/completions", json={"prompt": PROMPT} | keys)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]


def test_what_asks_for_nothing_is_accepted(client: httpx.Client) -> None:
    nothing = {
        "n": 1,
        "best_of": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "user": "x",
        "suffix": None,
        "seed": -3,
    }
    assert complete(client, **nothing)["choices"] == complete(client)["choices"]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user"}],
        [{"role": "king", "content": "x"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    ],
)
def test_messages_that_cannot_be_read_are_refused(client: httpx.Client, messages: list[Any]) -> None:
    response = client.post("/v1/chat/completions", json={"messages": messages})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_value")


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no') }}", "{{ messages[5].content.upper() }}", "{% if %}"])
def test_a_template_that_is_missing_or_fails_is_said(client: httpx.Client, template: str | None) -> None:
    two_plans().tokenizer.chat_template = template
    try:
        response = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}]})
    finally:
        two_plans().tokenizer.chat_template = CHAT
    assert response.status_code == 400
    assert response.json()["error"]["code"] in {"no_chat_template", "chat_template"}


def test_a_model_that_computes_no_numbers_is_an_error_of_the_server(client: httpx.Client) -> None:
    hook = two_plans().model.model.norm.register_forward_hook(lambda module, given, out: out * float("nan"))
    try:
        responses = [client.post("/v1/completions", json={"prompt": PROMPT, "stream": stream}) for stream in (False, True)]
    finally:
        hook.remove()
    assert [response.status_code for response in responses] == [500, 500]
    assert {response.json()["error"]["code"] for response in responses} == {"model_error"}
    assert complete(client)["choices"]


def test_the_schema_of_requests_is_published(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    body = paths["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"prompt", "logprobs", "echo", "task"} <= set(body["properties"])
