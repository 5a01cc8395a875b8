/* Vectors of float32 for one instruction set, their exponential, and the softmax of a row of scores. */
#ifndef CCNET3D_VECTORS_H
#define CCNET3D_VECTORS_H

#include <immintrin.h>
#include <math.h>

#include "problem.h"

#define INLINE static inline __attribute__((always_inline))

#ifdef __AVX512F__
#define LANES 16
typedef __m512 vec;
typedef __mmask16 mask;
INLINE vec load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, vec x) { _mm512_storeu_ps(p, x); }
INLINE vec all(float x) { return _mm512_set1_ps(x); }
INLINE vec fused(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec larger(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE mask first_lanes(long n) { return n >= LANES ? 0xffff : (mask)((1u << (n > 0 ? n : 0)) - 1); }
INLINE vec load_some(const float *p, mask m) { return _mm512_maskz_loadu_ps(m, p); }
INLINE void store_some(float *p, mask m, vec x) { _mm512_mask_storeu_ps(p, m, x); }
INLINE float sum_of(vec x) { return _mm512_reduce_add_ps(x); }
INLINE float largest_of(vec x) { return _mm512_reduce_max_ps(x); }
INLINE __m128 quarters(vec x) { /* added */
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
INLINE vec load_quads(const float *const p[LANES], long at) { /* of every fourth place */
    vec x = _mm512_castps128_ps512(_mm_loadu_ps(p[0] + at));
    x = _mm512_insertf32x4(x, _mm_loadu_ps(p[4] + at), 1);
    x = _mm512_insertf32x4(x, _mm_loadu_ps(p[8] + at), 2);
    return _mm512_insertf32x4(x, _mm_loadu_ps(p[12] + at), 3);
}
INLINE vec low_pairs(vec a, vec b) { return _mm512_unpacklo_ps(a, b); }
INLINE vec high_pairs(vec a, vec b) { return _mm512_unpackhi_ps(a, b); }
INLINE vec low_halves(vec a, vec b) { return _mm512_shuffle_ps(a, b, 0x44); }
INLINE vec high_halves(vec a, vec b) { return _mm512_shuffle_ps(a, b, 0xee); }
INLINE vec round_to_integer(vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vec times_power_of_two(vec x, vec n) { return _mm512_scalef_ps(x, n); }
INLINE vec zero_below(vec x, vec bound, vec y) {
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, bound, _CMP_LT_OQ), _mm512_setzero_ps());
}
#else
#define LANES 8
typedef __m256 vec;
typedef __m256i mask;
INLINE vec load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void store(float *p, vec x) { _mm256_storeu_ps(p, x); }
INLINE vec all(float x) { return _mm256_set1_ps(x); }
INLINE vec fused(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vec larger(vec a, vec b) { return _mm256_max_ps(a, b); }
INLINE mask first_lanes(long n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n > LANES ? LANES : n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vec load_some(const float *p, mask m) { return _mm256_maskload_ps(p, m); }
INLINE void store_some(float *p, mask m, vec x) { _mm256_maskstore_ps(p, m, x); }
INLINE float sum_of(vec x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
INLINE float largest_of(vec x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
INLINE __m128 quarters(vec x) { return _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)); }
INLINE vec load_quads(const float *const p[LANES], long at) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p[0] + at)), _mm_loadu_ps(p[4] + at), 1);
}
INLINE vec low_pairs(vec a, vec b) { return _mm256_unpacklo_ps(a, b); }
INLINE vec high_pairs(vec a, vec b) { return _mm256_unpackhi_ps(a, b); }
INLINE vec low_halves(vec a, vec b) { return _mm256_shuffle_ps(a, b, 0x44); }
INLINE vec high_halves(vec a, vec b) { return _mm256_shuffle_ps(a, b, 0xee); }
INLINE vec round_to_integer(vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vec times_power_of_two(vec x, vec n) { /* n is at least -126 */
    __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(exponent));
}
INLINE vec zero_below(vec x, vec bound, vec y) { return _mm256_andnot_ps(_mm256_cmp_ps(x, bound, _CMP_LT_OQ), y); }
#endif

/* exp(x) for x <= 0 to one unit in the last place; 0 below -87, and NaN stays NaN. */
INLINE vec exponential(vec x) {
    const vec n = round_to_integer(x * all(1.44269504f));
    vec r = fused(n, all(-0.693359375f), x); /* ln 2 in two parts */
    r = fused(n, all(2.12194440e-4f), r);
    vec y = all(1.9875691500e-4f);
    y = fused(y, r, all(1.3981999507e-3f));
    y = fused(y, r, all(8.3334519073e-3f));
    y = fused(y, r, all(4.1665795894e-2f));
    y = fused(y, r, all(1.6666665459e-1f));
    y = fused(y, r, all(5.0000001201e-1f));
    y = fused(y, r * r, r + all(1.0f));
    return zero_below(x, all(-87.0f), times_power_of_two(y, n));
}

