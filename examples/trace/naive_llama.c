// An example of an engine that writes a trace for `plumb diagnose`: a plain llama in C99 that calls plumb/trace.h after
// every op. It uses nothing else of Plumb, reads F32, F16 and Q8_0, and is slow.
//
//   naive_llama MODEL.gguf OUT.safetensors STEPS TOKEN...
//   plumb diagnose MODEL.gguf --trace OUT.safetensors
//
// TOKENs are the ids of the prompt, as `plumb tokenize` prints them. After the prompt come STEPS greedy steps. The file's
// layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
#include <math.h>
#include <plumb/trace.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LAYERS = 128, MOST_POSITIONS = 4096, MOST_ROWS = 1 << 20 };

static void stop(const char* what, const char* which) {
  fprintf(stderr, "naive_llama: %s%s\n", what, which);
  exit(2);
}

typedef struct {
  const unsigned char* data;
  size_t size, at;
} Reader;

typedef struct {
  const char* text;
  size_t size;
} Text;

static const unsigned char* take(Reader* reader, uint64_t n) {
  if (n > reader->size - reader->at) stop("the file ends early", "");
  reader->at += (size_t)n;
  return reader->data + reader->at - n;
}

static uint64_t take_integer(Reader* reader, size_t n_bytes) {
  const unsigned char* const bytes = take(reader, n_bytes);
  uint64_t value = 0;
  for (size_t i = 0; i < n_bytes; ++i) value |= (uint64_t)bytes[i] << (8 * i);
  return value;
}

static Text take_text(Reader* reader) {
  const uint64_t size = take_integer(reader, 8);
  const Text text = {(const char*)take(reader, size), (size_t)size};
  return text;
}

static bool equal(Text a, const char* b) { return a.size == strlen(b) && memcmp(a.text, b, a.size) == 0; }

typedef struct {
  uint32_t n_layers, d_model, d_ff, n_heads, n_kv_heads, head_dim, vocab, n_rot, alignment;
  float eps, theta;
} Parameters;

// Bytes of GGUF's value types; 0 for a string (type 8) and an array (type 9).
static const size_t value_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

static void read_value(Reader* reader, Text key, Parameters* p) {
  uint32_t type = (uint32_t)take_integer(reader, 4);
  uint64_t n = 1;
  const bool is_array = type == 9;
  if (is_array) {
    type = (uint32_t)take_integer(reader, 4);
    n = take_integer(reader, 8);
  }
  if (type >= sizeof value_bytes / sizeof *value_bytes || type == 9) stop("a metadata value of unknown type", "");
  if (type == 8) {
    for (uint64_t i = 0; i < n; ++i) {
      const Text text = take_text(reader);
      if (!is_array && equal(key, "general.architecture") && !equal(text, "llama")) stop("the model is no llama", "");
    }
    return;
  }
  if (n > reader->size / value_bytes[type]) stop("the file ends early", "");
  const unsigned char* const bytes = take(reader, n * value_bytes[type]);
  if (is_array) return;
  if (type == 6) {
    if (equal(key, "llama.attention.layer_norm_rms_epsilon")) memcpy(&p->eps, bytes, 4);
    if (equal(key, "llama.rope.freq_base")) memcpy(&p->theta, bytes, 4);
  }
  if (type == 4) {
    struct {
      const char* name;
      uint32_t* value;
    } wanted[] = {{"general.alignment", &p->alignment},         {"llama.block_count", &p->n_layers},
                  {"llama.embedding_length", &p->d_model},      {"llama.feed_forward_length", &p->d_ff},
                  {"llama.attention.head_count", &p->n_heads},  {"llama.attention.head_count_kv", &p->n_kv_heads},
                  {"llama.attention.key_length", &p->head_dim}, {"llama.rope.dimension_count", &p->n_rot}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; ++i) {
      if (equal(key, wanted[i].name)) memcpy(wanted[i].value, bytes, 4);
    }
  }
}

// A matrix [rows, width] of F32 (type 0), F16 (1) or Q8_0 (8), inside the file's bytes.
typedef struct {
  const unsigned char* data;
  uint64_t rows, width;
  uint32_t type;
} Matrix;

typedef struct {
  Matrix attn_norm, attn_q, attn_k, attn_v, attn_output, ffn_norm, ffn_gate, ffn_up, ffn_down;
} Layer;

typedef struct {
  Parameters p;
  Matrix token_embd, output_norm, output;
  Layer layers[MOST_LAYERS];
} Model;

static size_t row_bytes(const Matrix* m) {
  return (size_t)(m->type == 0 ? m->width * 4 : m->type == 1 ? m->width * 2 : m->width / 32 * 34);
}

