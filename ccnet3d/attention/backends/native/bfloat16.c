/* Criss-cross attention of a line in bfloat16 with AMX: products of bfloat16, everything else in float32. */
#define _GNU_SOURCE
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "problem.h"
#include "vectors.h"

#define TILE 16
#define PANEL 256 /* value channels that are packed together */
#define QUERIES ROUND_UP(BLOCK, 2 * TILE)

typedef uint16_t half; /* the bits of a bfloat16 */

INLINE vec widen(const half *p, mask some) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, p)), 16));
}

INLINE void narrow(half *p, mask some, vec x) { _mm256_mask_storeu_epi16(p, some, (__m256i)_mm512_cvtneps_pbh(x)); }

/* Pairs of rows, `step` apart, as AMX reads its second operand: [pairs][columns][2]; missing values become 0. */
INLINE void pack_pairs(const half *from, long step, long rows, long columns, half *to, long pairs, long width) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                         5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    for (long pair = 0; pair < pairs; pair++, to += 2 * width)
        for (long c = 0; c < width; c += TILE) {
            const mask some = first_lanes(columns - c);
            const half *p = from + 2 * pair * step + c;
            const __m256i a = _mm256_maskz_loadu_epi16(2 * pair < rows ? some : 0, p);
            const __m256i b = _mm256_maskz_loadu_epi16(2 * pair + 1 < rows ? some : 0, p + step);
            const __m512i both = _mm512_permutex2var_epi16(_mm512_castsi256_si512(a), low, _mm512_castsi256_si512(b));
            _mm512_storeu_si512(to + 2 * c, both);
        }
}

/* Copy rows of `columns` values to rows of `width` values, padded with zeros. */
INLINE void copy_rows(const half *from, long step, long rows, long columns, half *to, long width) {
    for (long i = 0; i < rows; i++)
        for (long c = 0; c < width; c += 32) {
            const __mmask32 some = columns - c >= 32 ? ~0u : columns > c ? (1u << (columns - c)) - 1 : 0;
            _mm512_storeu_si512(to + i * width + c, _mm512_maskz_loadu_epi16(some, from + i * step + c));
        }
}

/* products[32][columns, 16 or 32] = a[32, depth] b[depth, columns]; steps are in elements, depth in tiles of 32. */
INLINE void multiply(const half *a, long a_step, const half *b, long b_step, long depth, float *products, long step,
                     const int wide) {
    _tile_zero(0);
    _tile_zero(1);
    if (wide) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (long k = 0; k < depth; k++, a += 2 * TILE, b += TILE * b_step) {
        _tile_loadd(4, a, a_step * sizeof(half));
        _tile_loadd(5, a + TILE * a_step, a_step * sizeof(half));
        _tile_loadd(6, b, b_step * sizeof(half));
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        if (wide) {
            _tile_loadd(7, b + 2 * TILE, b_step * sizeof(half));
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, products, step * sizeof(float));
    _tile_stored(1, products + TILE * step, step * sizeof(float));
    if (wide) {
        _tile_stored(2, products + TILE, step * sizeof(float));
        _tile_stored(3, products + TILE * step + TILE, step * sizeof(float));
    }
}

static void scores_of_frames(const Line *line, long i, long channels, float *scores) {
    const half *query = (const half *)line->query + i * line->query_step;
    const half *keys = (const half *)line->frames_key + i * line->key_step;
    const long others = line->frames - 1;
    for (long n = 0; n < others; n += 4) {
        const half *key[4];
        vec sums[4];
        for (long r = 0; r < 4; r++) {
            const long t = n + r < others ? n + r : others - 1;
            key[r] = keys + (t < line->frame ? t : t + 1) * line->frames_key_step;
            sums[r] = all(0);
        }
        for (long c = 0; c < channels; c += LANES) {
            const mask some = first_lanes(channels - c);
            const vec x = widen(query + c, some);
            for (long r = 0; r < 4; r++) sums[r] = fused(x, widen(key[r] + c, some), sums[r]);
        }
        _mm_storeu_ps(scores + n, sums_of(sums));
    }
}

/* Add to the products of one query what stands behind the line in the weights, and round them to the output. */
INLINE void write_output(const Line *line, const float *more, float scale, const float *products, const half *others,
                         half *output, mask last, const int vectors) {
    vec sums[PANEL / LANES];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; v++) sums[v] = load(products + v * LANES);
    if (line->is_column) {
        const vec kept = all(*more);
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++)
            sums[v] = fused(kept, widen(output + v * LANES, v < vectors - 1 ? 0xffff : last), sums[v]);
    }
    for (long t = 0; t < line->frames; t++, others += line->frames_value_step) {
        if (t == line->frame) continue;
        const vec weight = all(*more++);
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++)
            sums[v] = fused(weight, widen(others + v * LANES, v < vectors - 1 ? 0xffff : last), sums[v]);
    }
