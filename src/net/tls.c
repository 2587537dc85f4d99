#include "net/conn.h"

#include "base/buf.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

// Why buffers between GnuTLS and the socket: one system call then moves eight records or more
// instead of one (sending) or half of one (receiving), which is worth 25 % of the throughput of a
// core, and GnuTLS never sees a full or empty socket, so that the rules for resuming a half-sent
// record do not concern us.
#define RECORD_BYTES 16384
#define RECORD_EXTRA_BYTES 512 // more than header, tag and a key update in front of a record
#define OUT_FLUSH_BYTES (128 << 10)
#define OUT_BYTES (OUT_FLUSH_BYTES + 2 * (RECORD_BYTES + RECORD_EXTRA_BYTES))
#define IN_BYTES (256 << 10)

// An external PSK in TLS 1.3 is bound to SHA-256 here, which leaves the suites that use it; AES comes
// first because every machine this is made for has instructions for it. No certificates: the
// signature list is there because GnuTLS takes no priority string without one.
#define PRIORITY                                                                                   \
    "NONE:+VERS-TLS1.3:+AES-128-GCM:+CHACHA20-POLY1305:+AEAD:+ECDHE-PSK:"                          \
    "+GROUP-X25519:+GROUP-SECP256R1:+SIGN-ALL:%SERVER_PRECEDENCE"
#define IDENTITY "tandem"

struct net_tls {
    pthread_mutex_t lock; // around every call into GnuTLS
    gnutls_session_t session;
    gnutls_psk_server_credentials_t server;
    gnutls_psk_client_credentials_t client;
    struct net_key key;
    bool writing; // under lock: the writing thread is inside, `out` may grow

    uint8_t *in; // reading thread
    size_t in_pos, in_len, in_total;
    uint8_t first[2]; // bytes that ever came
    uint8_t *out;     // writing thread
    size_t out_pos, out_len;
};

static ssize_t tls_push(gnutls_transport_ptr_t ptr, const void *data, size_t n)
{
    struct net_tls *t = ptr;
    if (!t->writing || n > OUT_BYTES - t->out_len) {
        // Not the writing thread's turn: GnuTLS keeps the record and offers it again.
        gnutls_transport_set_errno(t->session, EAGAIN);
        return -1;
    }
    memcpy(t->out + t->out_len, data, n);
    t->out_len += n;
    return (ssize_t)n;
}

static ssize_t tls_pull(gnutls_transport_ptr_t ptr, void *data, size_t n)
{
    struct net_tls *t = ptr;
    size_t have = t->in_len - t->in_pos;
    if (!have) {
        gnutls_transport_set_errno(t->session, EAGAIN);
        return -1;
    }
    if (n > have)
        n = have;
    memcpy(data, t->in + t->in_pos, n);
    t->in_pos += n;
    return (ssize_t)n;
}

static int tls_pull_wait(gnutls_transport_ptr_t ptr, unsigned ms)
{
    (void)ms;
    const struct net_tls *t = ptr;
    return t->in_len > t->in_pos;
}

// Runs on the server when a client names an identity. An unknown one fails in GnuTLS.
static int tls_key_find(gnutls_session_t session, const char *identity, gnutls_datum_t *key)
{
    const struct net_tls *t = gnutls_session_get_ptr(session);
    if (!identity || strcmp(identity, IDENTITY) != 0)
        return -1;
    key->data = gnutls_malloc(NET_KEY_BYTES);
    if (!key->data)
        return -1;
    memcpy(key->data, t->key.bytes, NET_KEY_BYTES);
    key->size = NET_KEY_BYTES;
    return 0;
}

static int tls_credentials_set(struct net_tls *t, bool server)
{
    if (server) {
        int rc = gnutls_psk_allocate_server_credentials(&t->server);
        if (rc)
            return rc;
        gnutls_psk_set_server_credentials_function(t->server, tls_key_find);
        return gnutls_credentials_set(t->session, GNUTLS_CRD_PSK, t->server);
    }
    int rc = gnutls_psk_allocate_client_credentials(&t->client);
    gnutls_datum_t key = {t->key.bytes, NET_KEY_BYTES};
    if (rc == 0)
        rc = gnutls_psk_set_client_credentials(t->client, IDENTITY, &key, GNUTLS_PSK_KEY_RAW);
    return rc ? rc : gnutls_credentials_set(t->session, GNUTLS_CRD_PSK, t->client);
}

