// See llama_stream.h.
extern "C" {
#include "engine/llama_stream.h"
#include "base/log.h"
}

#include "rpc/transport.h"

#include <cstdio>
#include <cstring>
#include <list>
#include <mutex>
#include <vector>

struct llama_stream {
    struct engine_stream stream;
    int number;
    char name[LLAMA_STREAM_NAME_BYTES];
};

namespace
{

std::mutex lock;
std::list<llama_stream> streams; // under the lock
int last_number; // under the lock; never used again, because ggml keeps names for good
const engine_lend_options *lending;

const size_t gather_bytes = 64 * 1024;

} // namespace

struct socket_t::impl {
    struct engine_stream stream = {};
    bool guarded = false; // of a borrower
    struct spread_guard guard = {};
    std::vector<uint8_t> out; // until the end of the message: its first parts are a few bytes each

    ~impl()
    {
        if (guarded)
            spread_guard_fini(&guard);
    }
};

socket_t::socket_t(std::unique_ptr<impl> p) : pimpl(std::move(p))
{
}

socket_t::~socket_t() = default;

bool socket_t::flush()
{
    std::vector<uint8_t> &out = pimpl->out;
    if (out.empty())
        return true;
    bool good = pimpl->stream.write(pimpl->stream.ctx, out.data(), out.size()) == 0;
    out.clear();
    return good;
}

bool socket_t::send_data(const void *data, size_t size)
{
    if (pimpl->guarded)
        spread_guard_wrote(&pimpl->guard, data, size);
    if (size == 0)
        return true;
    if (pimpl->out.size() + size <= gather_bytes) {
        const uint8_t *bytes = static_cast<const uint8_t *>(data);
        pimpl->out.insert(pimpl->out.end(), bytes, bytes + size);
        return true;
    }
    return flush() && pimpl->stream.write(pimpl->stream.ctx, data, size) == 0;
}

bool socket_t::recv_data(void *data, size_t size)
{
    if (!flush())
        return false;
    if (size > 0 && pimpl->stream.read(pimpl->stream.ctx, data, size) != 0)
        return false;
    if (!pimpl->guarded)
        return true;
    struct err e = {};
    if (spread_guard_read(&pimpl->guard, data, size, &e) == 0)
        return true;
    log_error("lend", "%s", e.message);
    return false;
}

socket_ptr socket_t::accept()
{
    std::unique_ptr<impl> p = std::make_unique<impl>();
    struct err e = {};
    if (!lending || lending->next(lending->ctx, &p->stream, &e) != 0)
        return nullptr;
    p->guarded = true;
    spread_guard_init(&p->guard, lending->memory_bytes);
    return socket_ptr(new socket_t(std::move(p)));
}

socket_ptr socket_t::connect(const char *host, int port)
{
    std::lock_guard<std::mutex> held(lock);
    for (const llama_stream &s : streams) {
        if (std::strcmp(host, "lender") != 0 || s.number != port)
            continue;
        std::unique_ptr<impl> p = std::make_unique<impl>();
        p->stream = s.stream;
        return socket_ptr(new socket_t(std::move(p)));
    }
    return nullptr;
}

socket_ptr socket_t::create_server(const char *, int)
{
    return socket_ptr(new socket_t(std::make_unique<impl>()));
}

// What a connection could be turned into (RDMA): nothing.
void socket_t::get_caps(uint8_t *local_caps)
{
    std::memset(local_caps, 0, RPC_CONN_CAPS_SIZE);
}

void socket_t::update_caps(const uint8_t *)
{
}

bool rpc_transport_init()
{
    return true;
}

void rpc_transport_shutdown()
{
}

extern "C" struct llama_stream *llama_stream_new(const struct engine_stream *s)
{
    std::lock_guard<std::mutex> held(lock);
    streams.push_back({*s, ++last_number, ""});
    llama_stream &made = streams.back();
    std::snprintf(made.name, sizeof made.name, "lender:%d", made.number);
    return &made;
}

extern "C" const char *llama_stream_name(const struct llama_stream *s)
{
    return s->name;
}

extern "C" void llama_stream_drop(struct llama_stream *s)
{
    std::lock_guard<std::mutex> held(lock);
    streams.remove_if([s](const llama_stream &other) { return &other == s; });
}

extern "C" void llama_stream_serve(const struct engine_lend_options *o)
{
    lending = o;
}
