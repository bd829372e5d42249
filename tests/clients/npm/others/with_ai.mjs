// Vercel's ai, with @ai-sdk/openai-compatible and with ollama-ai-provider-v2 (the native API).
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embedMany, generateText, stepCountIs, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import {
  AGENT, ANSWER, CALL, CALLER, CHAT_MODEL, EMBEDDING_MODEL, Mood, Place, SAID, SAY, WEATHER_TOLD,
  caught, collected, run, servers,
} from "./checks.mjs";

const compatible = (url) =>
  createOpenAICompatible({ name: "power", baseURL: `${url}/v1`, includeUsage: true, supportsStructuredOutputs: true });
const native = (url) => createOllama({ baseURL: `${url}/api` });

const OPENAI = {
  chat: (url, name) => compatible(url).chatModel(name),
  embedding: (url, name) => compatible(url).textEmbeddingModel(name),
  short: { temperature: 0, maxOutputTokens: 8 },
  answer: `${ANSWER}get_weather`,
};
// It sends what `ai` knows of options where Ollama does not look for them, and does not tell which tool a result is of.
const NATIVE = {
  chat: (url, name) => native(url)(name),
  embedding: (url, name) => native(url).textEmbeddingModel(name),
  short: { providerOptions: { ollama: { options: { temperature: 0, num_predict: 8 } } } },
  answer: ANSWER,
};

// One that is called, and then told about: as many turns as that takes.
function withTool(given) {
  const execute = (place) => given.push(place) && WEATHER_TOLD;
  const get_weather = tool({ description: "The weather", inputSchema: Place, execute });
  return { prompt: CALL, tools: { get_weather }, stopWhen: stepCountIs(3), maxRetries: 0 };
}

const checksOf = ({ chat, embedding, short, answer }) => ({
  async chat() {
    const model = chat(servers.real, CHAT_MODEL);
    const { text, finishReason, usage } = await generateText({ ...short, model, prompt: "Hi", maxRetries: 0 });
    assert(text);
    assert(["stop", "length"].includes(finishReason));
    assert(usage.outputTokens > 0 && usage.outputTokens <= 8);
  },

  async stream() {
    const result = streamText({ model: chat(servers.scripted, AGENT), prompt: SAY, maxRetries: 0 });
    const texts = await collected(result.textStream);
    assert(texts.length > 1);
    assert.equal(texts.join(""), SAID);
    assert.equal((await result.usage).outputTokens, 3);
  },

  async tool() {
    const given = [];
    const { text } = await generateText({ ...withTool(given), model: chat(servers.scripted, AGENT) });
    assert.equal(text, answer);
    assert.deepEqual(given, [{ city: "Oslo" }]);
  },

  async tool_in_a_stream() {
    const given = [];
    const { textStream } = streamText({ ...withTool(given), model: chat(servers.scripted, AGENT) });
    assert.equal((await collected(textStream)).join(""), answer);
    assert.deepEqual(given, [{ city: "Oslo" }]);
  },

  async schema() {
    const model = chat(servers.real, CHAT_MODEL);
    const output = Output.object({ schema: Mood });
    Mood.parse((await generateText({ model, prompt: "I won!", output, maxRetries: 0 })).output);
  },

  async embedding() {
    const model = embedding(servers.real, EMBEDDING_MODEL);
    const { embeddings } = await embedMany({ model, values: ["One", "Two"], maxRetries: 0 });
    assert.deepEqual(embeddings.map((vector) => vector.length), [384, 384]);
  },

  async error() {
    const request = { model: chat(servers.real, "nope"), prompt: "Hi", maxRetries: 0 };
    const error = await caught(APICallError, () => generateText(request));
    assert.equal(error.statusCode, 404);
    assert(error.responseBody.includes("model 'nope' not found"));
  },
});

const named = (route, checks) => Object.entries(checks).map(([check, call]) => [`${route} ${check}`, call]);

async function tool_that_must_be_called() {
  const model = OPENAI.chat(servers.real, CALLER);
  const tools = { get_weather: tool({ description: "The weather", inputSchema: Place }) };
  const request = { model, tools, toolChoice: "required", prompt: "Hi", temperature: 0, maxRetries: 0 };
  const { toolCalls } = await generateText(request);
  Place.parse(toolCalls[0].input);
}

run(
  Object.fromEntries([
    ...named("openai-compatible", { ...checksOf(OPENAI), tool_that_must_be_called }),
    ...named("ollama", checksOf(NATIVE)),
  ]),
);