static Matrix* place_of(Model* model, Text name) {
  if (equal(name, "token_embd.weight")) return &model->token_embd;
  if (equal(name, "output_norm.weight")) return &model->output_norm;
  if (equal(name, "output.weight")) return &model->output;
  char copy[64];
  unsigned layer = 0;
  int end = 0;
  if (name.size >= sizeof copy) return NULL;
  memcpy(copy, name.text, name.size);
  copy[name.size] = '\0';
  if (sscanf(copy, "blk.%u.%n", &layer, &end) != 1 || end == 0 || layer >= MOST_LAYERS) return NULL;
  Layer* const l = &model->layers[layer];
  struct {
    const char* name;
    Matrix* matrix;
  } wanted[] = {
      {"attn_norm.weight", &l->attn_norm}, {"attn_q.weight", &l->attn_q},           {"attn_k.weight", &l->attn_k},
      {"attn_v.weight", &l->attn_v},       {"attn_output.weight", &l->attn_output}, {"ffn_norm.weight", &l->ffn_norm},
      {"ffn_gate.weight", &l->ffn_gate},   {"ffn_up.weight", &l->ffn_up},           {"ffn_down.weight", &l->ffn_down}};
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; ++i) {
    if (strcmp(copy + end, wanted[i].name) == 0) return wanted[i].matrix;
  }
  return NULL;
}

static void expect(const Matrix* m, uint64_t rows, uint64_t width, const char* name) {
  if (m->data == NULL) stop("the file lacks a tensor: ", name);
  if (m->rows != rows || m->width != width) stop("a tensor of another shape: ", name);
}

static void read_model(Model* model, const unsigned char* data, size_t size) {
  Reader reader = {data, size, 0};
  Parameters* const p = &model->p;
  if (memcmp(take(&reader, 4), "GGUF", 4) != 0) stop("no GGUF file", "");
  const uint64_t version = take_integer(&reader, 4);
  if (version != 2 && version != 3) stop("a GGUF file of another version than 2 and 3", "");
  const uint64_t n_tensors = take_integer(&reader, 8), n_values = take_integer(&reader, 8);
  p->theta = 10000.0f;
  p->alignment = 32;
  for (uint64_t i = 0; i < n_values; ++i) {
    const Text key = take_text(&reader);
    read_value(&reader, key, p);
  }
  if (p->alignment == 0) stop("an alignment of 0", "");
  if (n_tensors > size) stop("the file ends early", "");
  const size_t tensors_at = reader.at;
  for (int pass = 0; pass < 2; ++pass) {  // twice: the values begin after all of the tensors' descriptions
    const size_t values_at = (reader.at + p->alignment - 1) / p->alignment * p->alignment;
    reader.at = tensors_at;
    for (uint64_t i = 0; i < n_tensors; ++i) {
      const Text name = take_text(&reader);
      const uint32_t n_dims = (uint32_t)take_integer(&reader, 4);
      uint64_t dims[4] = {1, 1, 1, 1};
      if (n_dims > 4) stop("a tensor of more than 4 dimensions", "");
      for (uint32_t d = 0; d < n_dims; ++d) dims[d] = take_integer(&reader, 8);
      Matrix matrix = {NULL, dims[1], dims[0], (uint32_t)take_integer(&reader, 4)};
      const uint64_t offset = take_integer(&reader, 8);
      Matrix* const place = place_of(model, name);
      if (pass == 0 || (place == NULL && !equal(name, "rope_freqs.weight"))) continue;
      if (place == NULL) stop("the model scales its rotary frequencies, which this engine does not know", "");
      if (matrix.type != 0 && matrix.type != 1 && matrix.type != 8) stop("a tensor that is no F32, F16 or Q8_0", "");
      if (matrix.rows > MOST_ROWS || matrix.width > MOST_ROWS || (matrix.type == 8 && matrix.width % 32 != 0) ||
          values_at > size || offset > size - values_at || matrix.rows * row_bytes(&matrix) > size - values_at - offset) {
        stop("a tensor that lies outside of the file", "");
      }
      matrix.data = data + values_at + offset;
      *place = matrix;
    }
  }
  if (p->n_kv_heads == 0) p->n_kv_heads = p->n_heads;
  if (p->n_layers == 0 || p->n_layers > MOST_LAYERS || p->n_heads == 0 || p->n_heads % p->n_kv_heads != 0 || p->d_ff == 0) {
    stop("hyper-parameters are missing or out of range", "");
  }
  if (p->head_dim == 0) p->head_dim = p->d_model / p->n_heads;
  if (p->n_rot == 0) p->n_rot = p->head_dim;
  if (p->n_rot > p->head_dim || p->n_rot % 2 != 0 || p->head_dim > 1024 || p->n_heads > 1024) {
    stop("hyper-parameters are out of range", "");
  }
  p->vocab = (uint32_t)model->token_embd.rows;
  if (model->output.data == NULL) model->output = model->token_embd;  // tied
  const uint64_t d = p->d_model, q = (uint64_t)p->n_heads * p->head_dim, kv = (uint64_t)p->n_kv_heads * p->head_dim;
  expect(&model->token_embd, p->vocab, d, "token_embd.weight");
  expect(&model->output, p->vocab, d, "output.weight");
  expect(&model->output_norm, 1, d, "output_norm.weight");
  for (uint32_t i = 0; i < p->n_layers; ++i) {
    const Layer* const l = &model->layers[i];
    expect(&l->attn_norm, 1, d, "attn_norm.weight");
    expect(&l->attn_q, q, d, "attn_q.weight");
    expect(&l->attn_k, kv, d, "attn_k.weight");
    expect(&l->attn_v, kv, d, "attn_v.weight");
    expect(&l->attn_output, d, q, "attn_output.weight");
    expect(&l->ffn_norm, 1, d, "ffn_norm.weight");
    expect(&l->ffn_gate, p->d_ff, d, "ffn_gate.weight");
    expect(&l->ffn_up, p->d_ff, d, "ffn_up.weight");
    expect(&l->ffn_down, d, p->d_ff, "ffn_down.weight");
  }
}

