// Layers for machines, in proportion.
#include "engine/spread.h"

// The machine that lacks most of what its share is worth.
static size_t neediest(const double *shares, const uint32_t *has, size_t n, double worth)
{
    size_t best = 0;
    double most = -1e300;
    for (size_t i = 0; i < n; i++) {
        double lacks = shares[i] * worth - has[i];
        if (shares[i] > 0 && has[i] == 0)
            lacks += 1e9; // the first layer comes before anybody's second
        if (shares[i] > 0 && lacks > most) {
            most = lacks;
            best = i;
        }
    }
    return best;
}

void engine_spread_layers(const double *shares, size_t n, uint32_t layers, uint32_t *out)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        out[i] = 0;
        sum += shares[i] > 0 ? shares[i] : 0;
    }
    if (n > 0 && sum <= 0) {
        out[0] = layers;
        return;
    }
    for (uint32_t l = 0; n > 0 && l < layers; l++)
        out[neediest(shares, out, n, layers / sum)]++;
}
