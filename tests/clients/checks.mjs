// A client's table of checks: functions without arguments whose names say what they show.
import process from "node:process";

export const REAL = process.env.CLIENT_REAL ?? "";
export const SCRIPTED = process.env.CLIENT_SCRIPTED ?? "";
export const DIRECT = process.env.CLIENT_DIRECT_REAL ?? "";
const SECONDS = 120; // one check

function late() {
    return new Promise((_, reject) =>
        setTimeout(() => reject(new Error(`no end after ${SECONDS} s`)), SECONDS * 1000).unref());
}

export async function run(client, checks) {
    const failed = [];
    for (const check of checks) {
        try {
            await Promise.race([check(), late()]);
            console.log(`ok     ${client}: ${check.name}`);
        } catch (e) {
            failed.push(check.name);
            console.log(`FAILED ${client}: ${check.name}\n${e.stack ?? e}`);
        }
    }
    if (failed.length > 0)
        console.error(`${client}: failed: ${failed.join(", ")}`);
    process.exit(failed.length > 0 ? 1 : 0);
}

export function equal(got, expected) {
    const [a, b] = [JSON.stringify(got), JSON.stringify(expected)];
    if (a !== b)
        throw new Error(`got ${a}, expected ${b}`);
}

export function ok(condition, what) {
    if (!condition)
        throw new Error(JSON.stringify(what) ?? "not true");
}

export async function model(base) {
    return (await (await fetch(`${base}/v1/models`)).json()).data[0].id;
}

// The error of a promise that has to be rejected.
export async function raises(kind, promise) {
    try {
        await promise;
    } catch (e) {
        ok(e instanceof kind, `${e.name}: ${e.message}`);
        return e;
    }
    throw new Error(`${kind.name} was not thrown`);
}

// After a client left: the server works for nobody.
export async function idle(base = DIRECT) {
    for (let i = 0; i < 200; i++) {
        const status = await (await fetch(`${base}/v1/tandem/status`)).json();
        if (status.requests.length === 0)
            return;
        await new Promise((done) => setTimeout(done, 50));
    }
    throw new Error("still at work");
}
