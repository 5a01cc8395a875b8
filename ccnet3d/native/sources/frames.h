/* The time axis: lines that are too short for products of matrices, and whose positions are far apart. The including file
 * defines `value`, the type of the inputs, load_values and store_values. */
#ifndef CCNET3D_FRAMES_H
#define CCNET3D_FRAMES_H

#include "vectors.h"

/* Write the dot products of x, which is of one frame, with a place in all others, and up to 3 numbers behind them. */
INLINE void dots_with_frames(const value *x, long frame, const value *place, long step, long frames, long channels,
                             float *dots) {
    for (long n = 0; n < frames - 1; n += 4) {
        const value *other[4];
        vec sums[4];
        for (long r = 0; r < 4; r++) {
            const long t = n + r < frames - 1 ? n + r : frames - 2;
            other[r] = place + (t < frame ? t : t + 1) * step;
            sums[r] = all(0);
        }
        for (long c = 0; c < channels; c += LANES) {
            const mask some = first_lanes(channels - c);
            const vec factor = load_values(x + c, some);
            for (long r = 0; r < 4; r++) sums[r] = fused(factor, load_values(other[r] + c, some), sums[r]);
        }
        _mm_storeu_ps(dots + n, sums_of(sums));
    }
}

static void scores_of_frames(const Line *line, long i, long channels, float *scores) {
    dots_with_frames((const value *)line->query + i * line->query_step, line->frame,
                     (const value *)line->frames_key + i * line->key_step, line->frames_key_step, line->frames, channels,
                     scores);
}

/* Write a position's weights of other frames, their gradients and the sum of both's products: see TimeGradients. */
INLINE void weights_of_frames(const TimeGradients *g, const value *query, const value *key, const value *grad,
                              const value *place, long position, long t, float *weights, float *grad_weights) {
    const Problem *p = &g->clip;
    const long area = p->height * p->width;
    float dots[ROUND_UP(MOST_FRAMES, LANES) + 4] = {0}, grads[MOST_FRAMES + 4], delta = 0;
    const vec log_sum_exp = all(p->log_sum_exp[t * area + position]);
    dots_with_frames(query + t * p->query_strides[1], t, key, p->key_strides[1], p->time, p->channels, dots);
    dots_with_frames(grad + t * g->grad_strides[1], t, place, p->value_strides[1], p->time, p->value_channels, grads);
    for (long n = 0; n < p->time - 1; n += LANES) store(dots + n, exponential(load(dots + n) - log_sum_exp));
    for (long s = 0, n = 0; s < p->time; s++) {
        weights[s] = s == t ? 0 : dots[n];
        grad_weights[s] = s == t ? 0 : grads[n++];
        delta += weights[s] * grad_weights[s];
    }
    g->delta[t * area + position] = delta;
}

static void time_gradients(const TimeGradients *g, long h) {
    const Problem *p = &g->clip;
    const long time = p->time, area = p->height * p->width;
    for (long w = 0; w < p->width; w++) {
        const long position = h * p->width + w;
        const value *query = (const value *)p->query + h * p->query_strides[2] + w * p->query_strides[3];
        const value *key = (const value *)p->key + h * p->key_strides[2] + w * p->key_strides[3];
        const value *place = (const value *)p->value + h * p->value_strides[2] + w * p->value_strides[3];
        const value *grad = (const value *)g->grad + h * g->grad_strides[2] + w * g->grad_strides[3];
        float *weights = g->weights + position * time * time, *grad_weights = g->grad_weights + position * time * time;
        for (long t = 0; t < time; t++)
            weights_of_frames(g, query, key, grad, place, position, t, weights + t * time, grad_weights + t * time);
        for (long s = 0; s < time; s++) {
            value *grad_value = (value *)p->output + (s * area + position) * p->value_channels;
            for (long c = 0; c < p->value_channels; c += LANES) {
                const mask some = first_lanes(p->value_channels - c);
                vec sum = all(0);
                for (long t = 0; t < time; t++)
                    if (t != s)
                        sum = fused(all(weights[t * time + s]), load_values(grad + t * g->grad_strides[1] + c, some), sum);
                store_values(grad_value + c, some, sum);
            }
        }
    }
}

#endif
