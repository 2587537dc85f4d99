"""Writes a projector for a language model, small enough for a test and made to see three colours.

    projector_make.py MODEL.gguf OUT.gguf [KIND]
    projector_make.py MODEL.gguf OUT.gguf model

No package ships a small model that sees, so this one is made by hand, in the real file format of the real
library: a vision transformer of one layer whose first three features are the mean red, green and blue of a
patch (the rest is noise from a fixed seed), and a projection that maps them to the model's own embeddings of
the words " red", " green" and " blue". A language model to which a patch looks like the word says it.

KIND says how the model looks at the rows: "gemma3" (16 rows, which see each other), "janus_pro" (64 rows, in
order), "qwen2vl_merger" (a row for every 16 x 16 pixels, in two dimensions). The last one needs a language
model that has positions in two dimensions; "model" makes one, of the same weights: the rows of its queries and
keys change places as its other rotation wants them, so that text means to it what it meant before.

Needs nothing but Python."""

import random
import struct
import sys

COLOURS = ["red", "green", "blue"]
SIDE, PATCH, WIDTH, LAYERS, EPS = 64, 8, 32, 1, 1e-5
U32, F32, BOOL, TEXT, ARRAY = 4, 6, 7, 8, 9
TYPE_F32, TYPE_F16, TYPE_Q8_0 = 0, 1, 8
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
ALIGN = 32


