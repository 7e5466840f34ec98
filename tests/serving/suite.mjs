// OpenAI's Node client against a server of Hearth's.
import assert from "node:assert/strict";
import OpenAI from "openai";

const model = "smollm2";
const messages = [{ role: "user", content: "What is the capital of France? Answer in one sentence." }];
const client = new OpenAI({ maxRetries: 0, timeout: 120_000 });
const chat = (more) => client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 20, ...more });

const tests = {
  async a_question_is_answered() {
    const answer = await chat();
    assert.match(answer.choices[0].message.content, /Paris/);
    assert.equal(answer.choices[0].finish_reason, "stop");
  },
  async a_stream_says_the_same() {
    const whole = (await chat()).choices[0].message.content;
    let text = "";
    let usage;
    for await (const piece of await chat({ stream: true, stream_options: { include_usage: true } })) {
      text += piece.choices[0]?.delta?.content ?? "";
      usage = piece.usage ?? usage;
    }
    assert.equal(text, whole);
    assert.ok(usage.completion_tokens > 0);
  },
  async the_client_s_own_collector_understands_a_stream() {
    const stream = client.chat.completions.stream({ model, messages, temperature: 0, max_tokens: 20 });
    const answer = await stream.finalChatCompletion();
    assert.match(answer.choices[0].message.content, /Paris/);
  },
  async a_schema_is_kept_to() {
    const schema = {
      type: "object",
      properties: { city: { type: "string", maxLength: 20 }, large: { type: "boolean" } },
      required: ["city", "large"],
      additionalProperties: false,
    };
    const answer = await chat({
      max_tokens: 60,
      response_format: { type: "json_schema", json_schema: { name: "place", schema } },
    });
    const place = JSON.parse(answer.choices[0].message.content);
    assert.deepEqual(Object.keys(place).sort(), ["city", "large"]);
  },
  async texts_are_continued() {
    const answer = await client.completions.create({
      model, prompt: "The capital of France is", max_tokens: 2, temperature: 0,
    });
    assert.match(answer.choices[0].text, /Paris/);
  },
  async an_aborted_request_is_forgotten() {
    const abort = new AbortController();
    const stream = await client.chat.completions.create(
      { model, messages, max_tokens: 2000, stream: true, ignore_eos: true },
      { signal: abort.signal },
    );
    for await (const _ of stream) break;
    abort.abort();
    assert.equal((await chat({ max_tokens: 2 })).usage.completion_tokens, 2);
  },
  async errors_have_the_client_s_types() {
    await assert.rejects(chat({ model: "another" }), OpenAI.NotFoundError);
    await assert.rejects(chat({ n: 9 }), OpenAI.BadRequestError);
    const many = Array.from({ length: 6 }, () => chat({ n: 4, max_tokens: 100, ignore_eos: true }));
    const outcomes = await Promise.allSettled(many);
    const refused = outcomes.filter((outcome) => outcome.status === "rejected");
    assert.ok(refused.length > 0, "more wait than may");
    for (const { reason } of refused) {
      assert.ok(reason instanceof OpenAI.RateLimitError, reason);
      assert.equal(reason.headers.get("retry-after"), "1");
    }
  },
};

for (const [name, test] of Object.entries(tests)) {
  await test();
  console.log(`test node ${name} ... ok`);
}
