"""OpenAI's Python client against a server of Hearth's: each test says what a user relies on."""

import asyncio
import json

import openai

MODEL = "smollm2"
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
client = openai.OpenAI(max_retries=0, timeout=120)


def chat(**more):
    return client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, "temperature": 0, **more})


def a_question_is_answered():
    answer = chat(max_tokens=40)
    assert "Paris" in answer.choices[0].message.content, answer
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def a_stream_says_the_same():
    whole = chat(max_tokens=40).choices[0].message.content
    pieces = list(chat(max_tokens=40, stream=True, stream_options={"include_usage": True}))
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert text == whole, (text, whole)
    assert len(pieces) > 5, "piece by piece"
    assert pieces[-1].usage.completion_tokens > 0


def a_stop_string_ends_a_text():
    answer = chat(max_tokens=40, stop=[" Paris"])
    assert answer.choices[0].message.content.endswith(" is"), answer
    assert answer.choices[0].finish_reason == "stop"


def a_bound_ends_a_text():
    answer = chat(max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def a_seed_repeats_a_text():
    ask = lambda seed: chat(temperature=1.5, seed=seed, max_tokens=12).choices[0].message.content
    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(4)}) > 1


def choices_differ():
    answer = chat(temperature=1.5, n=3, max_tokens=12)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1


def logprobs_are_told():
    answer = chat(max_tokens=3, logprobs=True, top_logprobs=4)
    for token in answer.choices[0].logprobs.content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 4
        assert token.logprob == token.top_logprobs[0].logprob, "temperature 0 takes the likeliest"
        assert bytes(token.bytes).decode() == token.token
    assert "".join(t.token for t in answer.choices[0].logprobs.content) == answer.choices[0].message.content


def a_schema_is_kept_to():
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 30},
            "kind": {"enum": ["city", "village"]},
            "inhabitants": {"type": "integer"},
        },
        "required": ["city", "kind", "inhabitants"],
        "additionalProperties": False,
    }
    for seed in range(3):
        answer = chat(
            temperature=1.2,
            seed=seed,
            max_tokens=120,
            response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}},
        )
        assert answer.choices[0].finish_reason == "stop", answer
        place = json.loads(answer.choices[0].message.content)
        assert set(place) == {"city", "kind", "inhabitants"}, place
        assert place["kind"] in ("city", "village") and isinstance(place["inhabitants"], int)


def a_json_object_is_one():
    answer = chat(max_tokens=200, response_format={"type": "json_object"}, frequency_penalty=0.5)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    assert answer.choices[0].message.content.lstrip().startswith("{")


def texts_are_continued():
    answer = client.completions.create(
        model=MODEL, prompt=["The capital of France is", "One, two, three,"], max_tokens=4, temperature=0, logprobs=2
    )
    assert answer.choices[0].text.startswith(" Paris"), answer
    assert "four" in answer.choices[1].text, answer
    assert len(answer.choices[0].logprobs.tokens) == 4
    assert len(answer.choices[0].logprobs.top_logprobs[0]) == 2


def a_bias_forbids_a_token():
    # 7042 is " Paris".
    biased = client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0, logit_bias={"7042": -100}
    )
    assert not biased.choices[0].text.startswith(" Paris"), biased


def models_are_listed():
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "hearth"


def errors_have_the_client_s_types():
    for error, more in [
        (openai.NotFoundError, {"model": "another"}),
        (openai.BadRequestError, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        (openai.BadRequestError, {"max_tokens": 0}),
        (openai.BadRequestError, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}}),
        (openai.BadRequestError, {"n": 9}),
    ]:
        try:
            chat(**more)
        except error as refused:
            assert refused.body["message"], refused
        else:
            raise AssertionError(f"{more} is not refused")


def many_ask_at_once():
    async def ask_all():
        many = openai.AsyncOpenAI(max_retries=20, timeout=300)
        ask = lambda: many.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=12)
        return await asyncio.gather(*(ask() for _ in range(16)))

    answers = {answer.choices[0].message.content for answer in asyncio.run(ask_all())}
    assert len(answers) == 1 and "Paris" in answers.pop()


def who_stops_listening_is_forgotten():
    stream = chat(max_tokens=2000, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    assert chat(max_tokens=2).usage.completion_tokens == 2


TESTS = [
    a_question_is_answered,
    a_stream_says_the_same,
    a_stop_string_ends_a_text,
    a_bound_ends_a_text,
    a_seed_repeats_a_text,
    choices_differ,
    logprobs_are_told,
    a_schema_is_kept_to,
    a_json_object_is_one,
    texts_are_continued,
    a_bias_forbids_a_token,
    models_are_listed,
    errors_have_the_client_s_types,
    many_ask_at_once,
    who_stops_listening_is_forgotten,
]

if __name__ == "__main__":
    for test in TESTS:
        test()
        print(f"test python {test.__name__} ... ok", flush=True)
