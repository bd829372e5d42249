// Runs the checks of one library and tells how each went, one JSON line each; what both libraries are asked.
import assert from "node:assert/strict";
import { z } from "zod";

const [real, scripted] = process.argv.slice(2);
export const servers = { real, scripted };

export const CHAT_MODEL = "smollm2";
// The same model, with a template that takes tools: it calls one if it must.
export const CALLER = "caller";
export const EMBEDDING_MODEL = "embedder";
// On the scripted server: its engine says what the last message tells it to.
export const AGENT = "agent";

export const HI = [{ role: "user", content: "Hi" }];
export const I_WON = [{ role: "user", content: "I won!" }];
// Makes the agent answer, in three tokens.
export const SAY = "say:All |is |well.";
export const SAID = "All is well.";
// Makes the agent call a tool.
export const CALL = `say:<tool_call>|{"name": "get_weather", |"arguments": {"city": "Oslo"}}|</tool_call>`;
// What the tool returns makes the agent say this, and then the tool's name, if the client told it.
export const WEATHER_TOLD = "say:rain, |says ";
export const ANSWER = "rain, says ";

export const Mood = z.object({ mood: z.enum(["happy", "sad"]) });
export const Place = z.object({ city: z.enum(["Oslo", "Rome"]) });
export const PLACE = {
  type: "object",
  properties: { city: { type: "string", enum: ["Oslo", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};

export async function collected(stream) {
  const parts = [];
  for await (const part of stream) {
    parts.push(part);
  }
  return parts;
}

// What a call throws, which must be of a class.
export async function caught(kind, call) {
  try {
    await call();
  } catch (error) {
    assert(error instanceof kind, error);
    return error;
  }
  return assert.fail(`no ${kind.name}`);
}

export async function run(checks) {
  const write = process.stdout.write.bind(process.stdout);
  process.stdout.write = process.stderr.write.bind(process.stderr); // some libraries talk
  for (const [check, function_] of Object.entries(checks)) {
    let failure = null;
    try {
      await function_();
    } catch (error) {
      failure = error.stack;
    }
    write(JSON.stringify({ check, failure }) + "\n");
  }
}