/* Add up each of four vectors. */
INLINE __m128 sums_of(const vec x[4]) {
    const vec a = low_pairs(x[0], x[1]) + high_pairs(x[0], x[1]), b = low_pairs(x[2], x[3]) + high_pairs(x[2], x[3]);
    return quarters(low_halves(a, b) + high_halves(a, b));
}

/* Transpose [rows, columns] of 4-byte elements, `step` apart, to [columns, width], where `width` is the rows rounded up to
 * LANES; the lanes behind repeat the last row. */
INLINE void transpose(const float *from, long step, long rows, long columns, float *to, long width) {
    for (long row = 0; row < width; row += LANES) {
        const float *p[LANES];
        for (long i = 0; i < LANES; i++) p[i] = from + (row + i < rows ? row + i : rows - 1) * step;
        for (long i = row + LANES; i < row + 2 * LANES && i < rows; i++)
            for (long c = 0; c < columns; c += 16) __builtin_prefetch(from + i * step + c);
        for (long next = 0; next < columns && columns >= 4; next += 4) { /* in each 128 bits 4 x 4 */
            const long c = next + 4 <= columns ? next : columns - 4;
            const vec x = load_quads(p, c), y = load_quads(p + 1, c), z = load_quads(p + 2, c), u = load_quads(p + 3, c);
            const vec xy = low_pairs(x, y), zu = low_pairs(z, u), xy2 = high_pairs(x, y), zu2 = high_pairs(z, u);
            float *q = to + c * width + row;
            store(q, low_halves(xy, zu));
            store(q + width, high_halves(xy, zu));
            store(q + 2 * width, low_halves(xy2, zu2));
            store(q + 3 * width, high_halves(xy2, zu2));
        }
        for (long c = 0; c < columns && columns < 4; c++)
            for (long i = 0; i < LANES; i++) to[c * width + row + i] = p[i][c];
    }
}

#define TOGETHER 4 /* rows, because the sums and maxima of one row wait for each other */

/* Replace `count` scores of each row, padded to whole vectors, by their exponentials divided by that of the largest. */
INLINE void exponentials(float *scores, long step, long count, float *top, float *total) {
    const long padded = ROUND_UP(count, LANES);
    vec tops[TOGETHER], sums[TOGETHER];
#pragma GCC unroll 4
    for (int r = 0; r < TOGETHER; r++) {
        for (long j = count; j < padded; j++) scores[r * step + j] = -INFINITY;
        tops[r] = load(scores + r * step);
        sums[r] = all(0);
    }
    for (long j = LANES; j < padded; j += LANES)
#pragma GCC unroll 4
        for (int r = 0; r < TOGETHER; r++) tops[r] = larger(load(scores + r * step + j), tops[r]);
#pragma GCC unroll 4
    for (int r = 0; r < TOGETHER; r++) {
        top[r] = largest_of(tops[r]);
        tops[r] = all(top[r]);
    }
    for (long j = 0; j < padded; j += LANES)
#pragma GCC unroll 4
        for (int r = 0; r < TOGETHER; r++) {
            const vec weight = exponential(load(scores + r * step + j) - tops[r]);
            sums[r] = sums[r] + weight;
            store(scores + r * step + j, weight);
        }
    _mm_storeu_ps(total, sums_of(sums));
}

/* Write the scores of position i of a row with the same place in the other frames, and up to 3 numbers behind them. */
static void scores_of_frames(const Line *line, long i, long channels, float *scores);

/* Complete the scores of some queries, which contain those of their line, and replace them by weights, which the scales
 * make sum to 1. Behind the line stand a row's scores with other frames, or a column's result so far with its log-sum-exp
 * as its score. `scores` has a multiple of TOGETHER rows, used or not. */
INLINE void softmax(const Line *line, long channels, long first, long queries, float *scores, long step,
                    float scales[BLOCK]) {
    float tops[BLOCK], totals[BLOCK];
    float *log_sum_exp = line->log_sum_exp + first * line->log_sum_exp_step;
    const long count = line->length + (line->is_column ? 1 : line->frames ? line->frames - 1 : 0);
    for (long i = 0; i < queries; i++) {
        float *row = scores + i * step;
        if (line->is_column) {
            row[first + i] = -INFINITY; /* the row counts the position itself */
            row[line->length] = log_sum_exp[i * line->log_sum_exp_step];
        } else {
            scores_of_frames(line, first + i, channels, row + line->length);
        }
    }
    for (long i = 0; i < queries; i += TOGETHER) exponentials(scores + i * step, step, count, tops + i, totals + i);
    for (long i = 0; i < queries; i++) {
        log_sum_exp[i * line->log_sum_exp_step] = tops[i] + logf(totals[i]);
        scales[i] = 1 / totals[i];
    }
}

#endif