static int tls_session_set(struct net_tls *t, bool server)
{
    unsigned flags = GNUTLS_NONBLOCK | GNUTLS_NO_TICKETS;
    int rc = gnutls_init(&t->session, flags | (server ? GNUTLS_SERVER : GNUTLS_CLIENT));
    if (rc)
        return rc;
    gnutls_session_set_ptr(t->session, t);
    gnutls_transport_set_ptr(t->session, t);
    gnutls_transport_set_push_function(t->session, tls_push);
    gnutls_transport_set_pull_function(t->session, tls_pull);
    gnutls_transport_set_pull_timeout_function(t->session, tls_pull_wait);
    gnutls_handshake_set_timeout(t->session, 0); // the connection's deadline rules
    rc = gnutls_priority_set_direct(t->session, PRIORITY, NULL);
    return rc ? rc : tls_credentials_set(t, server);
}

struct net_tls *net_tls_new(const struct net_key *key, bool server, struct err *e)
{
    struct net_tls *t = mem_alloc(sizeof *t);
    pthread_mutex_init(&t->lock, NULL);
    t->key = *key;
    t->in = mem_resize(NULL, IN_BYTES);
    t->out = mem_resize(NULL, OUT_BYTES);
    int rc = tls_session_set(t, server);
    if (rc == 0)
        return t;
    err_set(e, ERR_UNSUPPORTED, "cannot set up TLS: %s; GnuTLS 3.7 or newer is needed",
            gnutls_strerror(rc));
    net_tls_free(t);
    return NULL;
}

