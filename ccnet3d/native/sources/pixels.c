/* What surrounds the network, in one pass each: pictures to its input, and its logits to a mask. For AVX2. */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 8
#define MOST_CLASSES 256
#define UNDECIDED 255 /* where there are 256 classes, the last one is decided pixel by pixel */

typedef struct {
    const uint8_t *picture; /* [3, height, width] */
    long strides[3];        /* of channel, row and column */
    long height, width;
    const void *table; /* [3, 256]: what becomes of each value of a channel */
    void *output;      /* [height, width, 3], contiguous */
} Picture;

#define LOOK_UP(name, type)                                                                                             \
    static void name(const Picture *p) {                                                                               \
        const type *red = p->table, *green = red + 256, *blue = green + 256;                                           \
        const long channel = p->strides[0], step = p->strides[2];                                                      \
        type *to = p->output;                                                                                           \
        for (long y = 0; y < p->height; y++) {                                                                         \
            const uint8_t *from = p->picture + y * p->strides[1];                                                      \
            for (long x = 0; x < p->width; x++, from += step, to += 3) {                                               \
                to[0] = red[from[0]];                                                                                   \
                to[1] = green[from[channel]];                                                                          \
                to[2] = blue[from[2 * channel]];                                                                       \
            }                                                                                                           \
        }                                                                                                               \
    }
LOOK_UP(look_up_2, uint16_t)
LOOK_UP(look_up_4, uint32_t)

/* Replace the values of a picture by those of a table, whose elements have 2 or 4 bytes. */
void ccnet3d_look_up(const Picture *picture, int bytes) {
    if (bytes == 2)
        look_up_2(picture);
    else
        look_up_4(picture);
}

typedef struct {
    const float *logits; /* [classes, rows, columns] */
    long strides[3];
    long classes, rows, columns;
    /* For each row and column of the mask: the two of the logits around it, and the weight of the second. */
    const int64_t *upper, *lower, *left, *right;
    const float *down, *across;
    long height, width;
    uint8_t *ids; /* [height, width], contiguous */
} Mask;

static inline __m256i first_lanes(long count) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(count > LANES ? LANES : count)), lanes);
}

static inline float largest_lane(__m256 x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

/* The class of the largest logit, the first of equal ones; NaN counts as the largest, as in PyTorch. What stands behind
 * the logits, up to a multiple of LANES, does not count. */
static inline uint8_t largest(const float *logits, long classes) {
    __m256 top = _mm256_set1_ps(-INFINITY);
    for (long k = 0; k < classes; k += LANES) {
        const __m256 x = _mm256_loadu_ps(logits + k), some = _mm256_castsi256_ps(first_lanes(classes - k));
        const int nan = _mm256_movemask_ps(_mm256_and_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q), some));
        if (nan) return (uint8_t)(k + __builtin_ctz(nan));
        top = _mm256_max_ps(top, _mm256_blendv_ps(top, x, some));
    }
    top = _mm256_set1_ps(largest_lane(top));
    for (long k = 0;; k += LANES) {
        const int found = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(logits + k), top, _CMP_EQ_OQ));
        if (found) return (uint8_t)(k + __builtin_ctz(found));
    }
}

/* torch.lerp, to the bit: exact at both ends. */
static inline __m256 blend(__m256 first, __m256 second, float weight) {
    const __m256 difference = _mm256_sub_ps(second, first);
    if (weight < 0.5f) return _mm256_fmadd_ps(_mm256_set1_ps(weight), difference, first);
    return _mm256_fmadd_ps(_mm256_set1_ps(weight - 1), difference, second);
}

static uint8_t class_between(const Mask *m, const float *corners, long step, long y, long x) {
    const float *above = corners + m->upper[y] * m->columns * step, *below = corners + m->lower[y] * m->columns * step;
    const long left = m->left[x] * step, right = m->right[x] * step;
    float logits[MOST_CLASSES];
    for (long k = 0; k < m->classes; k += LANES) {
        const __m256 upper = blend(_mm256_loadu_ps(above + left + k), _mm256_loadu_ps(above + right + k), m->across[x]);
        const __m256 lower = blend(_mm256_loadu_ps(below + left + k), _mm256_loadu_ps(below + right + k), m->across[x]);
        _mm256_storeu_ps(logits + k, blend(upper, lower, m->down[y]));
    }
    return largest(logits, m->classes);
}

/* Copy the logits to [rows, columns, step]. */
static void gather_corners(const Mask *m, float *corners, long step) {
    for (long row = 0; row < m->rows; row++)
        for (long k = 0; k < m->classes; k++) {
            const float *from = m->logits + k * m->strides[0] + row * m->strides[1];
            float *to = corners + row * m->columns * step + k;
            for (long column = 0; column < m->columns; column++) to[column * step] = from[column * m->strides[2]];
        }
}

/* Write the class of each cell between four corners that agree on it, else UNDECIDED. The last row and column of corners
 * have cells, too, whose corners coincide. */
static void classify_cells(const Mask *m, const uint8_t *best, uint8_t *cells) {
    for (long row = 0; row < m->rows; row++) {
        const uint8_t *above = best + row * m->columns, *below = row + 1 < m->rows ? above + m->columns : above;
        for (long c = 0; c < m->columns; c++) {
            const long next = c + 1 < m->columns ? c + 1 : c;
            const int agreed = above[c] == above[next] && above[c] == below[c] && above[c] == below[next];
            cells[row * m->columns + c] = agreed ? above[c] : UNDECIDED;
        }
    }
}

/* Classify each pixel by its bilinear logits; return 1 if there is not enough memory. Where the corners around a pixel
 * agree on the largest logit, so does their mean: only pixels between classes need their logits. */
int ccnet3d_classify(const Mask *m) {
    const long places = m->rows * m->columns, step = (m->classes + LANES - 1) / LANES * LANES;
    float *corners = calloc((size_t)(places * step), sizeof(float));
    uint8_t *best = malloc(2 * (size_t)places + (size_t)m->width), *row = best + 2 * places;
    long *undecided = malloc(((size_t)m->width + 1) * sizeof(long));
    if (!corners || !best || !undecided) {
        free(corners);
        free(best);
        free(undecided);
        return 1;
    }
    gather_corners(m, corners, step);
    for (long i = 0; i < places; i++) best[i] = largest(corners + i * step, m->classes);
    classify_cells(m, best, best + places);
    long count = 0; /* of the undecided pixels of a row */
    for (long y = 0; y < m->height; y++) {
        uint8_t *ids = m->ids + y * m->width;
        const uint8_t *cells = best + places + m->upper[y] * m->columns;
        if (y == 0 || m->upper[y] != m->upper[y - 1]) { /* rows between the same corners differ in the undecided only */
            count = 0;
            for (long x = 0; x < m->width; x++) {
                row[x] = cells[m->left[x]];
                undecided[count] = x;
                count += row[x] == UNDECIDED;
            }
        }
        memcpy(ids, row, (size_t)m->width);
        for (long i = 0; i < count; i++) ids[undecided[i]] = class_between(m, corners, step, y, undecided[i]);
    }
    free(corners);
    free(best);
    free(undecided);
    return 0;
}
