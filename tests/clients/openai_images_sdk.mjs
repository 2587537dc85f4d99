// OpenAI's JavaScript SDK: pictures, in answers and streams, by url, edited; errors, leaving.
import OpenAI, { toFile } from "openai";
import { SCRIPTED, equal, ok, raises, run } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${SCRIPTED}/v1`, apiKey: "none", maxRetries: 0, timeout: 100000 });
// Without the recorder, which would notice late that a client left.
const direct = client.withOptions({ baseURL: `${process.env.CLIENT_DIRECT_SCRIPTED}/v1` });
const bytes = (text) => Buffer.from(text, "base64");
const isPng = (data) => data.subarray(1, 4).toString() === "PNG";
let first;

async function generate() {
    const a = await client.images.generate({ model: "fake:5", prompt: "a red circle", n: 2, size: "64x64", seed: 7 });
    equal(a.data.length, 2);
    ok(a.data.every((d) => isPng(bytes(d.b64_json))), "no PNG");
    equal([a.size, a.quality, a.background, a.output_format], ["64x64", "medium", "opaque", "png"]);
    first = bytes(a.data[0].b64_json);
    const b = await client.images.generate({ prompt: "a red circle", seed: 8 });
    equal(b.data[0].b64_json, a.data[1].b64_json);
}

async function byUrl() {
    const a = await client.images.generate({ prompt: "x", response_format: "url", output_format: "webp" });
    const answer = await fetch(SCRIPTED + a.data[0].url.slice(a.data[0].url.indexOf("/v1/")));
    equal([answer.status, answer.headers.get("content-type")], [200, "image/webp"]);
}

async function streamed() {
    const events = [];
    for await (const e of await client.images.generate({ prompt: "x", stream: true, partial_images: 1 }))
        events.push(e);
    equal(events.map((e) => e.type), ["image_generation.partial_image", "image_generation.completed"]);
    ok(isPng(bytes(events[1].b64_json)) && events[1].usage.total_tokens === 0, events[1]);
}

async function edited() {
    const image = await toFile(first, "a.png", { type: "image/png" });
    const a = await client.images.edit({ image, prompt: "a blue circle" });
    ok(isPng(bytes(a.data[0].b64_json)) && a.size === "64x64", a.size);
}

async function errors() {
    let e = await raises(OpenAI.BadRequestError, client.images.generate({ prompt: "x", size: "9999x9999" }));
    equal([e.param, e.type], ["size", "invalid_request_error"]);
    e = await raises(OpenAI.NotFoundError, client.images.generate({ prompt: "x", model: "dall-e-3" }));
    equal(e.code, "model_not_found");
    e = await raises(OpenAI.InternalServerError, client.images.generate({ prompt: "crash" }));
    ok(e.message.includes("ask once more"), e.message);
}

async function leaving() {
    const s = await direct.images.generate({ prompt: "x", n: 10, steps: 150, partial_images: 3, stream: true });
    for await (const _ of s)
        break; // closes the connection
    const a = await direct.images.generate({ prompt: "x" }); // waits for 1500 steps otherwise
    equal(a.data.length, 1);
}

await run("openai images, JavaScript", [generate, byUrl, streamed, edited, errors, leaving]);
