// llama.cpp, through npm's node-llama-cpp, for serve.py: one process of one model, and what it showed.
//
//   node llama.mjs SETTINGS.json
//
// SETTINGS are serve.py's `plan` (lists of tokens to read and to continue) with `model`, `threads` and
// `out`, the file that the figures go to. Times are seconds on the clock of the wall.
import fs from "node:fs";
import { getLlama } from "node-llama-cpp";

const plan = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const now = () => (performance.timeOrigin + performance.now()) / 1000;
const llama = await getLlama({ gpu: false, build: "never", maxThreads: plan.threads, logLevel: "error" });
const model = await llama.loadModel({ modelPath: plan.model, gpuLayers: 0 });

// The next `count` tokens of a text, greedily, each with its time; behind an end the text goes on.
async function continued(sequence, prompt, count) {
  const sent = now();
  const times = [];
  const tokens = [];
  for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    times.push(now());
    tokens.push(token);
    if (tokens.length === count) break;
  }
  return { sent, times, tokens };
}

// Prompts that are continued at once, each in a sequence of one context that batches them.
async function together(prompts, count) {
  const longest = Math.max(...prompts.map((prompt) => prompt.length)) + count;
  const context = await model.createContext({
    sequences: prompts.length, contextSize: longest, threads: plan.threads, batchSize: 512,
  });
  const texts = await Promise.all(prompts.map((prompt) => continued(context.getSequence(), prompt, count)));
  await context.dispose();
  // What each text is after one token, after two, and so on.
  const grown = (tokens) => tokens.map((_, end) => model.detokenize(tokens.slice(0, end + 1)));
  return texts.map(({ sent, times, tokens }) => ({ sent, times, tokens: tokens.length, grown: grown(tokens) }));
}

const [first] = await together([plan.first], 1);
const found = { first: first.times[0], reads: [], rounds: [] };
for (const prompt of plan.reads) found.reads.push((await together([prompt], 1))[0]);
for (const prompts of plan.rounds) found.rounds.push(await together(prompts, plan.tokens));
const peak = /VmHWM:\s+(\d+)/.exec(fs.readFileSync("/proc/self/status", "utf8"));
found.peak = Number(peak[1]) / 1024; // MiB
fs.writeFileSync(plan.out, JSON.stringify(found));
process.exit(0);
