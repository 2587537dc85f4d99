// adapter_config.json: what a GGUF adapter can say of it, and what it cannot.
#include "models/peft_impl.h"

#include "base/buf.h"
#include "base/json.h"
#include "models/peft.h"
#include "os/os.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

// False, null, zero, "none", and what holds nothing.
static bool is_unused(const json_t *v)
{
    const char *text = json_string_value(v);
    if (!v || json_is_null(v) || json_is_false(v))
        return true;
    if (text)
        return *text == '\0' || strcmp(text, "none") == 0;
    return (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0);
}

// Settings that must not be used, and what to do instead.
static const struct {
    const char *member, *what, *instead;
} refused[] = {
    {"use_dora", "a DoRA adapter scales the base's own columns", "train with use_dora=False"},
    {"rank_pattern", "ranks that differ between modules", "train with one rank for all"},
    {"alpha_pattern", "alphas that differ between modules", "train with one alpha for all"},
    {"bias", "trained biases", "train with bias=\"none\""},
    {"lora_bias", "biases of its own", "train with lora_bias=False"},
    {"modules_to_save", "modules trained as a whole", "train without modules_to_save"},
    {"trainable_token_indices", "trained embeddings", "train without trainable_token_indices"},
    {"fan_in_fan_out", "transposed modules (Conv1D)",
     "this is for architectures without them; train with fan_in_fan_out=False"},
    {"layer_replication", "layers that the base has not", "train without layer_replication"},
    {"target_parameters", "parameters that are no modules", "train without target_parameters"},
    {"alora_invocation_tokens", "an adapter that sets in at certain tokens",
     "train without alora_invocation_tokens"},
    {"use_qalora", "a QALoRA adapter pools its input", "train with use_qalora=False"},
    {"kasa_config", "singular values of its own", "train a plain LoRA"},
    {"monteclora_config", "values drawn at random", "train a plain LoRA"},
    {"arrow_config", "a choice among adapters for each token", "train a plain LoRA"},
    {"use_bdlora", "block-diagonal matrices", "train a plain LoRA"},
    {"megatron_config", "modules of Megatron", "save it as a plain LoRA"},
};

static int settings_check(const json_t *config, struct err *e)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (!is_unused(json_object_get(config, refused[i].member)))
            return err_set(e, ERR_UNSUPPORTED,
                           "\"%s\" is set: %s, which no GGUF adapter can say; %s, or merge it "
                           "in PyTorch",
                           refused[i].member, refused[i].what, refused[i].instead);
    return 0;
}

// Some ways to begin take the adapter's first values out of the base's weights and alter these: the adapter
// then belongs to the altered base. (PEFT writes true when it was saved as a plain one.)
static int start_check(const json_t *config, struct err *e)
{
    static const char *const plain[] = {"gaussian", "eva", "orthogonal"};
    const char *start = json_string_value(json_object_get(config, "init_lora_weights"));
    bool known = !start;
    for (size_t i = 0; start && i < sizeof plain / sizeof *plain; i++)
        known = known || strcmp(start, plain[i]) == 0;
    if (known)
        return 0;
    return err_set(e, ERR_UNSUPPORTED,
                   "\"init_lora_weights\" is \"%.40s\", which changes the base's own weights; save "
                   "with path_initial_model_for_weight_conversion, or train with "
                   "init_lora_weights=True",
                   start);
}

static int numbers_read(const json_t *config, struct peft_config *c, struct err *e)
{
    const char *type = "(none)";
    int64_t rank = 0;
    double alpha = 0;
    int rc = json_get_string(config, "peft_type", &type, e);
    if (rc == 0 && strcmp(type, "LORA") != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "\"peft_type\" is \"%.40s\"; only LORA adapters are converted", type);
    if (rc == 0)
        rc = json_get_i64(config, "r", 1, MODELS_PEFT_RANK_MAX, &rank, e);
    if (rc == 0)
        rc = json_get_f64(config, "lora_alpha", 1e-6, 1e9, &alpha, e);
    if (rc == 0)
        rc = json_get_bool(config, "use_rslora", &c->rank_stabilised, e);
    if (rc != 0)
        return rc;
    if (rank == 0 || alpha == 0)
        return err_set(e, ERR_INVALID, "\"%s\" is missing", rank == 0 ? "r" : "lora_alpha");
    c->rank = (uint32_t)rank;
    c->alpha = (float)(c->rank_stabilised ? alpha * sqrt((double)rank) : alpha);
    return 0;
}

int peft_config_read(const char *folder, struct peft_config *c, struct err *e)
{
    char *path = mem_format("%s/adapter_config.json", folder), *text = NULL;
    size_t n = 0;
    *c = (struct peft_config){0};
    int rc = os_file_read(path, MODELS_PEFT_CONFIG_MAX, &text, &n, e);
    json_t *config = rc == 0 ? json_parse(text, n, e) : NULL;
    if (rc == 0 && !config)
        rc = e->code;
    if (rc == 0 && !json_is_object(config))
        rc = err_set(e, ERR_INVALID, "no JSON object");
    if (rc == 0)
        rc = numbers_read(config, c, e);
    if (rc == 0)
        rc = settings_check(config, e);
    if (rc == 0)
        rc = start_check(config, e);
    if (rc != 0)
        err_wrap(e, "%.200s", path);
    json_decref(config);
    free(text);
    free(path);
    return rc;
}
