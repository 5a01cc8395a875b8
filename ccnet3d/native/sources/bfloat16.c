/* Criss-cross attention of a line in bfloat16 with AMX: products of bfloat16, everything else in float32. */
#define _GNU_SOURCE
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "problem.h"
#include "vectors.h"

#define TILE 16
#define WIDE (2 * TILE) /* values in a vector, and rows and columns that are multiplied together */
#define PANEL 256       /* value channels that are packed together */
#define QUERIES ROUND_UP(BLOCK, WIDE)

typedef uint16_t half; /* the bits of a bfloat16 */

typedef half value;
INLINE vec load_values(const value *p, mask some) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, p)), 16));
}
INLINE void store_values(value *p, mask some, vec x) {
    _mm256_mask_storeu_epi16(p, some, (__m256i)_mm512_cvtneps_pbh(x));
}
#include "frames.h"

INLINE __mmask32 first_halves(long n) { return n >= WIDE ? ~0u : n > 0 ? (1u << n) - 1 : 0; }

/* 32 values as the even and the odd ones, which takes no shuffle. Products with values have their columns in this order. */
typedef struct {
    vec even, odd;
} Halves;

INLINE Halves widen(const half *p, __mmask32 some) {
    const __m512i x = _mm512_maskz_loadu_epi16(some, p);
    return (Halves){_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                    _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(-65536)))};
}

INLINE void narrow(half *p, __mmask32 some, Halves x) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                           5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(x.odd, x.even);
    _mm512_mask_storeu_epi16(p, some, _mm512_permutexvar_epi16(order, both));
}

INLINE Halves fused_halves(vec factor, Halves x, Halves sums) {
    return (Halves){fused(factor, x.even, sums.even), fused(factor, x.odd, sums.odd)};
}

/* Pairs of rows, `step` apart, as AMX reads its second operand: [pairs][columns][2], in every 32 columns the even ones
 * before the odd ones; missing values become 0. */
INLINE void pack_pairs(const half *from, long step, long rows, long columns, half *to, long pairs, long width) {
    for (long pair = 0; pair < pairs; pair++, to += 2 * width)
        for (long c = 0; c < width; c += WIDE) {
            const __mmask32 some = first_halves(columns - c), odd = 0xaaaaaaaa;
            const half *p = from + 2 * pair * step + c;
            const __m512i a = _mm512_maskz_loadu_epi16(2 * pair < rows ? some : 0, p);
            const __m512i b = _mm512_maskz_loadu_epi16(2 * pair + 1 < rows ? some : 0, p + step);
            _mm512_storeu_si512(to + 2 * c, _mm512_mask_blend_epi16(odd, a, _mm512_slli_epi32(b, 16)));
            _mm512_storeu_si512(to + 2 * c + WIDE, _mm512_mask_blend_epi16(odd, _mm512_srli_epi32(a, 16), b));
        }
}

/* Copy rows of `columns` values to rows of `width` values, padded with zeros. */
INLINE void copy_rows(const half *from, long step, long rows, long columns, half *to, long width) {
    for (long i = 0; i < rows; i++)
        for (long c = 0; c < width; c += WIDE)
            _mm512_storeu_si512(to + i * width + c, _mm512_maskz_loadu_epi16(first_halves(columns - c), from + i * step + c));
}

/* products[32][columns, 32] = a[32, depth] b[depth, columns]; steps are in elements, depth in tiles of 32. */
INLINE void multiply(const half *a, long a_step, const half *b, long b_step, long depth, float *products, long step) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long k = 0; k < depth; k++, a += WIDE, b += TILE * b_step) {
        _tile_loadd(4, a, a_step * sizeof(half));
        _tile_loadd(5, a + TILE * a_step, a_step * sizeof(half));
        _tile_loadd(6, b, b_step * sizeof(half));
        _tile_loadd(7, b + WIDE, b_step * sizeof(half));
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, products, step * sizeof(float));
    _tile_stored(1, products + TILE * step, step * sizeof(float));
    _tile_stored(2, products + TILE, step * sizeof(float));
    _tile_stored(3, products + TILE * step + TILE, step * sizeof(float));
}

/* Add to the products of one query what stands behind the line in the weights, and round them to the output. */
INLINE void write_output(const Line *line, const float *more, float scale, const float *products, const half *others,
                         half *output, __mmask32 some, const int vectors) {
    Halves sums[PANEL / WIDE];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) sums[v] = (Halves){load(products + v * WIDE), load(products + v * WIDE + TILE)};
    if (line->is_column) {
        const vec kept = all(*more);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) sums[v] = fused_halves(kept, widen(output + v * WIDE, some), sums[v]);
    }
    for (long t = 0; t < line->frames; t++, others += line->frames_value_step) {
        if (t == line->frame) continue;
        const vec weight = all(*more++);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) sums[v] = fused_halves(weight, widen(others + v * WIDE, some), sums[v]);
    }
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++)
        narrow(output + v * WIDE, some, (Halves){all(scale) * sums[v].even, all(scale) * sums[v].odd});
}

/* Ask for what write_outputs will add to, while the products are computed: the positions of a column are far apart. */
INLINE void fetch_outputs(const Line *line, long first, long queries, long channel, long channels) {
    for (long i = first; i < first + queries; i++)
        for (long c = channel; c < channel + channels; c += 32)
            __builtin_prefetch((const half *)line->output + i * line->output_step + c, 1);
}

