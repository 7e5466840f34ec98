"""OpenAI's Python client against MiniLM, served by Hearth for its embeddings.

    embeddings.py FIXTURE

FIXTURE holds texts with the vectors that transformers gives of them."""

import base64
import json
import sys

import numpy
import openai

MODEL = "minilm"
client = openai.OpenAI(max_retries=0, timeout=60)
rows = json.load(open(sys.argv[1]))["rows"]


def embed(given, **more):
    return client.embeddings.create(**{"model": MODEL, "input": given, **more})


def vectors(answer):
    return numpy.array([entry.embedding for entry in answer.data], dtype=numpy.float32)


def vectors_are_those_of_transformers():
    answer = embed([row["text"] for row in rows])
    assert [entry.index for entry in answer.data] == list(range(len(rows)))
    assert numpy.abs(vectors(answer) - [row["vector"] for row in rows]).max() < 1e-4
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(row["tokens"] for row in rows)
    assert answer.model == MODEL and answer.object == "list"


def what_means_the_same_is_near():
    one, same, other = vectors(embed([row["text"] for row in rows[:3]]))
    assert one @ same > 0.5 > one @ other, (one @ same, one @ other)


def base64_and_floats_say_the_same():
    text = rows[0]["text"]
    # Without a format the client asks for base64, and reads it.
    read, floats = (vectors(embed(text, **how)) for how in ({}, {"encoding_format": "float"}))
    assert (read == floats).all()
    raw = embed(text, encoding_format="base64").data[0].embedding
    assert (numpy.frombuffer(base64.b64decode(raw), dtype="<f4") == floats[0]).all()


def tokens_are_taken_as_they_are():
    # [CLS] hello, world! [SEP]
    tokens = [101, 7592, 1010, 2088, 999, 102]
    text, alone, many = (vectors(embed(given)) for given in ("Hello, world!", tokens, [tokens, tokens[:3]]))
    assert numpy.allclose(text[0], alone[0], atol=1e-6) and numpy.allclose(text[0], many[0], atol=1e-6)
    assert len(many) == 2 and not numpy.allclose(many[0], many[1], atol=1e-2)


def a_long_text_is_cut():
    answer = embed("word " * 2000)
    assert answer.usage.prompt_tokens == 512, answer.usage


def the_width_may_be_said_and_not_changed():
    assert vectors(embed("a", dimensions=384)).shape == (1, 384)
    refused({"dimensions": 128}, openai.BadRequestError, "this model gives 384")


def models_are_listed():
    assert [model.id for model in client.models.list()] == [MODEL]


def refused(more, error=openai.BadRequestError, want=""):
    try:
        embed(**{"given": "a", **more})
    except error as said:
        assert want in said.body["message"], said
    else:
        raise AssertionError(f"{more} is not refused")


def errors_say_what_is_wrong():
    refused({"given": ""}, want="empty text")
    refused({"given": ["a", ""]}, want="input 1 is an empty text")
    refused({"given": []}, want="no text")
    refused({"given": [101, 30522]}, want="no token 30522")
    refused({"given": [[]]}, want="has 0 tokens")
    refused({"given": [101] * 513}, want="reads 1 to 512")
    refused({"given": ["a"] * 65}, want="at most 64")
    refused({"given": 7}, want="must be a text")
    refused({"encoding_format": "int8"}, want="int8")
    refused({"extra_body": {"truncate": True}}, want="truncate")
    refused({"model": "another"}, openai.NotFoundError, "minilm")
    try:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "a"}])
    except openai.NotFoundError as said:
        assert "this model gives embeddings" in said.body["message"], said
    else:
        raise AssertionError("a chat is not refused")


TESTS = [
    vectors_are_those_of_transformers,
    what_means_the_same_is_near,
    base64_and_floats_say_the_same,
    tokens_are_taken_as_they_are,
    a_long_text_is_cut,
    the_width_may_be_said_and_not_changed,
    models_are_listed,
    errors_say_what_is_wrong,
]

if __name__ == "__main__":
    for test in TESTS:
        test()
        print(f"test embeddings {test.__name__} ... ok", flush=True)
