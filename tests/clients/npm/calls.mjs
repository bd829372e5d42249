// Calls the official client as told: one JSON object a line comes in, how the call went goes out, one line each.
// The first line out names the methods that the client has.
import { createInterface } from "node:readline";
import { Ollama } from "ollama";

// What the client has to say against a reply, it says on the console: JSON it cannot read, an error that is no JSON.
const said = [];
console.log = console.warn = console.error = (...words) => said.push(words.join(" "));

const client = new Ollama({ host: process.argv.at(-1) });

function methodsOf(object) {
  const names = [];
  for (let own = Object.getPrototypeOf(object); own !== Object.prototype; own = Object.getPrototypeOf(own)) {
    names.push(...Object.getOwnPropertyNames(own).filter((name) => name !== "constructor"));
  }
  return [...new Set(names)];
}

// Parts of a stream are kept as they come: they have been read even if an error follows.
async function call({ method, request, abortAfter }, outcome) {
  outcome.reply = await client[method](request);
  if (!request?.stream) {
    return;
  }
  const stream = outcome.reply;
  outcome.reply = [];
  for await (const part of stream) {
    outcome.reply.push(part);
    if (outcome.reply.length === abortAfter) {
      client.abort();
    }
  }
}

function answer(outcome) {
  process.stdout.write(JSON.stringify({ ...outcome, said: said.splice(0) }) + "\n");
}

answer({ reply: methodsOf(client), error: null });
for await (const line of createInterface({ input: process.stdin })) {
  const outcome = { reply: null, error: null };
  try {
    await call(JSON.parse(line), outcome);
  } catch (error) {
    outcome.error = { name: error.name, message: error.message, status: error.status_code ?? null };
  }
  answer(outcome);
}