void net_tls_free(struct net_tls *t)
{
    if (!t)
        return;
    if (t->session)
        gnutls_deinit(t->session);
    if (t->server)
        gnutls_psk_free_server_credentials(t->server);
    if (t->client)
        gnutls_psk_free_client_credentials(t->client);
    gnutls_memset(&t->key, 0, sizeof t->key);
    free(t->in);
    free(t->out);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

// Should the same call be made again at once? GnuTLS also says "again" when it took a message that
// carries no data, a key update for one; then there may be more in `in`, and waiting for the socket
// would be waiting for nothing. `at` is where it began to read.
static bool tls_goes_on(const struct net_tls *t, ssize_t rc, size_t at)
{
    if (rc == GNUTLS_E_AGAIN)
        return t->in_pos > at && t->in_pos < t->in_len;
    return rc == GNUTLS_E_INTERRUPTED || rc == GNUTLS_E_WARNING_ALERT_RECEIVED;
}

// ---- handshake -------------------------------------------------------------------------------------

// A TLS record begins with type 22 (handshake) or 21 (alert) and major version 3.
static bool tls_looks_right(const struct net_tls *t)
{
    const uint8_t *b = t->first;
    size_t n = t->in_total;
    return (n < 1 || b[0] == 22 || b[0] == 21) && (n < 2 || b[1] == 3);
}

static int tls_handshake_error(struct net_tls *t, int rc, const char *peer, struct err *e)
{
    switch (rc) {
    case GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER: // the binder does not verify
    case GNUTLS_E_DECRYPTION_FAILED:
    case GNUTLS_E_INSUFFICIENT_CREDENTIALS: // another identity
    case GNUTLS_E_ERROR_IN_FINISHED_PACKET:
        return err_set(e, ERR_AUTH,
                       "%s has another cluster key (%s); run `tandem pair join WORDS...` on one "
                       "of the two machines",
                       peer, gnutls_strerror(rc));
    case GNUTLS_E_FATAL_ALERT_RECEIVED:
        return err_set(e, ERR_AUTH, "%s refused the TLS handshake: %s", peer,
                       gnutls_alert_get_name(gnutls_alert_get(t->session)));
    default:
        return err_set(e, ERR_AUTH, "TLS handshake with %s failed: %s", peer, gnutls_strerror(rc));
    }
}

int net_tls_handshake(struct net_tls *t, const char *peer, struct err *e)
{
    if (!tls_looks_right(t))
        return err_set(e, ERR_AUTH, "%s does not speak TLS", peer);
    pthread_mutex_lock(&t->lock);
    t->writing = true;
    int rc;
    size_t at;
    do {
        at = t->in_pos;
        rc = gnutls_handshake(t->session);
    } while (tls_goes_on(t, rc, at));
    t->writing = false;
    pthread_mutex_unlock(&t->lock);
    if (rc == GNUTLS_E_AGAIN)
        return NET_TLS_WANTS_INPUT;
    return rc == GNUTLS_E_SUCCESS ? NET_TLS_DONE : tls_handshake_error(t, rc, peer, e);
}

// ---- buffers ---------------------------------------------------------------------------------------

size_t net_tls_in_space(struct net_tls *t, uint8_t **space)
{
    if (t->in_pos == t->in_len)
        t->in_pos = t->in_len = 0;
    *space = t->in + t->in_len;
    return IN_BYTES - t->in_len;
}

void net_tls_in_add(struct net_tls *t, size_t n)
{
    for (size_t i = 0; i < n && t->in_total + i < sizeof t->first; i++)
        t->first[t->in_total + i] = t->in[t->in_len + i];
    t->in_len += n;
    t->in_total += n;
}

size_t net_tls_in_total(const struct net_tls *t)
{
    return t->in_total;
}

size_t net_tls_out(const struct net_tls *t, const uint8_t **data)
{
    *data = t->out + t->out_pos;
    return t->out_len - t->out_pos;
}

void net_tls_out_drop(struct net_tls *t, size_t n)
{
    t->out_pos += n;
    if (t->out_pos == t->out_len)
        t->out_pos = t->out_len = 0;
}

bool net_tls_out_full(const struct net_tls *t)
{
    return t->out_len >= OUT_FLUSH_BYTES;
}

// ---- records ---------------------------------------------------------------------------------------

int64_t net_tls_encrypt(struct net_tls *t, const void *data, size_t n, struct err *e)
{
    if (n > RECORD_BYTES)
        n = RECORD_BYTES;
    pthread_mutex_lock(&t->lock);
    t->writing = true;
    ssize_t sent;
    do
        sent = gnutls_record_send(t->session, data, n);
    while (sent == GNUTLS_E_INTERRUPTED);
    t->writing = false;
    pthread_mutex_unlock(&t->lock);
    if (sent < 0)
        return err_set(e, ERR_IO, "TLS cannot send: %s", gnutls_strerror((int)sent));
    return sent;
}

static int64_t tls_decrypt_error(ssize_t rc, struct err *e)
{
    switch (rc) {
    case GNUTLS_E_AGAIN:
        return 0;
    case 0:
        return err_set(e, ERR_CLOSED, "closed by the peer");
    case GNUTLS_E_DECRYPTION_FAILED:
        return err_set(e, ERR_CORRUPT, "a TLS record was changed on its way");
    default:
        return err_set(e, ERR_CORRUPT, "TLS cannot receive: %s", gnutls_strerror((int)rc));
    }
}

int64_t net_tls_decrypt(struct net_tls *t, void *data, size_t n, struct err *e)
{
    pthread_mutex_lock(&t->lock);
    ssize_t got;
    size_t at;
    do {
        at = t->in_pos;
        got = gnutls_record_recv(t->session, data, n);
    } while (tls_goes_on(t, got, at));
    pthread_mutex_unlock(&t->lock);
    return got > 0 ? got : tls_decrypt_error(got, e);
}

int net_tls_rekey(struct net_tls *t, struct err *e)
{
    pthread_mutex_lock(&t->lock);
    t->writing = true;
    int rc = gnutls_session_key_update(t->session, 0);
    t->writing = false;
    pthread_mutex_unlock(&t->lock);
    return rc ? err_set(e, ERR_IO, "no key update: %s", gnutls_strerror(rc)) : 0;
}

void net_tls_bye(struct net_tls *t)
{
    pthread_mutex_lock(&t->lock);
    t->writing = true;
    gnutls_bye(t->session, GNUTLS_SHUT_WR);
    t->writing = false;
    pthread_mutex_unlock(&t->lock);
}