class Reader:
    """As much of a GGUF file as is needed to find one tensor and the vocabulary."""

    def __init__(self, path):
        self.f = open(path, "rb")
        magic, _, n_tensors, n_keys = struct.unpack("<4sIQQ", self.f.read(24))
        if magic != b"GGUF":
            raise SystemExit(f"'{path}' is not a GGUF file")
        self.keys, self.raw = {}, []
        for _ in range(n_keys):
            name = self.text()
            (kind,) = struct.unpack("<I", self.f.read(4))
            at = self.f.tell()
            self.keys[name] = self.value(kind)
            end = self.f.tell()
            self.f.seek(at)
            self.raw.append((name, kind, self.f.read(end - at)))
        self.tensors = {}
        for _ in range(n_tensors):
            name = self.text()
            (n,) = struct.unpack("<I", self.f.read(4))
            shape = struct.unpack(f"<{n}Q", self.f.read(8 * n))
            self.tensors[name] = (shape, *struct.unpack("<IQ", self.f.read(12)))
        self.data = -(-self.f.tell() // ALIGN) * ALIGN

    def text(self):
        (n,) = struct.unpack("<Q", self.f.read(8))
        return self.f.read(n).decode("utf-8", "replace")

    def value(self, kind):
        if kind == TEXT:
            return self.text()
        if kind == ARRAY:
            kind, n = struct.unpack("<IQ", self.f.read(12))
            return [self.value(kind) for _ in range(n)]
        return self.f.read(SIZES[kind])

    def embedding(self, token):
        shape, kind, at = self.tensors["token_embd.weight"]
        width = shape[0]
        if kind != TYPE_Q8_0:
            raise SystemExit(f"embeddings of type {kind}; Q8_0 is what this script reads")
        block = struct.Struct("<e32b")
        self.f.seek(self.data + at + token * (width // 32) * block.size)
        row = []
        for _ in range(width // 32):
            scale, *values = block.unpack(self.f.read(block.size))
            row += [scale * v for v in values]
        return row


class Writer:
    def __init__(self):
        self.keys, self.tensors = [], []

    def key(self, name, kind, value):
        self.keys.append((name, kind, value))

    def tensor(self, name, shape, values, kind=TYPE_F32):
        self.tensors.append((name, shape, kind, struct.pack(f"<{len(values)}{'fe'[kind]}", *values)))

    def write(self, path):
        out = struct.pack("<4sIQQ", b"GGUF", 3, len(self.tensors), len(self.keys))
        for name, kind, value in self.keys:
            out += text(name) + struct.pack("<I", kind) + packed(kind, value)
        at = 0
        for name, shape, kind, data in self.tensors:
            out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at)
            at += padded(len(data))
        out = out.ljust(padded(len(out)), b"\0")
        for *_, data in self.tensors:
            out += data.ljust(padded(len(data)), b"\0")
        with open(path, "wb") as f:
            f.write(out)


MROPE_ARCH, SECTIONS = "qwen2vl", [16, 8, 8, 0]


def rows_turned(rows, heads):
    """Pairs of neighbours, as llama's rotation has them, become pairs that are half a head apart."""
    n = len(rows) // heads
    return [rows[h * n + i] for h in range(heads) for i in [*range(0, n, 2), *range(1, n, 2)]]


def model_write(base, path):
    arch = base.keys["general.architecture"]
    count = {kind: struct.unpack("<I", base.keys[f"{arch}.attention.head_count{kind}"])[0] for kind in ["", "_kv"]}
    out = struct.pack("<4sIQQ", b"GGUF", 3, len(base.tensors), len(base.raw) + 1)
    for name, kind, value in base.raw:
        if name == "general.architecture":
            value = text(MROPE_ARCH)
        out += text(name.replace(arch + ".", MROPE_ARCH + ".", 1)) + struct.pack("<I", kind) + value
    out += text(MROPE_ARCH + ".rope.dimension_sections") + struct.pack("<IIQ4i", ARRAY, 5, 4, *SECTIONS)
    for name, (shape, kind, at) in base.tensors.items():
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at)
    base.f.seek(base.data)
    data = bytearray(base.f.read())
    starts = sorted(at for _, _, at in base.tensors.values()) + [len(data)]
    for name, (shape, _, at) in base.tensors.items():
        if not name.endswith(("attn_q.weight", "attn_k.weight")):
            continue
        heads = count["_kv" if name.endswith("k.weight") else ""]
        width = (starts[starts.index(at) + 1] - at) // shape[1]
        rows = rows_turned([data[at + i * width : at + (i + 1) * width] for i in range(shape[1])], heads)
        data[at : at + len(rows) * width] = b"".join(rows)
    with open(path, "wb") as f:
        f.write(out.ljust(padded(len(out)), b"\0"))
        f.write(data)


def padded(n):
    return -(-n // ALIGN) * ALIGN


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def packed(kind, value):
    if kind == TEXT:
        return text(value)
    if kind == ARRAY:
        return struct.pack(f"<IQ{len(value)}f", F32, len(value), *value)
    return struct.pack({U32: "<I", F32: "<f", BOOL: "<?"}[kind], value)


def head_write(w, kind):
    w.key("general.architecture", TEXT, "clip")
    w.key("general.name", TEXT, "three colours")
    w.key("clip.has_vision_encoder", BOOL, True)
    w.key("clip.projector_type", TEXT, kind)
    w.key("clip.use_gelu", BOOL, True)
    for name, value in [("image_size", SIDE), ("patch_size", PATCH), ("embedding_length", WIDTH),
                        ("feed_forward_length", WIDTH), ("block_count", LAYERS), ("projection_dim", WIDTH),
                        ("attention.head_count", 1), ("projector.scale_factor", 2)]:
        w.key("clip.vision." + name, U32, value)
    w.key("clip.vision.attention.layer_norm_epsilon", F32, EPS)
    w.key("clip.vision.image_mean", ARRAY, [0.0] * 3)
    w.key("clip.vision.image_std", ARRAY, [1.0] * 3)


def tower_write(w, kind, noise):
    """The patch's mean of a colour in the feature of that number; noise elsewhere, as if it had been trained."""
    n = PATCH * PATCH
    kernel = []
    for feature in range(WIDTH):
        for channel in range(3):
            if feature < 3:
                kernel += [1.0 / n if feature == channel else 0.0] * n
            else:
                kernel += [noise(0.02 / n) for _ in range(n)]
    if kind == "qwen2vl_merger":  # looks at two frames, which are the same one in a still
        kernel = [v / 2 for v in kernel]
        w.tensor("v.patch_embd.weight.1", (PATCH, PATCH, 3, WIDTH), kernel, TYPE_F16)
    else:
        w.tensor("v.patch_embd.bias", (WIDTH,), [0.0] * WIDTH)
    w.tensor("v.patch_embd.weight", (PATCH, PATCH, 3, WIDTH), kernel, TYPE_F16)
    for layer in range(LAYERS):
        p = f"v.blk.{layer}."
        for part in ["attn_q", "attn_k", "attn_v", "attn_out", "ffn_up", "ffn_down"]:
            w.tensor(p + part + ".weight", (WIDTH, WIDTH), [noise(0.01) for _ in range(WIDTH * WIDTH)])
            w.tensor(p + part + ".bias", (WIDTH,), [0.0] * WIDTH)
        for part in ["ln1", "ln2"]:
            w.tensor(p + part + ".weight", (WIDTH,), [1.0] * WIDTH)
            w.tensor(p + part + ".bias", (WIDTH,), [0.0] * WIDTH)


def projection_write(w, kind, rows):
    width = len(rows[0])
    if kind == "gemma3":  # comes after a norm that gives every patch the same length
        length = WIDTH**0.5
        matrix = [v / length for row in rows for v in row] + [0.0] * (width * (WIDTH - 3))
        w.tensor("mm.soft_emb_norm.weight", (WIDTH,), [1.0] * WIDTH)
        w.tensor("mm.input_projection.weight", (width, WIDTH), matrix)
        return
    gain = 8.0  # where the activation between the two is close to a straight line
    merged = 4 if kind == "qwen2vl_merger" else 1  # patches that become one row
    first = [gain / merged if i % WIDTH == j else 0.0 for j in range(WIDTH) for i in range(merged * WIDTH)]
    second = [rows[i][j] / gain if i < 3 else 0.0 for j in range(width) for i in range(WIDTH)]
    last = "mm.2" if merged > 1 else "mm.1"
    w.tensor("mm.0.weight", (merged * WIDTH, WIDTH), first)
    w.tensor("mm.0.bias", (WIDTH,), [0.0] * WIDTH)
    w.tensor(last + ".weight", (WIDTH, width), second)
    w.tensor(last + ".bias", (width,), [0.0] * width)


def main():
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    model, out, kind = sys.argv[1], sys.argv[2], (sys.argv[3:] or ["gemma3"])[0]
    if kind not in ("gemma3", "janus_pro", "qwen2vl_merger", "model"):
        raise SystemExit(f"kind '{kind}' is not known; say gemma3, janus_pro, qwen2vl_merger or model")
    base = Reader(model)
    if kind == "model":
        model_write(base, out)
        return
    words = base.keys["tokenizer.ggml.tokens"]
    rows = [base.embedding(words.index("\u0120" + colour)) for colour in COLOURS]
    seeded = random.Random(7)
    w = Writer()
    head_write(w, kind)
    tower_write(w, kind, lambda scale: seeded.gauss(0, scale))
    projection_write(w, kind, rows)
    w.write(out)


if __name__ == "__main__":
    main()
