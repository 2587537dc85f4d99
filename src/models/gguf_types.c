// The numbers that stand in GGUF files for tensor types and file types. Source of numbers and block
// sizes: ggml.h, ggml-common.h and llama.h of the pinned release.
#include "models/gguf.h"

#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    uint16_t block; // elements
    uint16_t bytes; // of a block
} types[MODELS_GGUF_TYPES] = {
    [0] = {"f32", 1, 4},         [1] = {"f16", 1, 2},         [2] = {"q4_0", 32, 18},
    [3] = {"q4_1", 32, 20},      [6] = {"q5_0", 32, 22},      [7] = {"q5_1", 32, 24},
    [8] = {"q8_0", 32, 34},      [9] = {"q8_1", 32, 36},      [10] = {"q2_K", 256, 84},
    [11] = {"q3_K", 256, 110},   [12] = {"q4_K", 256, 144},   [13] = {"q5_K", 256, 176},
    [14] = {"q6_K", 256, 210},   [15] = {"q8_K", 256, 292},   [16] = {"iq2_xxs", 256, 66},
    [17] = {"iq2_xs", 256, 74},  [18] = {"iq3_xxs", 256, 98}, [19] = {"iq1_s", 256, 50},
    [20] = {"iq4_nl", 32, 18},   [21] = {"iq3_s", 256, 110},  [22] = {"iq2_s", 256, 82},
    [23] = {"iq4_xs", 256, 136}, [24] = {"i8", 1, 1},         [25] = {"i16", 1, 2},
    [26] = {"i32", 1, 4},        [27] = {"i64", 1, 8},        [28] = {"f64", 1, 8},
    [29] = {"iq1_m", 256, 56},   [30] = {"bf16", 1, 2},       [34] = {"tq1_0", 256, 54},
    [35] = {"tq2_0", 256, 66},   [39] = {"mxfp4", 32, 17},    [40] = {"nvfp4", 64, 36},
    [41] = {"q1_0", 128, 18},    [42] = {"q2_0", 64, 18},
};

const char *models_gguf_type_name(uint32_t type)
{
    return type < MODELS_GGUF_TYPES ? types[type].name : NULL;
}

uint32_t models_gguf_type_find(const char *name)
{
    for (uint32_t i = 0; i < MODELS_GGUF_TYPES; i++)
        if (types[i].name && strcasecmp(types[i].name, name) == 0)
            return i;
    return MODELS_GGUF_NONE;
}

bool models_gguf_row_bytes(uint32_t type, uint64_t n, uint64_t *bytes)
{
    if (!models_gguf_type_name(type) || n % types[type].block != 0)
        return false;
    return !__builtin_mul_overflow(n / types[type].block, (uint64_t)types[type].bytes, bytes);
}

// "Q4_K_M" of a file type; "" when not known.
static const char *file_type_name(uint32_t file_type)
{
    static const char *const names[] = {
        [0] = "F32",      [1] = "F16",      [2] = "Q4_0",    [3] = "Q4_1",    [7] = "Q8_0",
        [8] = "Q5_0",     [9] = "Q5_1",     [10] = "Q2_K",   [11] = "Q3_K_S", [12] = "Q3_K_M",
        [13] = "Q3_K_L",  [14] = "Q4_K_S",  [15] = "Q4_K_M", [16] = "Q5_K_S", [17] = "Q5_K_M",
        [18] = "Q6_K",    [19] = "IQ2_XXS", [20] = "IQ2_XS", [21] = "Q2_K_S", [22] = "IQ3_XS",
        [23] = "IQ3_XXS", [24] = "IQ1_S",   [25] = "IQ4_NL", [26] = "IQ3_S",  [27] = "IQ3_M",
        [28] = "IQ2_S",   [29] = "IQ2_M",   [30] = "IQ4_XS", [31] = "IQ1_M",  [32] = "BF16",
        [36] = "TQ1_0",   [37] = "TQ2_0",   [38] = "MXFP4",  [39] = "NVFP4",  [40] = "Q1_0",
        [41] = "Q2_0",
    };
    if (file_type >= sizeof names / sizeof *names || !names[file_type])
        return "";
    return names[file_type];
}

