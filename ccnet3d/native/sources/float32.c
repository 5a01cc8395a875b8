/* Criss-cross attention of a line in float32, for AVX2 or AVX-512, as the compiler's options say. */
#include "problem.h"
#include "vectors.h"

typedef float value;
INLINE vec load_values(const value *p, mask some) { return load_some(p, some); }
INLINE void store_values(value *p, mask some, vec x) { store_some(p, some, x); }
#include "frames.h"

#define ROWS 6
#ifdef __AVX512F__
#define VECTORS 4 /* 24 sums, 4 operands and 1 factor in 32 registers */
#define KERNEL ccnet3d_float32_avx512
#else
#define VECTORS 2 /* 12, 2 and 1 of 16 */
#define KERNEL ccnet3d_float32_avx2
#endif
#define PANEL (VECTORS * LANES)

/* Return the width of the next panel of so many columns: equal ones, because a panel of a single vector is slow. */
INLINE long panel_width(long columns) {
    const long vectors = ROUND_UP(columns, LANES) / LANES, panels = (vectors + VECTORS - 1) / VECTORS;
    return (vectors + panels - 1) / panels * LANES;
}

/* sums[r][v] += factors[r][k] * panel[k][v] for all k. */
INLINE void multiply(vec sums[ROWS][VECTORS], const float *const factors[ROWS], const float *panel, long count,
                     const int vectors) {
    for (long k = 0; k < count; k++, panel += vectors * LANES) {
        vec operands[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) operands[v] = load(panel + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const vec factor = all(factors[r][k]);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) sums[r][v] = fused(factor, operands[v], sums[r][v]);
        }
    }
}

INLINE void scores_of_panel(const float *query, long query_step, long queries, const float *panel, long channels,
                            float *scores, long scores_step, const int vectors) {
    for (long i = 0; i < queries; i += ROWS) {
        const float *factors[ROWS];
        vec sums[ROWS][VECTORS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            factors[r] = query + (i + r < queries ? i + r : queries - 1) * query_step;
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) sums[r][v] = all(0);
            if (i + r + ROWS < queries)
                for (long c = 0; c < channels; c += 16) __builtin_prefetch(factors[r] + ROWS * query_step + c);
        }
        multiply(sums, factors, panel, channels, vectors);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) /* scores has a multiple of ROWS rows */
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) store(scores + (i + r) * scores_step + v * LANES, sums[r][v]);
    }
}

static void scores_of_line(const Line *line, const float *keys, long first, long queries, long channels, float *scores,
                           long scores_step) {
    const float *query = (const float *)line->query + first * line->query_step;
    const long step = line->query_step, length = ROUND_UP(line->length, LANES);
    for (long j = 0, width; j < length; j += width, keys += channels * width) {
        width = panel_width(length - j);
        switch (width / LANES) {
        case 1: scores_of_panel(query, step, queries, keys, channels, scores + j, scores_step, 1); break;
        case 2: scores_of_panel(query, step, queries, keys, channels, scores + j, scores_step, 2); break;
#if VECTORS > 2
        case 3: scores_of_panel(query, step, queries, keys, channels, scores + j, scores_step, 3); break;
        case 4: scores_of_panel(query, step, queries, keys, channels, scores + j, scores_step, 4); break;
#endif
        }
    }
}

/* Write `channels` outputs of some queries: weights times the panel of values, plus the other frames' values for a row,
 * plus the result so far for a column. The weights of both stand behind those of the line. */