INLINE void write_outputs(const Line *line, long first, long queries, const float *weights, long step,
                          const float *scales, const float *products, long channel, long channels) {
    half *output = (half *)line->output + first * line->output_step + channel;
    const half *others = (const half *)line->frames_value + first * line->value_step + channel;
    for (long i = 0; i < queries; i++, output += line->output_step, others += line->value_step, products += PANEL) {
        const float *more = weights + i * step + line->length;
        if (channels == PANEL)
            write_output(line, more, scales[i], products, others, output, ~0u, PANEL / WIDE);
        else
            for (long c = 0; c < channels; c += WIDE)
                write_output(line, more, scales[i], products + c, others + c, output + c, first_halves(channels - c), 1);
    }
}

static long scores_step(long length, long frames) { return ROUND_UP(length + frames + 4, WIDE); }

static size_t scratch_bytes(long length, long frames, long channels) {
    const long depth = ROUND_UP(channels, WIDE), padded = ROUND_UP(length, WIDE);
    return sizeof(half) * (2 * padded * depth + WIDE * depth + QUERIES * padded + padded * PANEL)
         + sizeof(float) * (QUERIES * scores_step(length, frames) + WIDE * PANEL);
}

/* Write the weights of at most 32 queries, rounded and unscaled: [32, padded]. The scores keep those behind the line. */
INLINE void weights_of_queries(const Line *line, long channels, long first, long queries, const half *keys, half *copy,
                               float *scores, long step, float *scales, half *weights) {
    const long depth = ROUND_UP(channels, WIDE), padded = ROUND_UP(line->length, WIDE);
    const half *query = (const half *)line->query + first * line->query_step;
    long query_step = line->query_step;
    if (queries < WIDE || channels < depth) { /* a tile has more */
        copy_rows(query, query_step, queries, channels, copy, depth);
        query = copy;
        query_step = depth;
    }
    for (long j = 0; j < padded; j += WIDE)
        multiply(query, query_step, keys + 2 * j, 2 * padded, depth / WIDE, scores + j, step);
    softmax(line, channels, first, queries, scores, step, scales);
    for (long i = 0; i < queries; i++)
        for (long j = 0; j < padded; j += WIDE) {
            const float *row = scores + i * step + j;
            const vec low = load_some(row, first_lanes(line->length - j));
            const vec high = load_some(row + LANES, first_lanes(line->length - j - LANES));
            _mm512_storeu_si512(weights + i * padded + j, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
}

static void attend(const Line *line, const Problem *problem, void *scratch) {
    const long length = line->length, channels = problem->channels, step = scores_step(length, line->frames);
    const long depth = ROUND_UP(channels, WIDE), padded = ROUND_UP(length, WIDE);
    float *products = scratch, *scores = products + WIDE * PANEL, scales[BLOCK];
    half *rows = (half *)(scores + QUERIES * step), *keys = rows + padded * depth, *copy = keys + padded * depth;
    half *weights = copy + WIDE * depth, *panel = weights + QUERIES * padded;
    if (channels == depth && line->key_step % 2 == 0) { /* pairs of values, as elements of 4 bytes */
        transpose((const float *)line->key, line->key_step / 2, length, depth / 2, (float *)keys, padded);
    } else {
        copy_rows((const half *)line->key, line->key_step, length, channels, rows, depth);
        transpose((const float *)rows, depth / 2, length, depth / 2, (float *)keys, padded);
    }
    for (long first = 0; first < length; first += BLOCK) {
        const long queries = length - first < BLOCK ? length - first : BLOCK;
        for (long i = 0; i < queries; i += WIDE)
            weights_of_queries(line, channels, first + i, queries - i < WIDE ? queries - i : WIDE, keys, copy,
                               scores + i * step, step, scales + i, weights + i * padded);
        for (long c = 0; c < problem->value_channels; c += PANEL) {
            const long some = problem->value_channels - c < PANEL ? problem->value_channels - c : PANEL;
            const long width = ROUND_UP(some, WIDE);
            pack_pairs((const half *)line->value + c, line->value_step, length, some, panel, padded / 2, width);
            for (long i = 0; i < queries; i += WIDE) {
                const long here = queries - i < WIDE ? queries - i : WIDE;
                if (line->is_column) fetch_outputs(line, first + i, here, c, some);
                for (long n = 0; n < some; n += WIDE)
                    multiply(weights + i * padded, padded, panel + 2 * n, 2 * width, padded / WIDE, products + n, PANEL);
                write_outputs(line, first + i, here, scores + i * step, step, scales + i, products, c, some);
            }
        }
    }
}

/* The kernel gives a process the tiles' registers on request only. */
int ccnet3d_amx_permitted(void) {
    unsigned a, b, c, d;
    const long request = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512bf16")) return 0;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    const unsigned tiles = 1u << 24 | 1u << 22; /* amx_tile, amx_bf16 */
    return (d & tiles) == tiles && syscall(SYS_arch_prctl, request, tile_data) == 0;
}

/* Palette 1: tiles of 16 rows of 64 bytes. Not on the stack, where compilers miss that the instruction reads all of it. */
static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TILES = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

static void begin(void) { _tile_loadconfig(&TILES); }

static void end(void) { _tile_release(); }

const Kernel ccnet3d_bfloat16_amx = {scratch_bytes, attend, time_gradients, begin, end, sizeof(half)};
