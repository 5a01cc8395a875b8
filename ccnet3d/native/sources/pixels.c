/* What surrounds the network, in one pass each: pictures to its input, and its logits to a mask. For AVX2. */
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>

#define LANES 8
#define MOST_CLASSES 256
#define UNDECIDED 255 /* not a class: there are at most 255 */

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

/* The class of the largest logit, the first of equal ones; NaN counts as the largest, as in PyTorch. */
static inline uint8_t largest(const float *logits, long classes) {
    long best = 0;
    float top = logits[0];
    for (long k = 1; k < classes; k++) {
        const int more = logits[k] > top || (logits[k] != logits[k] && top == top);
        top = more ? logits[k] : top;
        best = more ? k : best;
    }
    return (uint8_t)best;
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

/* Classify each pixel by its bilinear logits; return 1 if there is not enough memory. Where the corners around a pixel agree
 * on the largest logit, so does their mean: only pixels between classes need their logits. */
int ccnet3d_classify(const Mask *m) {
    const long places = m->rows * m->columns, step = (m->classes + LANES - 1) / LANES * LANES;
    float *corners = calloc((size_t)(places * step), sizeof(float));
    uint8_t *best = malloc(2 * (size_t)places);
    if (!corners || !best) {
        free(corners);
        free(best);
        return 1;
    }
    gather_corners(m, corners, step);
    for (long i = 0; i < places; i++) best[i] = largest(corners + i * step, m->classes);
    classify_cells(m, best, best + places);
    for (long y = 0; y < m->height; y++) {
        const uint8_t *cells = best + places + m->upper[y] * m->columns;
        uint8_t *ids = m->ids + y * m->width;
        for (long x = 0; x < m->width; x++) {
            ids[x] = cells[m->left[x]];
            if (ids[x] == UNDECIDED) ids[x] = class_between(m, corners, step, y, x);
        }
    }
    free(corners);
    free(best);
    return 0;
}