static float* numbers(size_t n) {
  float* const x = (float*)calloc(n == 0 ? 1 : n, sizeof *x);
  if (x == NULL) stop("no memory", "");
  return x;
}

static float from_half(const unsigned char* bytes) {
  const uint32_t h = (uint32_t)(bytes[0] | bytes[1] << 8), exponent = h >> 10 & 31, fraction = h & 1023;
  const float value = exponent == 31  ? (fraction == 0 ? INFINITY : NAN)
                      : exponent == 0 ? ldexpf((float)fraction, -24)
                                      : ldexpf((float)(fraction | 1024), (int)exponent - 25);
  return h >> 15 ? -value : value;
}

static void read_row(const Matrix* m, uint64_t row, float* x) {
  const unsigned char* const data = m->data + row * row_bytes(m);
  if (m->type == 0) memcpy(x, data, (size_t)m->width * sizeof *x);
  for (uint64_t i = 0; m->type == 1 && i < m->width; ++i) x[i] = from_half(data + 2 * i);
  for (uint64_t i = 0; m->type == 8 && i < m->width; ++i) {
    const unsigned char* const block = data + i / 32 * 34;  // a half-precision scale and 32 signed bytes
    x[i] = from_half(block) * (float)(int)(signed char)block[2 + i % 32];
  }
}

// y[t, o] = sum_i w[o, i] x[t, i]
static void multiply(const Matrix* w, const float* x, size_t n_rows, float* y) {
  float* const row = numbers((size_t)w->width);
  for (uint64_t o = 0; o < w->rows; ++o) {
    read_row(w, o, row);
    for (size_t t = 0; t < n_rows; ++t) {
      double sum = 0;
      for (uint64_t i = 0; i < w->width; ++i) sum += (double)row[i] * x[t * w->width + i];
      y[t * w->rows + o] = (float)sum;
    }
  }
  free(row);
}

static void norm(const Matrix* weight, float eps, const float* x, size_t n_rows, float* y) {
  const size_t d = (size_t)weight->width;
  float* const w = numbers(d);
  read_row(weight, 0, w);
  for (size_t t = 0; t < n_rows; ++t) {
    double squares = 0;
    for (size_t i = 0; i < d; ++i) squares += (double)x[t * d + i] * x[t * d + i];
    const double scale = 1 / sqrt(squares / (double)d + eps);
    for (size_t i = 0; i < d; ++i) y[t * d + i] = (float)(x[t * d + i] * scale) * w[i];
  }
  free(w);
}

// Rotates components (2i, 2i+1) of every head; a llama's file has its rows in the order for this.
static void rotate(const Parameters* p, uint32_t n_heads, const float* x, size_t n_rows, size_t first_position, float* y) {
  const size_t width = (size_t)n_heads * p->head_dim;
  memcpy(y, x, n_rows * width * sizeof *y);
  for (size_t t = 0; t < n_rows; ++t) {
    for (uint32_t h = 0; h < n_heads; ++h) {
      for (uint32_t i = 0; i < p->n_rot; i += 2) {
        const double angle = (double)(first_position + t) * pow((double)p->theta, -(double)i / p->n_rot);
        const float a = x[t * width + h * p->head_dim + i], b = x[t * width + h * p->head_dim + i + 1];
        y[t * width + h * p->head_dim + i] = (float)(a * cos(angle) - b * sin(angle));
        y[t * width + h * p->head_dim + i + 1] = (float)(a * sin(angle) + b * cos(angle));
      }
    }
  }
}

