"""serve.py [real] [scripted] -- COMMAND...

Starts the servers named, a recorder in front of each, and runs the command (a client's checks) with

  CLIENT_REAL, CLIENT_SCRIPTED   the base addresses, through the recorders
  CLIENT_DIRECT_REAL, ..         the same without a recorder
  CLIENT_RECORDS                 a folder with what was said, real/ and scripted/

Then every reply that was recorded is held against the schemas. `real` is the bench model; `scripted`
a fake engine that says what script.json tells it to, so that tool calls are the same every time.
"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import e2e  # noqa: E402
import record  # noqa: E402
import schema_check  # noqa: E402

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def client_environment():
    """Without proxies, options for tandem, and keys that a client would find by itself."""
    def stays(name):
        return name.lower() not in PROXIES and not name.startswith(("OPENAI_", "ANTHROPIC_", "OLLAMA_", "TANDEM_"))
    return {k: v for k, v in os.environ.items() if stays(k)}


def start(kind, script=os.path.join(HERE, "script.json")):
    if kind == "real":
        e2e.check(e2e.MODEL, "TANDEM_TEST_MODEL names no model; scripts/with-model.sh sets it")
        projector = os.path.join(e2e.DIR, "mmproj.gguf")
        subprocess.run([sys.executable, os.path.join(os.path.dirname(HERE), "projector_make.py"), e2e.MODEL, projector],
                       check=True)
        # One thread: with more, a machine that has other things to do makes each wait for the others.
        return e2e.Program("serve", "-m", e2e.MODEL, "--mmproj", projector, "--listen", "127.0.0.1:0",
                           "--ctx", "8192", "--parallel", "4", "--threads", "1")
    # A byte is a token here and agents send a hundred thousand of them, so a token is kept small.
    return e2e.Program("serve", "-m", "fake:layers=1,kv_bytes=2,script=" + script, "--listen", "127.0.0.1:0",
                       "--ctx", str(1 << 20), "--parallel", "4",
                       "--image-model", "fake:5", "--image-queue", "1")


def replies_check(*folders):
    """Every recorded reply against the schemas; the number checked."""
    wrong = []
    rows = [r for folder in folders for r in record.exchanges(folder)]
    for row in rows:
        wrong += ["%s %s: %s" % (row["method"], row["path"], w) for w in schema_check.exchange_check(row)]
    e2e.check(not wrong, "%d replies are not as the schemas say:\n" % len(wrong) + "\n".join(wrong[:10]))
    return len(rows)


def main(arguments):
    at = arguments.index("--")
    kinds, command = arguments[:at], arguments[at + 1:]
    records = os.path.join(e2e.DIR, "records")
    env = dict(client_environment(), CLIENT_RECORDS=records)
    for kind in kinds:
        server = start(kind)
        env["CLIENT_DIRECT_" + kind.upper()] = "http://127.0.0.1:%d" % server.port
        env["CLIENT_" + kind.upper()] = record.Recorder(server.port, os.path.join(records, kind)).url
    code = subprocess.run(command, env=env, timeout=1000).returncode
    print("%d recorded replies have the shapes of tests/schemas" % replies_check(*(os.path.join(records, k) for k in kinds)))
    for server in e2e.started:
        server.stop()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
