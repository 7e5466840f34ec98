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

let context;
let sequences = [];

// As many empty sequences of one context, which has room for so many tokens of each: the last one where
// it is of this shape.
async function room(count, tokens) {
  if (sequences.length !== count || context.contextSize < tokens) {
    await context?.dispose();
    const shape = { sequences: count, contextSize: tokens, threads: plan.threads, batchSize: 512 };
    context = await model.createContext(shape);
    sequences = Array.from({ length: count }, () => context.getSequence());
  }
  for (const sequence of sequences) await sequence.clearHistory();
  return sequences;
}

// Prompts that are continued at once, batched.
async function together(prompts, count) {
  const longest = Math.max(...prompts.map((prompt) => prompt.length));
  const places = await room(prompts.length, longest + count);
  const texts = await Promise.all(prompts.map((prompt, index) => continued(places[index], prompt, count)));
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
