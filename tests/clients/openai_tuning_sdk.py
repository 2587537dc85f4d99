"""OpenAI's Python SDK: files and fine-tuning jobs, up to a cancelled one."""

import json
import time

import openai
from checks import DIRECT, model, raises, run

client = openai.OpenAI(base_url=DIRECT + "/v1", api_key="none", max_retries=0, timeout=100)
MODEL = model(DIRECT)
LINE = {"messages": [{"role": "user", "content": "What is the capital of Zembla?"},
                     {"role": "assistant", "content": "Onhava."}]}
DATA = (json.dumps(LINE) + "\n").encode() * 4
made = {}


def files():
    f = client.files.create(file=("facts.jsonl", DATA), purpose="fine-tune")
    assert f.object == "file" and f.bytes == len(DATA) and f.filename == "facts.jsonl" and f.status == "processed", f
    assert client.files.retrieve(f.id) == f
    assert client.files.content(f.id).read() == DATA
    assert f.id in [x.id for x in client.files.list(purpose="fine-tune")]
    other = client.files.create(file=("other.jsonl", DATA), purpose="fine-tune")
    assert [x.id for x in client.files.list(limit=1)][:1] and len(list(client.files.list(limit=1))) >= 2
    assert client.files.delete(other.id).deleted
    assert raises(openai.NotFoundError, lambda: client.files.retrieve(other.id)).param == "file_id"
    made["file"] = f.id


def a_bad_line_is_named():
    f = client.files.create(file=("bad.jsonl", DATA + b'{"messages": []}\n'), purpose="fine-tune")
    e = raises(openai.BadRequestError, lambda: client.fine_tuning.jobs.create(model=MODEL, training_file=f.id))
    assert "line 5" in e.message and e.param == "training_file", e


def a_job_is_made():
    job = client.fine_tuning.jobs.create(
        model=MODEL, training_file=made["file"], suffix="zembla", seed=3, metadata={"who": "sdk"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1000, "batch_size": 1}}})
    assert job.object == "fine_tuning.job" and job.status in ("queued", "running") and job.seed == 3, job
    assert job.training_file == made["file"] and job.metadata == {"who": "sdk"} and job.model == MODEL, job
    assert job.method.supervised.hyperparameters.n_epochs == 1000, job
    assert client.fine_tuning.jobs.retrieve(job.id).id == job.id
    assert job.id in [j.id for j in client.fine_tuning.jobs.list(limit=1)]
    made["job"] = job.id


def its_events_are_told():
    events = list(client.fine_tuning.jobs.list_events(made["job"], limit=1))
    assert events and all(e.object == "fine_tuning.job.event" and e.level == "info" for e in events), events
    assert sorted((e.id for e in events), key=lambda i: -int(i.split("-")[1])) == [e.id for e in events], events
    assert list(client.fine_tuning.jobs.checkpoints.list(made["job"])) == []


def it_is_cancelled():
    assert client.fine_tuning.jobs.cancel(made["job"]).status in ("running", "cancelled")
    while (job := client.fine_tuning.jobs.retrieve(made["job"])).status == "running":
        time.sleep(0.2)
    assert job.status == "cancelled" and job.fine_tuned_model is None and job.finished_at, job
    raises(openai.BadRequestError, lambda: client.fine_tuning.jobs.cancel(made["job"]))
    assert raises(openai.NotFoundError, lambda: client.fine_tuning.jobs.retrieve("ftjob-none"))
    client.files.delete(made["file"])


run("openai_tuning_sdk", [files, a_bad_line_is_named, a_job_is_made, its_events_are_told, it_is_cancelled])