#pragma GCC unroll 16
    for (int v = 0; v < vectors; v++) narrow(output + v * LANES, v < vectors - 1 ? 0xffff : last, all(scale) * sums[v]);
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
            write_output(line, more, scales[i], products, others, output, 0xffff, PANEL / LANES);
        else
            for (long c = 0; c < channels; c += LANES)
                write_output(line, more, scales[i], products + c, others + c, output + c, first_lanes(channels - c), 1);
    }
}

static long scores_step(long length, long frames) { return ROUND_UP(length + frames + 4, 2 * TILE); }
static long weights_step(long length) { return ROUND_UP(length, 2 * TILE); }

static size_t scratch_bytes(long length, long frames, long channels) {
    const long depth = ROUND_UP(channels, 2 * TILE), keys = ROUND_UP(length, 2 * TILE);
    return sizeof(half) * (depth * keys + QUERIES * depth + QUERIES * weights_step(length) + keys * PANEL)
         + sizeof(float) * (QUERIES * scores_step(length, frames) + 2 * TILE * PANEL + keys * depth / 2) + 512;
}

static void attend(const Line *line, const Problem *problem, void *scratch) {
    const long length = line->length, channels = problem->channels, step = scores_step(length, line->frames);
    const long depth = ROUND_UP(channels, 2 * TILE), padded = ROUND_UP(length, 2 * TILE), bits = weights_step(length);
    float *products = scratch, *scores = products + 2 * TILE * PANEL;
    half *rows = (half *)(scores + QUERIES * step), *queries_in = rows + padded * depth, *keys = queries_in + QUERIES * depth;
    half *weights = keys + depth * padded, *panel = weights + QUERIES * bits;
    float scales[BLOCK];
    copy_rows((const half *)line->key, line->key_step, length, channels, rows, depth);
    transpose((const float *)rows, depth / 2, length, depth / 2, (float *)keys, padded);
    for (long first = 0; first < length; first += BLOCK) {
        const long queries = length - first < BLOCK ? length - first : BLOCK;
        copy_rows((const half *)line->query + first * line->query_step, line->query_step, queries, channels, queries_in,
                  depth);
        for (long i = 0; i < queries; i += 2 * TILE)
            for (long j = 0; j < length; j += 2 * TILE)
                multiply(queries_in + i * depth, depth, keys + 2 * j, 2 * padded, depth / 32, scores + i * step + j, step,
                         1);
        softmax(line, channels, first, queries, scores, step, scales);
        for (long i = 0; i < queries; i++) {
            const float *row = scores + i * step;
            for (long j = 0; j < bits; j += LANES) {
                const mask some = first_lanes(length - j);
                narrow(weights + i * bits + j, 0xffff, _mm512_maskz_loadu_ps(some, row + j));
            }
        }
        for (long c = 0; c < problem->value_channels; c += PANEL) {
            const long some = problem->value_channels - c < PANEL ? problem->value_channels - c : PANEL;
            const long width = ROUND_UP(some, TILE);
            pack_pairs((const half *)line->value + c, line->value_step, length, some, panel, padded / 2, width);
            for (long i = 0; i < queries; i += 2 * TILE) {
                const long here = queries - i < 2 * TILE ? queries - i : 2 * TILE;
                if (line->is_column) fetch_outputs(line, first + i, here, c, some);
                for (long n = 0; n < some; n += 2 * TILE) {
                    const half *a = weights + i * bits, *b = panel + 2 * n;
                    if (some - n > TILE) multiply(a, bits, b, 2 * width, padded / 32, products + n, PANEL, 1);
                    else multiply(a, bits, b, 2 * width, padded / 32, products + n, PANEL, 0);
                }
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

const Kernel ccnet3d_bfloat16_amx = {scratch_bytes, attend, begin, end, sizeof(half)};
