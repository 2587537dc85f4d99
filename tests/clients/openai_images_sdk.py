"""OpenAI's Python SDK: pictures, in answers and streams, by url, edited; errors, leaving, a full queue."""

import base64
import io
import json
import os
import time
import urllib.request

import openai
from checks import SCRIPTED, picture, raises, run

client = openai.OpenAI(base_url=SCRIPTED + "/v1", api_key="none", max_retries=0, timeout=100)
# Without the recorder, which would not notice that a client left.
direct = client.with_options(base_url=os.environ["CLIENT_DIRECT_SCRIPTED"] + "/v1")
RED = base64.b64decode(picture(255, 0, 0))


def png(data):
    return data[:8] == b"\x89PNG\r\n\x1a\n"


def generate():
    a = client.images.generate(model="fake:5", prompt="a red circle", n=2, size="64x64", quality="low", user="u",
                               extra_body={"seed": 7})
    files = [base64.b64decode(d.b64_json) for d in a.data]
    assert len(files) == 2 and all(map(png, files)) and files[0] != files[1], a
    assert a.size == "64x64" and a.quality == "low" and a.background == "opaque" and a.output_format == "png", a
    assert a.created > 0 and a.usage.total_tokens == 0, a
    b = client.images.generate(prompt="a red circle", extra_body={"seed": 8}, quality="low")
    assert base64.b64decode(b.data[0].b64_json) == files[1], "the same seed, the same file"


def by_url():
    a = client.images.generate(prompt="x", response_format="url", output_format="jpeg", output_compression=70)
    url = a.data[0].url
    with urllib.request.urlopen(SCRIPTED + url[url.index("/v1/"):]) as r:
        assert r.headers["Content-Type"] == "image/jpeg" and r.read(2) == b"\xff\xd8"


def streamed():
    events = list(client.images.generate(prompt="x", stream=True, partial_images=2))
    assert [e.type.split(".")[1] for e in events] == ["partial_image", "partial_image", "completed"], events
    assert [e.partial_image_index for e in events[:2]] == [0, 1], events
    assert png(base64.b64decode(events[-1].b64_json)) and events[-1].usage.total_tokens == 0, events[-1]
    assert events[-1].size == "64x64" and events[-1].created_at > 0, events[-1]


def edited():
    a = client.images.edit(image=("a.png", RED, "image/png"), prompt="a blue circle", n=1,
                           mask=io.BytesIO(RED), extra_body={"seed": 3, "strength": 0.5})
    assert png(base64.b64decode(a.data[0].b64_json)) and a.size == "32x32", a.size
    kinds = [e.type for e in client.images.edit(image=RED, prompt="x", stream=True)]
    assert kinds == ["image_edit.completed"], kinds


def listed():
    m = client.models.retrieve("fake:5")
    assert m.meta["kind"] == "image" and m.id in [x.id for x in client.models.list()], m


def errors():
    for more, param in (({"size": "1x1"}, "size"), ({"n": 11}, "n"), ({"prompt": "a\x01"}, "prompt"),
                        ({"prompt": "x" * 1000000}, "prompt"), ({"background": "transparent"}, "background"),
                        ({"prompt": "<lora:../../x:1>"}, "prompt")):
        e = raises(openai.BadRequestError, lambda: client.images.generate(**{"prompt": "x", **more}))
        assert e.param == param and e.type == "invalid_request_error", e
    e = raises(openai.NotFoundError, lambda: client.images.generate(prompt="x", model="dall-e-3"))
    assert e.code == "model_not_found" and "fake:5" in e.message, e
    e = raises(openai.BadRequestError, lambda: client.images.edit(image=b"no picture", prompt="x"))
    assert e.param == "image", e
    e = raises(openai.InternalServerError, lambda: client.images.generate(prompt="crash"))
    assert "ask once more" in e.message, e
    assert client.images.generate(prompt="x").data
    e = raises(openai.APIError, lambda: list(client.images.generate(prompt="fail", stream=True)))
    assert "it fails" in e.message, e


def running():
    with urllib.request.urlopen(os.environ["CLIENT_DIRECT_SCRIPTED"] + "/v1/tandem/status") as r:
        return json.load(r)["images"]["requests"]


def a_full_queue_says_when_to_come_back():
    # A stream begins when its request is taken: one is drawn, one waits.
    two = [direct.images.generate(prompt="x", n=10, stream=True, extra_body={"steps": 150}) for _ in range(2)]
    e = raises(openai.RateLimitError, lambda: direct.images.generate(prompt="x"))
    assert int(e.response.headers["Retry-After"]) >= 1 and "--image-queue" in e.message, e
    for stream in two:
        stream.close()
    while running() > 0:  # they left
        time.sleep(0.02)
    assert direct.images.generate(prompt="x").data


run("openai images, Python", [generate, by_url, streamed, edited, listed, errors, a_full_queue_says_when_to_come_back])
