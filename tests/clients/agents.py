"""agents.py FOLDER [AGENT...]: runs each agent installed in FOLDER with one task, headless.

The engine is scripted. To the task it answers with a call of the agent's own shell tool, whose output nobody
could know without running it; to that output, with a final text. So the file it writes, the output in a later
request and the text that the agent prints show the whole way there and back. Where the machine permits it
this runs in a network namespace that has loopback alone.
"""

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import e2e
import loopback
import record
import serve

TASK = "Count the herons in the harbour."
COMMAND = "echo $((6 * 7)) herons | tee seen.txt"
OUTPUT, ANSWER = "42 herons", "There were exactly forty-two of them."
MODEL = "fake"
SECONDS = 240


def rule(tool, **arguments):
    call = {"name": tool, "arguments": arguments}
    return {"tool": tool, "answer": "<tool>%s</tool>" % json.dumps(call)}


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


def codex(base, home, work):
    write(home + "/.codex/config.toml", """
model = "%s"
model_provider = "tandem"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false

[model_providers.tandem]
name = "tandem"
base_url = "%s/v1"
wire_api = "responses"

[analytics]
enabled = false
""" % (MODEL, base))
    return ["codex", "exec", "--skip-git-repo-check", TASK], {}


def opencode(base, home, work):
    provider = {"npm": "@ai-sdk/openai-compatible", "name": "tandem",
                "options": {"baseURL": base + "/v1", "apiKey": "none"}, "models": {MODEL: {"name": MODEL}}}
    write(work + "/opencode.json", json.dumps({
        "provider": {"tandem": provider}, "model": "tandem/" + MODEL, "small_model": "tandem/" + MODEL,
        "autoupdate": False, "share": "disabled"}))
    return ["opencode", "run", "--auto", TASK], {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"}


def claude(base, home, work):
    return ["claude", "-p", TASK, "--model", MODEL, "--allowedTools", "Bash"], {
        "ANTHROPIC_BASE_URL": base, "ANTHROPIC_AUTH_TOKEN": "none", "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}


def cline(base, home, work):
    return ["sh", "-c", "cline auth -p openai -k none -b '%s/v1' -m %s && cline -P openai -m %s '%s'" % (
        base, MODEL, MODEL, TASK)], {}


# Name: how it is started, the rules for its shell tool.
AGENTS = {
    "codex": (codex, [rule("shell", command=["bash", "-c", COMMAND]), rule("shell_command", command=COMMAND),
                      rule("exec_command", cmd=COMMAND)]),
    "opencode": (opencode, [rule("bash", command=COMMAND, description="Counts herons")]),
    "claude": (claude, [rule("Bash", command=COMMAND, description="Counts herons")]),
    "cline": (cline, [rule("execute_command", command=COMMAND, requires_approval=False),
                      rule("run_commands", commands=[COMMAND]), rule("bash", command=COMMAND)]),
}


def script(rules):
    path = os.path.join(e2e.DIR, "script.json")
    last = [{"contains": OUTPUT, "answer": ANSWER}] + rules + [{"answer": "Herons."}]
    write(path, json.dumps(last))
    return path


def leftovers_end(place):
    """Some leave a process of theirs in the background."""
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as f:
                if place.encode() in f.read():
                    os.kill(int(path.split("/")[2]), signal.SIGKILL)
        except OSError:  # it is gone already
            pass


def run(name, folder):
    make, rules = AGENTS[name]
    place = tempfile.mkdtemp(prefix=name + "-", dir=e2e.DIR)
    home, work, records = place + "/home", place + "/work", place + "/records"
    os.mkdir(home)
    os.mkdir(work)
    server = serve.start("scripted", script(rules))
    recorder = record.Recorder(server.port, records)
    command, more = make(recorder.url, home, work)
    env = {"HOME": home, "PATH": "%s/node_modules/.bin:%s" % (folder, os.environ["PATH"]), "TERM": "dumb",
           "LANG": "C.UTF-8", "PWD": work, "NO_COLOR": "1", **more}
    begun = time.monotonic()
    try:
        p = subprocess.run(command, cwd=work, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                           timeout=SECONDS)
    finally:
        leftovers_end(place)
    said = "%s\nexit %d\n%s\n%s" % (" ".join(command), p.returncode, p.stdout[-3000:], p.stderr[-3000:])
    if os.environ.get("AGENT_KEEP"):
        shutil.copytree(place, os.environ["AGENT_KEEP"] + "/" + name, dirs_exist_ok=True, ignore_dangling_symlinks=True)
        write(os.environ["AGENT_KEEP"] + "/" + name + "/said", said)
        shutil.copy(server.log, os.environ["AGENT_KEEP"] + "/" + name + "/log")
    asked = [r for r in record.exchanges(records) if r["method"] == "POST"]
    refused = [(r["path"], r["status"], r["body"][:300]) for r in asked if r["status"] >= 400]
    with_output = [i for i, r in enumerate(asked) if OUTPUT in r["request"]]
    e2e.check(os.path.exists(work + "/seen.txt"), name, "did not run the tool:", refused, said)
    with open(work + "/seen.txt") as f:
        e2e.check(f.read().strip() == OUTPUT, "the file is not right")
    e2e.check(with_output and with_output[0] > 0, name, "sent no output back:", said)
    e2e.check(ANSWER in p.stdout, name, "did not print the answer:", said)
    e2e.check(p.returncode == 0, name, said)
    server.stop()
    checked = serve.replies_check(records)
    print("ok     %s: a tool call there and back, %d requests to %s, %d replies as the schemas say, %.0f s" % (
        name, len(asked), " ".join(sorted({r["path"].split("?")[0] for r in asked})), checked, time.monotonic() - begun),
          flush=True)


def main(folder, *names):
    loopback.up()
    print("in a network namespace with loopback alone" if loopback.alone() else "with the network of this machine")
    failed = []
    for name in names or AGENTS:
        try:
            run(name, folder)
        except (AssertionError, subprocess.TimeoutExpired) as e:
            failed.append(name)
            print("FAILED %s\n%s" % (name, e), flush=True)
    sys.exit("failed: " + " ".join(failed) if failed else 0)


main(*sys.argv[1:])
