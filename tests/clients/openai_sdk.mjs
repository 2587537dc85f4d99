// OpenAI's JavaScript SDK: chat, streams, tools, structured output, responses, embeddings, errors, leaving.
import OpenAI from "openai";
import { DIRECT, REAL, SCRIPTED, equal, idle, model, ok, raises, run } from "./checks.mjs";

const client = (base) => new OpenAI({ baseURL: `${base}/v1`, apiKey: "none", maxRetries: 0, timeout: 100000 });
const real = client(REAL), fixed = client(SCRIPTED);
const MODEL = await model(REAL), FIXED = await model(SCRIPTED);
const messages = [{ role: "user", content: "Say hi." }];
const weather = [{ role: "user", content: "What is the weather in Oslo?" }];
const short = { model: MODEL, messages, max_tokens: 12, temperature: 0 };
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "get_weather", description: "of a city", parameters } }];
const fruit = {
    type: "object",
    properties: { fruit: { type: "boolean" }, colour: { enum: ["red", "green"] } },
    required: ["fruit", "colour"],
    additionalProperties: false,
};

async function chat() {
    const a = await real.chat.completions.create(short);
    ok(a.choices[0].message.content && a.usage.completion_tokens > 0, a);
}

async function streamEqualsWhole() {
    let text = "";
    for await (const chunk of await real.chat.completions.create({ ...short, stream: true }))
        text += chunk.choices[0]?.delta.content ?? "";
    equal(text, (await real.chat.completions.create(short)).choices[0].message.content);
}

async function streamHelper() {
    const s = real.chat.completions.stream(short);
    ok((await s.finalContent()).length > 0, "no text");
}

async function jsonSchema() {
    const a = await real.chat.completions.create({
        ...short, max_tokens: 60,
        response_format: { type: "json_schema", json_schema: { name: "fruit", strict: true, schema: fruit } },
    });
    equal(typeof JSON.parse(a.choices[0].message.content).fruit, "boolean");
}

async function toolsThereAndBack() {
    const a = await fixed.chat.completions.create({ model: FIXED, messages: weather, tools });
    const call = a.choices[0].message.tool_calls[0];
    equal([call.function.name, JSON.parse(call.function.arguments)], ["get_weather", { city: "Oslo" }]);
    const turn = [...weather, a.choices[0].message, { role: "tool", tool_call_id: call.id, content: "21 degrees" }];
    const b = await fixed.chat.completions.create({ model: FIXED, messages: turn, tools });
    equal(b.choices[0].message.content, "It is 21 degrees in Oslo.");
}

async function toolRunner() {
    const runner = fixed.chat.completions.runTools({
        model: FIXED, messages: weather,
        tools: [{ type: "function", function: { ...tools[0].function, parse: JSON.parse,
                                                function: ({ city }) => `${city}: 21 degrees` } }],
    });
    equal(await runner.finalContent(), "It is 21 degrees in Oslo.");
}

async function responses() {
    const a = await real.responses.create({ model: MODEL, input: "Say hi.", max_output_tokens: 16, temperature: 0 });
    ok(a.output_text && a.usage.output_tokens > 0, a);
}

async function responsesStream() {
    const kinds = [];
    let text = "", last;
    const ask = { model: MODEL, input: "Say hi.", max_output_tokens: 16, temperature: 0, stream: true };
    for await (const e of await real.responses.create(ask)) {
        kinds.push(e.type);
        text += e.type === "response.output_text.delta" ? e.delta : "";
        last = e;
    }
    equal(kinds.slice(0, 2), ["response.created", "response.in_progress"]);
    ok(["response.completed", "response.incomplete"].includes(last.type), kinds);
    equal(last.response.output[0].content[0].text, text);
}

async function embeddings() {
    const a = await real.embeddings.create({ model: MODEL, input: ["a cat", "a dog"] });
    equal(a.data.length, 2);
    ok(Math.abs(a.data[0].embedding.reduce((sum, x) => sum + x * x, 0) - 1) < 1e-3, "not of length one");
}

async function errors() {
    const ask = (more) => real.chat.completions.create({ ...short, ...more });
    let e = await raises(OpenAI.NotFoundError, ask({ model: "no-such-model" }));
    equal(e.code, "model_not_found");
    e = await raises(OpenAI.BadRequestError, ask({ temperature: -4 }));
    equal([e.param, e.type], ["temperature", "invalid_request_error"]);
    e = await raises(OpenAI.BadRequestError, ask({ messages: [{ role: "user", content: "word ".repeat(9000) }] }));
    equal(e.code, "context_length_exceeded");
}

async function leavingEndsTheWork() {
    const leave = new AbortController();
    const s = await client(DIRECT).chat.completions.create(
        { ...short, max_tokens: 3000, stream: true, ignore_eos: true }, { signal: leave.signal });
    for await (const _ of s) {
        leave.abort();
        break;
    }
    await idle();
}

await run("openai, JavaScript", [chat, streamEqualsWhole, streamHelper, jsonSchema, toolsThereAndBack, toolRunner,
    responses, responsesStream, embeddings, errors, leavingEndsTheWork]);