// k, v: [positions, kv width], those of this step included.
static void attend(const Parameters* p, const float* q, size_t n_rows, size_t first_position, const float* k,
                   const float* v, float* y) {
  const size_t d = p->head_dim, q_width = p->n_heads * d, kv_width = p->n_kv_heads * d;
  float* const weights = numbers(first_position + n_rows);
  for (size_t t = 0; t < n_rows; ++t) {
    for (size_t h = 0; h < p->n_heads; ++h) {
      const size_t n = first_position + t + 1, group = h / (p->n_heads / p->n_kv_heads);
      double largest = -INFINITY, sum = 0;
      for (size_t s = 0; s < n; ++s) {
        double score = 0;
        for (size_t i = 0; i < d; ++i) score += (double)q[t * q_width + h * d + i] * k[s * kv_width + group * d + i];
        weights[s] = (float)(score / sqrt((double)d));
        largest = fmax(largest, weights[s]);
      }
      for (size_t s = 0; s < n; ++s) sum += exp(weights[s] - largest);
      for (size_t i = 0; i < d; ++i) {
        double mean = 0;
        for (size_t s = 0; s < n; ++s) mean += exp(weights[s] - largest) / sum * v[s * kv_width + group * d + i];
        y[t * q_width + h * d + i] = (float)mean;
      }
    }
  }
  free(weights);
}

typedef struct {
  float *k[MOST_LAYERS], *v[MOST_LAYERS];  // [positions, kv width]
} Cache;

// Runs the model over some tokens; the logits are those of the last one. After every op a call adds its result to the
// trace.
static void forward(const Model* model, Cache* cache, plumb_trace* trace, uint32_t step, const int32_t* tokens,
                    size_t n_rows, size_t first_position, float* logits) {
  const Parameters* const p = &model->p;
  const size_t d = p->d_model, q_width = (size_t)p->n_heads * p->head_dim, kv_width = (size_t)p->n_kv_heads * p->head_dim;
  float *x = numbers(n_rows * d), *h = numbers(n_rows * d), *out = numbers(n_rows * d);
  float *q = numbers(n_rows * q_width), *q_rope = numbers(n_rows * q_width), *ctx = numbers(n_rows * q_width);
  float *k = numbers(n_rows * kv_width), *gate = numbers(n_rows * p->d_ff), *up = numbers(n_rows * p->d_ff);
  for (size_t t = 0; t < n_rows; ++t) read_row(&model->token_embd, (uint64_t)tokens[t], x + t * d);
  plumb_trace_add(trace, step, "token_embd", PLUMB_TRACE_F32, n_rows, d, x);
  for (uint32_t i = 0; i < p->n_layers; ++i) {
    const Layer* const layer = &model->layers[i];
    float* const k_rope = cache->k[i] + first_position * kv_width;
    float* const v = cache->v[i] + first_position * kv_width;
#define ADD(name, width, data) plumb_trace_add_block(trace, step, i, name, PLUMB_TRACE_F32, n_rows, width, data)
    norm(&layer->attn_norm, p->eps, x, n_rows, h);
    ADD("attn_norm", d, h);
    multiply(&layer->attn_q, h, n_rows, q);
    ADD("attn_q", q_width, q);
    multiply(&layer->attn_k, h, n_rows, k);
    ADD("attn_k", kv_width, k);
    multiply(&layer->attn_v, h, n_rows, v);
    ADD("attn_v", kv_width, v);
    rotate(p, p->n_heads, q, n_rows, first_position, q_rope);
    ADD("attn_q_rope", q_width, q_rope);
    rotate(p, p->n_kv_heads, k, n_rows, first_position, k_rope);
    ADD("attn_k_rope", kv_width, k_rope);
    attend(p, q_rope, n_rows, first_position, cache->k[i], cache->v[i], ctx);
    ADD("attn_ctx", q_width, ctx);
    multiply(&layer->attn_output, ctx, n_rows, out);
    ADD("attn_out", d, out);
    for (size_t j = 0; j < n_rows * d; ++j) x[j] += out[j];
    ADD("attn_resid", d, x);
    norm(&layer->ffn_norm, p->eps, x, n_rows, h);
    ADD("ffn_norm", d, h);
    multiply(&layer->ffn_gate, h, n_rows, gate);
    ADD("ffn_gate", p->d_ff, gate);
    multiply(&layer->ffn_up, h, n_rows, up);
    ADD("ffn_up", p->d_ff, up);
    for (size_t j = 0; j < n_rows * p->d_ff; ++j) gate[j] = gate[j] / (1 + expf(-gate[j])) * up[j];
    ADD("ffn_act", p->d_ff, gate);
    multiply(&layer->ffn_down, gate, n_rows, out);
    ADD("ffn_down", d, out);
    for (size_t j = 0; j < n_rows * d; ++j) x[j] += out[j];
    ADD("output", d, x);
  }
  norm(&model->output_norm, p->eps, x, n_rows, h);
  plumb_trace_add(trace, step, "output_norm", PLUMB_TRACE_F32, n_rows, d, h);
  multiply(&model->output, h + (n_rows - 1) * d, 1, logits);
  plumb_trace_add(trace, step, "logits", PLUMB_TRACE_F32, 1, p->vocab, logits);
  float* const all[] = {x, h, out, q, q_rope, ctx, k, gate, up};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) free(all[i]);
}

