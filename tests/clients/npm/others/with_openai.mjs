// openai, the official SDK.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import {
  AGENT, ANSWER, CALL, CALLER, CHAT_MODEL, EMBEDDING_MODEL, HI, I_WON, Mood, PLACE, SAID, SAY, WEATHER_TOLD,
  caught, collected, run, servers,
} from "./checks.mjs";

const client = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0 });
const real = client(servers.real);
const scripted = client(servers.scripted);

const SHORT = { model: CHAT_MODEL, messages: HI, temperature: 0, max_completion_tokens: 8 };
const TALK = { model: AGENT, messages: [{ role: "user", content: SAY }] };
const SAY_A_CALL = [{ role: "user", content: CALL }];
const TOOLS = [{ type: "function", function: { name: "get_weather", description: "The weather", parameters: PLACE } }];

function checkCall(call) {
  assert.equal(call.function.name, "get_weather");
  assert.deepEqual(JSON.parse(call.function.arguments), { city: "Oslo" });
}

run({
  async chat() {
    const reply = await real.chat.completions.create(SHORT);
    assert(reply.choices[0].message.content);
    assert(["stop", "length"].includes(reply.choices[0].finish_reason));
    assert(reply.usage.completion_tokens <= 8);
  },

  async stream() {
    const request = { ...TALK, stream: true, stream_options: { include_usage: true } };
    const parts = await collected(await scripted.chat.completions.create(request));
    const last = parts.pop();
    assert(parts.length > 2);
    assert.equal(parts.map((part) => part.choices[0].delta.content ?? "").join(""), SAID);
    assert.equal(parts.at(-1).choices[0].finish_reason, "stop");
    assert.equal(last.usage.completion_tokens, 3);
  },

  async stream_helper() {
    const deltas = [];
    const stream = scripted.chat.completions.stream(TALK).on("content", (delta) => deltas.push(delta));
    assert.equal(await stream.finalContent(), SAID);
    assert(deltas.length > 1);
  },

  async tool() {
    const reply = await scripted.chat.completions.create({ model: AGENT, messages: SAY_A_CALL, tools: TOOLS });
    const [{ message, finish_reason }] = reply.choices;
    assert.equal(finish_reason, "tool_calls");
    checkCall(message.tool_calls[0]);
    const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: WEATHER_TOLD };
    const messages = [...SAY_A_CALL, message, result];
    const answer = await scripted.chat.completions.create({ model: AGENT, messages, tools: TOOLS });
    assert.equal(answer.choices[0].message.content, `${ANSWER}get_weather`);
  },

  async tool_in_a_stream() {
    const stream = scripted.chat.completions.stream({ model: AGENT, messages: SAY_A_CALL, tools: TOOLS });
    const reply = await stream.finalChatCompletion();
    assert.equal(reply.choices[0].finish_reason, "tool_calls");
    checkCall(reply.choices[0].message.tool_calls[0]);
  },

  async tool_that_runs_by_itself() {
    const given = [];
    const tool = {
      type: "function",
      function: {
        name: "get_weather",
        description: "The weather",
        parameters: PLACE,
        parse: JSON.parse,
        function: (place) => given.push(place) && WEATHER_TOLD,
      },
    };
    const runner = scripted.chat.completions.runTools({ model: AGENT, messages: SAY_A_CALL, tools: [tool] });
    assert.equal(await runner.finalContent(), `${ANSWER}get_weather`);
    assert.deepEqual(given, [{ city: "Oslo" }]);
  },

  async tool_that_must_be_called() {
    for (const tool_choice of ["required", { type: "function", function: { name: "get_weather" } }]) {
      const request = { model: CALLER, messages: HI, tools: TOOLS, tool_choice, parallel_tool_calls: false };
      const reply = await real.chat.completions.create({ ...request, temperature: 0 });
      const [call] = reply.choices[0].message.tool_calls;
      assert(["Oslo", "Rome"].includes(JSON.parse(call.function.arguments).city));
    }
  },

  async schema() {
    const request = { model: CHAT_MODEL, messages: I_WON, response_format: zodResponseFormat(Mood, "mood") };
    const reply = await real.chat.completions.parse({ ...request, temperature: 0 });
    Mood.parse(reply.choices[0].message.parsed);
  },

  async embedding() {
    // As base64, unless asked for numbers: the client reads it.
    const reply = await real.embeddings.create({ model: EMBEDDING_MODEL, input: ["One", "Two"] });
    assert.deepEqual(reply.data.map((row) => row.embedding.length), [384, 384]);
    assert(reply.data[0].embedding.every((number) => Math.abs(number) <= 1));
  },

  async models() {
    assert((await collected(real.models.list())).some((model) => model.id.startsWith(CHAT_MODEL)));
    assert.equal((await real.models.retrieve(CHAT_MODEL)).id, CHAT_MODEL);
  },

  async error() {
    const request = { ...SHORT, model: "nope" };
    const error = await caught(OpenAI.NotFoundError, () => real.chat.completions.create(request));
    assert.equal(error.error.message, "model 'nope' not found");
    assert.equal(error.type, "not_found_error");
  },

  async error_in_a_stream() {
    const messages = [{ role: "user", content: "break:2" }];
    const stream = await scripted.chat.completions.create({ model: AGENT, messages, stream: true });
    const error = await caught(OpenAI.APIError, () => collected(stream));
    assert(error.message.includes("broke as told"));
  },
});