const char *models_gguf_quant(const struct models_gguf *g)
{
    const char *name = file_type_name(g->file_type);
    uint32_t most = 0;
    if (*name)
        return name;
    for (uint32_t i = 0; i < MODELS_GGUF_TYPES; i++)
        if (g->types[i].bytes > g->types[most].bytes)
            most = i;
    return g->types[most].bytes > 0 ? types[most].name : "";
}

// ---- what kind a layer is ------------------------------------------------------------------------

bool models_gguf_layer_in_window(const struct models_gguf *g, uint32_t il)
{
    // Periods that the architecture itself fixes where the file is silent.
    static const struct {
        const char *arch;
        uint32_t period;
    } fixed[] = {{"gemma2", 2},  {"gemma3", 6}, {"gemma3n", 5}, {"gpt-oss", 2},
                 {"cohere2", 4}, {"llama4", 4}, {"olmo2", 4},   {"exaone4", 4}};
    uint32_t period = g->window_period;
    // DeepSeek-V4 compresses what is outside of the window, in ways of its own.
    if (g->window == 0 || il >= g->n_layer || strcmp(g->arch, "deepseek4") == 0)
        return false;
    if (g->has_windows)
        return g->in_window[il] != 0;
    for (size_t i = 0; period == 0 && i < sizeof fixed / sizeof *fixed; i++)
        if (strcmp(fixed[i].arch, g->arch) == 0)
            period = fixed[i].period;
    // A window without any pattern is taken for none: that counts too much rather than too little.
    return period > 0 && il % period < period - 1;
}

static bool is_arch(const struct models_gguf *g, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(*names, g->arch) == 0)
            return true;
    return false;
}

// Of how many layers one attends, where only some do and the file does not list them.
static uint32_t full_interval(const struct models_gguf *g)
{
    static const char *const four[] = {"qwen3next", "qwen35", "qwen35moe", "qwen4exp", NULL};
    if (g->full_interval > 0)
        return g->full_interval;
    return is_arch(g, four) ? 4 : strcmp(g->arch, "minimax-01") == 0 ? 8 : 0;
}

static bool is_nemotron_h(const struct models_gguf *g)
{
    return strncmp(g->arch, "nemotron_h", strlen("nemotron_h")) == 0;
}

bool models_gguf_layer_recurrent(const struct models_gguf *g, uint32_t il)
{
    static const char *const all[] = {"mamba", "mamba2", "rwkv6",     "rwkv6qwen2",
                                      "rwkv7", "arwkv7", "falcon-h1", NULL};
    uint32_t every = full_interval(g);
    bool no_heads = g->has_head_kv && g->head_kv[il] == 0;
    if (is_arch(g, all))
        return true;
    if (g->has_recurrent)
        return g->recurrent[il] != 0;
    if (every > 0)
        return (il + 1) % every != 0;
    if (is_nemotron_h(g)) // whose feed-forward parts are layers of their own
        return no_heads && !g->has_ff[il];
    // Jamba, Granite, LFM2 and others: a layer without KV heads is a recurrent one.
    return no_heads && (g->ssm_inner > 0 || g->shortconv_cache > 0 || g->kda_head > 0);
}

bool models_gguf_layer_has_kv(const struct models_gguf *g, uint32_t il)
{
    if (strcmp(g->arch, "falcon-h1") == 0) // both in every layer
        return true;
    if (models_gguf_layer_recurrent(g, il) || (is_nemotron_h(g) && g->has_ff[il]))
        return false;
    // The last layers of some models look into the cache of an earlier one.
    return g->shared_kv_layers >= g->n_layer || il < g->n_layer - g->shared_kv_layers;
}