int main(int n_arguments, char** arguments) {
  if (n_arguments < 5) stop("usage: naive_llama MODEL.gguf OUT.safetensors STEPS TOKEN...", "");
  FILE* const file = fopen(arguments[1], "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) stop("cannot open ", arguments[1]);
  const long size = ftell(file);
  unsigned char* const data = size > 0 ? (unsigned char*)malloc((size_t)size) : NULL;
  rewind(file);
  if (data == NULL || fread(data, 1, (size_t)size, file) != (size_t)size) stop("cannot read ", arguments[1]);
  fclose(file);
  static Model model;
  read_model(&model, data, (size_t)size);

  const Parameters* const p = &model.p;
  const size_t n_prompt = (size_t)n_arguments - 4;
  const unsigned long n_steps = strtoul(arguments[3], NULL, 10);
  if (n_steps > MOST_POSITIONS || n_prompt > MOST_POSITIONS - n_steps) stop("too many tokens or steps", "");
  static int32_t tokens[MOST_POSITIONS + 1];
  for (size_t i = 0; i < n_prompt; ++i) {
    const unsigned long id = strtoul(arguments[4 + i], NULL, 10);
    if (id >= p->vocab) stop("no token of this model: ", arguments[4 + i]);
    tokens[i] = (int32_t)id;
  }
  Cache cache;
  const size_t kv_width = (size_t)p->n_kv_heads * p->head_dim;
  for (uint32_t i = 0; i < p->n_layers; ++i) {
    cache.k[i] = numbers((n_prompt + n_steps) * kv_width);
    cache.v[i] = numbers((n_prompt + n_steps) * kv_width);
  }

  plumb_trace trace;
  char parameters[256];
  const char* const slash = strrchr(arguments[1], '/');
  plumb_trace_create(&trace, arguments[2], "naive_llama", slash == NULL ? arguments[1] : slash + 1);
  snprintf(parameters, sizeof parameters,
           "{\"n_layers\": %u, \"n_heads\": %u, \"n_kv_heads\": %u, \"rope_pairing\": \"adjacent\", \"rope_theta\": %.9g, "
           "\"rms_eps\": %.9g}",
           p->n_layers, p->n_heads, p->n_kv_heads, (double)p->theta, (double)p->eps);
  plumb_trace_set(&trace, "parameters", parameters);
  plumb_trace_tokens(&trace, tokens, n_prompt);
  float* const logits = numbers(p->vocab);
  for (uint32_t step = 0; step <= n_steps; ++step) {
    const size_t n_rows = step == 0 ? n_prompt : 1, first = step == 0 ? 0 : n_prompt + step - 1;
    forward(&model, &cache, &trace, step, tokens + first, n_rows, first, logits);
    int32_t best = 0;
    for (uint32_t i = 1; i < p->vocab; ++i) best = logits[i] > logits[best] ? (int32_t)i : best;
    if (step < n_steps) plumb_trace_tokens(&trace, &best, 1);
    tokens[first + n_rows] = best;
    printf("%d%s", best, step < n_steps ? " " : "\n");
  }
  for (uint32_t i = 0; i < p->n_layers; ++i) {
    free(cache.k[i]);
    free(cache.v[i]);
  }
  free(logits);
  free(data);
  if (!plumb_trace_finish(&trace)) stop(plumb_trace_error(&trace), "");
  return 0;
}