INLINE void outputs_of_panel(const Line *line, long first, long queries, const float *weights, long weights_step,
                             const float *scales, const float *panel, long channel, long channels, const float *next,
                             const int vectors) {
    float *output = (float *)line->output + first * line->output_step + channel;
    const float *others = (const float *)line->frames_value + first * line->value_step + channel;
    for (long i = 0; i < queries; i += ROWS) {
        const float *factors[ROWS];
        vec sums[ROWS][VECTORS];
        const mask last = first_lanes(channels - (vectors - 1) * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const long row = i + r < queries ? i + r : queries - 1;
            factors[r] = weights + row * weights_step;
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) sums[r][v] = all(0);
            /* The next rows are far apart: fetch them while these are multiplied. */
            const long after = i + r + 2 * ROWS < queries ? i + r + 2 * ROWS : row;
            const float *later = next + (first + row) * line->value_step; /* copied after this panel */
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++) __builtin_prefetch(later + v * LANES, 0, 2);
            if (line->is_column) {
#pragma GCC unroll 8
                for (int v = 0; v < vectors; v++) __builtin_prefetch(output + after * line->output_step + v * LANES, 1);
                const float *before = output + row * line->output_step;
                const vec factor = all(factors[r][line->length]);
#pragma GCC unroll 8
                for (int v = 0; v < vectors - 1; v++) sums[r][v] = factor * load(before + v * LANES);
                sums[r][vectors - 1] = factor * load_some(before + (vectors - 1) * LANES, last);
            }
            const float *weight = factors[r] + line->length, *value = others + row * line->value_step;
            for (long t = 0; t < line->frames; t++, value += line->frames_value_step) {
                if (t == line->frame) continue;
#pragma GCC unroll 8
                for (int v = 0; v < vectors; v++) __builtin_prefetch(value + (after - row) * line->value_step + v * LANES);
                const vec factor = all(*weight++);
#pragma GCC unroll 8
                for (int v = 0; v < vectors - 1; v++) sums[r][v] = fused(factor, load(value + v * LANES), sums[r][v]);
                const vec end = load_some(value + (vectors - 1) * LANES, last);
                sums[r][vectors - 1] = fused(factor, end, sums[r][vectors - 1]);
            }
        }
        multiply(sums, factors, panel, line->length, vectors);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            if (i + r >= queries) break;
            const vec scale = all(scales[i + r]);
            float *to = output + (i + r) * line->output_step;
#pragma GCC unroll 8
            for (int v = 0; v < vectors - 1; v++) store(to + v * LANES, scale * sums[r][v]);
            store_some(to + (vectors - 1) * LANES, last, scale * sums[r][vectors - 1]);
        }
    }
}

INLINE void copy_values(const Line *line, long channel, long channels, float *panel, const int vectors) {
    const float *value = (const float *)line->value + channel;
    const mask last = first_lanes(channels - (vectors - 1) * LANES);
    for (long j = 0; j < line->length; j++, value += line->value_step, panel += vectors * LANES) {
#pragma GCC unroll 8
        for (int v = 0; v < vectors - 1; v++) store(panel + v * LANES, load(value + v * LANES));
        store(panel + (vectors - 1) * LANES, load_some(value + (vectors - 1) * LANES, last));
    }
}

INLINE void outputs(const Line *line, long first, long queries, const float *weights, long step, const float *scales,
                    float *panel, long channel, long channels, const float *next, const int vectors) {
    copy_values(line, channel, channels, panel, vectors);
    outputs_of_panel(line, first, queries, weights, step, scales, panel, channel, channels, next, vectors);
}

static long scores_step(long length, long frames) { return ROUND_UP(length + frames + 4, LANES); }

static size_t scratch_bytes(long length, long frames, long channels) {
    const long padded = ROUND_UP(length, PANEL);
    return sizeof(float) * (channels * padded + BLOCK * scores_step(length, frames) + padded * PANEL);
}

static void attend(const Line *line, const Problem *problem, void *scratch) {
    const long length = line->length, channels = problem->channels, step = scores_step(length, line->frames);
    const long padded = ROUND_UP(length, PANEL);
    float *keys = scratch, *scores = keys + channels * padded, *panel = scores + BLOCK * step;
    float scales[BLOCK];
    for (long j = 0, width; j < length; j += width) {
        width = panel_width(length - j);
        transpose((const float *)line->key + j * line->key_step, line->key_step, length - j < width ? length - j : width,
                  channels, keys + j * channels, width);
    }
    for (long first = 0; first < length; first += BLOCK) {
        const long queries = length - first < BLOCK ? length - first : BLOCK;
        scores_of_line(line, keys, first, queries, channels, scores, step);
        softmax(line, channels, first, queries, scores, step, scales);
        for (long c = 0, width; c < problem->value_channels; c += width) {
            width = panel_width(problem->value_channels - c);
            const long some = problem->value_channels - c < width ? problem->value_channels - c : width;
            const int is_last = c + width >= problem->value_channels;
            const float *next = is_last ? (const float *)line->next_value : (const float *)line->value + c + width;
            switch (width / LANES) {
            case 1: outputs(line, first, queries, scores, step, scales, panel, c, some, next, 1); break;
            case 2: outputs(line, first, queries, scores, step, scales, panel, c, some, next, 2); break;
#if VECTORS > 2
            case 3: outputs(line, first, queries, scores, step, scales, panel, c, some, next, 3); break;
            case 4: outputs(line, first, queries, scores, step, scales, panel, c, some, next, 4); break;
#endif
            }
        }
    }
}

static void nothing(void) {}

const Kernel KERNEL = {scratch_bytes, attend, time_gradients, nothing, nothing, sizeof(float)};
