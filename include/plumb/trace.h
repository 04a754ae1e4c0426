// Writes a Plumb trace: one file with the values that an inference engine computes on its way from tokens to logits.
// `plumb diagnose` checks them op by op. For any engine in C (C99) or C++ (C++11). This header is the whole library: it
// needs only the C standard library, has no global state, and may be included in as many files as you like.
//
//   #include <plumb/trace.h>
//
//   plumb_trace trace;
//   plumb_trace_create(&trace, "run.safetensors", "my engine 1.2", "model.gguf");
//   plumb_trace_prompt(&trace, prompt, strlen(prompt));
//   plumb_trace_tokens(&trace, tokens, n_tokens);
//   plumb_trace_set(&trace, "parameters", "{\"n_heads\": 32, \"rope_theta\": 10000}");
//   ...
//   // where the engine has computed a value; step 0 is the pass over the prompt
//   plumb_trace_add(&trace, step, "token_embd", PLUMB_TRACE_F32, n_tokens, d_model, x);
//   plumb_trace_add_block(&trace, step, layer, "attn_q", PLUMB_TRACE_F16, n_tokens, n_heads * head_dim, q);
//   ...
//   // after the sampler has chosen the token of the next step
//   plumb_trace_tokens(&trace, &token, 1);
//   ...
//   if (!plumb_trace_finish(&trace)) fprintf(stderr, "%s\n", plumb_trace_error(&trace));
//
// Errors: every function returns true, or false after an error. The first error ends the trace: its temporary file is
// deleted, its memory is freed, and all later calls do nothing and return false. So an engine may ignore every return value
// but that of plumb_trace_finish, which is true only if all calls succeeded; plumb_trace_error says what went wrong.
//
// The file: each value is written at once to a temporary file beside `path`, and is not kept in memory. When
// plumb_trace_finish succeeds, the temporary file is renamed to `path` and replaces whatever was there (a file, a link or
// a device). plumb_trace_abandon deletes the temporary file instead.
//
// What a value means. A trace may have any of these values; the more it has, the more exactly a fault can be located. Each
// is [rows, width], row-major, features last. T is the number of tokens in the step, d the width of the residual stream.
// Names follow the GGUF file's tensors: the tensor blk.3.attn_q.weight produces the value blk.3.attn_q.
//
//   token_embd                  [T, d]                 embedding rows, after any scaling the architecture applies
//   position_embd, embd         [T, d]                 rows of learned positions, and the sum of both, where the
//                                                      architecture has them
//   blk.N.attn_norm             [T, d]                 the norm before attention, weight applied
//   blk.N.attn_q                [T, n_heads*head_dim]  projection with bias, before any norm and rotation
//   blk.N.attn_k, .attn_v       [T, n_kv_heads*head_dim]
//   blk.N.attn_q_norm, .attn_k_norm  same as q, k      the norms of each head, where the architecture has them
//   blk.N.attn_q_rope, .attn_k_rope  same as q, k      after rotary embedding
//   blk.N.attn_probs            [n_heads*T, S]         softmax over the S positions cached so far, of row (head*T + token)
//   blk.N.attn_ctx              [T, n_heads*head_dim]  weighted sum of V, before the output projection
//   blk.N.attn_out              [T, d]                 the output projection
//   blk.N.attn_post_norm        [T, d]                 the norm after it, where the architecture has it
//   blk.N.attn_resid            [T, d]                 the residual stream after attention
//   blk.N.ffn_norm              [T, d]                 the norm before the feed-forward, weight applied
//   blk.N.ffn_gate, .ffn_up     [T, d_ff]
//   blk.N.ffn_act               [T, d_ff]              activation(ffn_gate) * ffn_up
//   blk.N.ffn_down              [T, d]
//   blk.N.ffn_post_norm         [T, d]                 where the architecture has it
//   blk.N.ffn_router            [T, n_experts]         router logits of a mixture of experts
//   blk.N.ffn_experts           [T, chosen]            the chosen experts' numbers, the largest logit first
//   blk.N.ffn_expert_weights    [T, chosen]            their weights
//   blk.N.output                [T, d]                 the residual stream after the block
//   output_norm                 [T, d]                 the final norm
//   logits                      [T or 1, vocab]        before any sampling; 1: of the last token
//
// Heads lie one after the other in a row: component i of head h is at h*head_dim + i. In GGUF files of the architecture
// "llama" the rows of attn_q.weight and attn_k.weight are permuted within each head, so that the rotary embedding turns
// components (2i, 2i+1). attn_q, attn_k, attn_q_rope and attn_k_rope must be in the order of the *file's* rows. An engine
// that multiplies with the file's weights already has this order. An engine that runs the original weights, where
// (i, i + head_dim/2) turn, puts component i of the first half at 2i and component i of the second half at 2i+1 before it
// adds the value. Files of qwen2, qwen3 and most other architectures are not permuted.
//
// Leave out a value that is never written to memory because its kernel is fused with another. Values must be complete and
// in host memory when they are added: synchronize with the GPU first.
//
// Steps. Step 0 takes any number of tokens, usually the prompt; each later step takes one token. An engine that feeds the
// prompt token by token therefore has one step for each token. For an engine that splits prompts into batches, choose a
// prompt that fits into one batch.
//
// The format is safetensors (https://github.com/huggingface/safetensors), which Python, Rust and others read; keys are
// "<step>/<name>". __metadata__ has format "plumb-trace", version "1", engine, model, tokens and the texts set below.
#ifndef PLUMB_TRACE_H
#define PLUMB_TRACE_H

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef enum plumb_trace_dtype {
  PLUMB_TRACE_F32 = 0,
  PLUMB_TRACE_F16 = 1,  // IEEE 754 binary16
  PLUMB_TRACE_BF16 = 2
} plumb_trace_dtype;

// A growing text buffer; a part of plumb_trace.
typedef struct plumb_trace_text {
  char* data;  // ends with '\0' where it is not NULL
  size_t size, capacity;
} plumb_trace_text;

// A trace that is being written. Its members are private. It may be moved but not copied. One trace must not be used from
// several threads at once; different traces are independent.
typedef struct plumb_trace {
  FILE* file;  // NULL: finished, abandoned or ended by an error
  char* path;
  char* temporary;
  plumb_trace_text metadata, tokens, positions, entries;  // JSON
  uint64_t n_tokens, n_positions, n_values, n_bytes;
  uint32_t* index;  // hash table: 1 + the place in `entries` where a key begins
  size_t index_capacity;
  char error[512];
} plumb_trace;

// Begins a trace, to be ended by plumb_trace_finish or plumb_trace_abandon. `trace` need not be initialized. engine: a name
// and version, for people. model: the model's file name.
// Texts, here and below, are UTF-8. Each invalid byte is replaced by U+FFFD, so that the file is valid.
static inline bool plumb_trace_create(plumb_trace* trace, const char* path, const char* engine, const char* model);

// The prompt: any bytes, possibly none. Optional: diagnosis works from the tokens; with the prompt it can check the
// tokenizer too.
static inline bool plumb_trace_prompt(plumb_trace* trace, const void* bytes, size_t n_bytes);

// Appends token ids in the order in which the model sees them: those of step 0, then one for each later step. May be called
// once or often, before, between or after the values. A trace needs at least one token.
static inline bool plumb_trace_tokens(plumb_trace* trace, const int32_t* tokens, size_t n_tokens);

// Appends the positions of tokens. Needed only where they are not 0, 1, 2, ...: at the end each token has one, or none has.
static inline bool plumb_trace_positions(plumb_trace* trace, const uint32_t* positions, size_t n_positions);

// The SHA-256 of the model's file, 64 hexadecimal digits. Optional: with it, diagnosis can check that both sides read the
// same file.
static inline bool plumb_trace_model_sha256(plumb_trace* trace, const char* digits);

// Sets a metadata text under a key that was not set before. The key "context" takes a number: the positions of the cache
// that the engine made for the run, by which some models choose their rotary factors. The key "parameters" takes a JSON
// object: the hyper-parameters that the engine computes with. Diagnosis compares them with the file's. All are optional:
//
//   architecture                     as general.architecture has it
//   n_layers, d_model, d_ff, n_heads, n_kv_heads, head_dim, vocab_size
//   rms_eps
//   rope_theta                       frequency base
//   rope_dim                         components of a head that rotate
//   rope_pairing                     "adjacent": components (2i, 2i+1) turn together; "halves": (i, i + rope_dim/2)
//   rope_scaling, rope_factor        "none", "linear" or "yarn", and the context extension
//   sliding_window                   positions that a token attends to; 0: all
//   attn_scale                       the factor of q . k, usually 1/sqrt(head_dim)
//   attn_softcap, logit_softcap      0: none
//   embedding_scale
//   tied_embeddings                  true: token_embd.weight makes the logits
//   n_experts, n_experts_used
//   bos_id, eos_id, add_bos
//
// Give the numbers that the engine's code uses, not those that it read from the file: diagnosis looks for the difference.
static inline bool plumb_trace_set(plumb_trace* trace, const char* key, const char* text);

// Adds the value `name` of a step: rows * width numbers without gaps, in the machine's byte order. Errors: the step already
// has this value; no elements; step 1,000,000 or more.
static inline bool plumb_trace_add(plumb_trace* trace, uint32_t step, const char* name, plumb_trace_dtype dtype,
                                   uint64_t rows, uint64_t width, const void* data);

// Adds the value blk.<layer>.<name> in the same way.
static inline bool plumb_trace_add_block(plumb_trace* trace, uint32_t step, uint32_t layer, const char* name,
                                         plumb_trace_dtype dtype, uint64_t rows, uint64_t width, const void* data);

// Completes the file and gives it its name. Errors: an earlier call failed; there are no values or no tokens; only some
// tokens have positions; the file cannot be written or renamed.
static inline bool plumb_trace_finish(plumb_trace* trace);

// Deletes what was written. Does nothing to a trace that is finished or ended by an error, so every exit path may call it.
static inline void plumb_trace_abandon(plumb_trace* trace);

// The error, a sentence without a full stop; "" if there was none. The text belongs to the trace and stays valid until
// plumb_trace_create is called again.
static inline const char* plumb_trace_error(const plumb_trace* trace);

// The implementation. Its names begin with plumb_trace_impl_ and may change.

enum {
  // Plumb reads headers of up to 64 MiB, about 400,000 values. 256 bytes are left for braces and padding.
  PLUMB_TRACE_IMPL_MOST_HEADER_BYTES = (64 << 20) - 256,
  // The header stands before the values but is known only after them. This much room is reserved for it, enough for about
  // 2,000 values. For a longer header, plumb_trace_finish moves the values once.
  PLUMB_TRACE_IMPL_ROOM_BYTES = (256 << 10) - 8,
  PLUMB_TRACE_IMPL_CHUNK_BYTES = 1 << 18,
  PLUMB_TRACE_IMPL_MOST_STEPS = 1000000
};

static inline void plumb_trace_impl_release(plumb_trace* trace) {
  if (trace->file != NULL) {
    fclose(trace->file);
    trace->file = NULL;
  }
  if (trace->temporary != NULL) {
    remove(trace->temporary);
    free(trace->temporary);
    trace->temporary = NULL;
  }
  free(trace->path);
  free(trace->metadata.data);
  free(trace->tokens.data);
  free(trace->positions.data);
  free(trace->entries.data);
  free(trace->index);
  trace->path = NULL;
  trace->metadata.data = trace->tokens.data = trace->positions.data = trace->entries.data = NULL;
  trace->index = NULL;
}

#if defined(__GNUC__)
static inline bool plumb_trace_impl_fail(plumb_trace* trace, const char* format, ...) __attribute__((format(printf, 2, 3)));
#endif
static inline bool plumb_trace_impl_fail(plumb_trace* trace, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(trace->error, sizeof trace->error, format, arguments);
  va_end(arguments);
  plumb_trace_impl_release(trace);
  return false;
}

// Whether the trace is still open. Using a trace that was finished or abandoned is an error.
static inline bool plumb_trace_impl_is_open(plumb_trace* trace) {
  if (trace->file != NULL) return true;
  if (trace->error[0] == '\0') plumb_trace_impl_fail(trace, "the trace was used after it was finished or abandoned");
  return false;
}

static inline bool plumb_trace_impl_append(plumb_trace* trace, plumb_trace_text* text, const char* bytes, size_t n) {
  const size_t used = trace->metadata.size + trace->tokens.size + trace->positions.size + trace->entries.size;
  if (n > (size_t)PLUMB_TRACE_IMPL_MOST_HEADER_BYTES - used) {
    return plumb_trace_impl_fail(trace, "%s: the header would exceed %d bytes; trace fewer values or steps", trace->path,
                                 (int)PLUMB_TRACE_IMPL_MOST_HEADER_BYTES);
  }
  if (text->size + n + 1 > text->capacity) {
    const size_t capacity = 2 * (text->size + n) + 256;
    char* const grown = (char*)realloc(text->data, capacity);
    if (grown == NULL) return plumb_trace_impl_fail(trace, "%s: no memory for the header", trace->path);
    text->data = grown;
    text->capacity = capacity;
  }
  memcpy(text->data + text->size, bytes, n);
  text->size += n;
  text->data[text->size] = '\0';
  return true;
}

static inline bool plumb_trace_impl_append_text(plumb_trace* trace, plumb_trace_text* text, const char* bytes) {
  return plumb_trace_impl_append(trace, text, bytes, strlen(bytes));
}

// The length of the well-formed UTF-8 sequence that begins here (table 3-7 of the Unicode standard), or 0.
static inline size_t plumb_trace_impl_utf8(const unsigned char* bytes, size_t n) {
  const unsigned char first = bytes[0];
  unsigned char least = 0x80, most = 0xbf;  // of the second byte
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  const size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (length > n) return 0;
  if (first == 0xe0) least = 0xa0;
  if (first == 0xed) most = 0x9f;
  if (first == 0xf0) least = 0x90;
  if (first == 0xf4) most = 0x8f;
  if (bytes[1] < least || bytes[1] > most) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (bytes[i] < 0x80 || bytes[i] > 0xbf) return 0;
  }
  return length;
}

// Appends the inside of a JSON string. A quote is written as a hexadecimal escape, so the text that is appended has no '"'.
static inline bool plumb_trace_impl_append_escaped(plumb_trace* trace, plumb_trace_text* text, const char* bytes,
                                                   size_t n) {
  const unsigned char* const data = (const unsigned char*)bytes;
  size_t begin = 0, i = 0;
  while (i < n) {
    const size_t length = plumb_trace_impl_utf8(data + i, n - i);
    char escape[8] = "\\ufffd";
    if (length > 1 || (length == 1 && data[i] >= 0x20 && data[i] != '"' && data[i] != '\\')) {
      i += length;
      continue;
    }
    if (length == 1) snprintf(escape, sizeof escape, "\\u%04x", (unsigned)data[i]);
    if (!plumb_trace_impl_append(trace, text, bytes + begin, i - begin)) return false;
    if (!plumb_trace_impl_append_text(trace, text, escape)) return false;
    begin = ++i;
  }
  return begin == n || plumb_trace_impl_append(trace, text, bytes + begin, n - begin);
}

static inline bool plumb_trace_impl_set(plumb_trace* trace, const char* key, const char* bytes, size_t n) {
  const size_t begin = trace->metadata.size;
  if (!plumb_trace_impl_append_text(trace, &trace->metadata, begin == 0 ? "\"" : ",\"")) return false;
  if (!plumb_trace_impl_append_escaped(trace, &trace->metadata, key, strlen(key))) return false;
  if (!plumb_trace_impl_append_text(trace, &trace->metadata, "\":\"")) return false;
  // The key is appended, then searched for: found earlier in the text, it was set before.
  if (strcmp(key, "tokens") == 0 || strcmp(key, "positions") == 0 || strcmp(key, "format") == 0 ||
      (begin > 0 && strstr(trace->metadata.data, trace->metadata.data + begin) != trace->metadata.data + begin)) {
    return plumb_trace_impl_fail(trace, "%s: metadata '%.100s' is set a second time, or by the wrong function", trace->path,
                                 key);
  }
  return plumb_trace_impl_append_escaped(trace, &trace->metadata, bytes, n) &&
         plumb_trace_impl_append_text(trace, &trace->metadata, "\"");
}

static inline bool plumb_trace_impl_write(plumb_trace* trace, const void* bytes, size_t n) {
  if (fwrite(bytes, 1, n, trace->file) == n) return true;
  return plumb_trace_impl_fail(trace, "%s: cannot write: %s", trace->temporary, strerror(errno));
}

static inline bool plumb_trace_impl_write_spaces(plumb_trace* trace, size_t n) {
  char spaces[256];
  memset(spaces, ' ', sizeof spaces);
  while (n > 0) {
    const size_t part = n < sizeof spaces ? n : sizeof spaces;
    if (!plumb_trace_impl_write(trace, spaces, part)) return false;
    n -= part;
  }
  return true;
}

static inline uint32_t plumb_trace_impl_hash(const char* bytes, size_t n) {
  uint32_t hash = 2166136261u;  // FNV-1a
  for (size_t i = 0; i < n; ++i) hash = (hash ^ (unsigned char)bytes[i]) * 16777619u;
  return hash;
}

// The length of the key that begins here in `entries`. Keys contain no '"'.
static inline size_t plumb_trace_impl_key_length(const char* key) { return (size_t)(strchr(key, '"') - key); }

// Puts the key at entries[begin] into the index. Returns 1: done, 0: it is there already, -1: no memory.
static inline int plumb_trace_impl_insert(plumb_trace* trace, size_t begin) {
  const char* const entries = trace->entries.data;
  const size_t length = plumb_trace_impl_key_length(entries + begin);
  size_t slot;
  if (trace->n_values * 2 >= trace->index_capacity) {
    const size_t capacity = trace->index_capacity == 0 ? 1024 : 2 * trace->index_capacity;
    uint32_t* const grown = (uint32_t*)calloc(capacity, sizeof *grown);
    if (grown == NULL) return -1;
    for (size_t i = 0; i < trace->index_capacity; ++i) {
      if (trace->index[i] == 0) continue;
      const char* const key = entries + trace->index[i] - 1;
      slot = plumb_trace_impl_hash(key, plumb_trace_impl_key_length(key)) & (capacity - 1);
      while (grown[slot] != 0) slot = (slot + 1) & (capacity - 1);
      grown[slot] = trace->index[i];
    }
    free(trace->index);
    trace->index = grown;
    trace->index_capacity = capacity;
  }
  slot = plumb_trace_impl_hash(entries + begin, length) & (trace->index_capacity - 1);
  for (; trace->index[slot] != 0; slot = (slot + 1) & (trace->index_capacity - 1)) {
    const char* const key = entries + trace->index[slot] - 1;
    if (plumb_trace_impl_key_length(key) == length && memcmp(key, entries + begin, length) == 0) return 0;
  }
  trace->index[slot] = (uint32_t)begin + 1;
  return 1;
}

// Moves the n_bytes bytes before the current file position by `distance` bytes towards the end. Seeks are relative and
// short, so that a 32-bit long suffices in a file of any size.
static inline bool plumb_trace_impl_shift(plumb_trace* trace, uint64_t n_bytes, size_t distance) {
  char* const chunk = (char*)malloc(PLUMB_TRACE_IMPL_CHUNK_BYTES);
  bool done = chunk != NULL;
  while (done && n_bytes > 0) {
    const size_t part = n_bytes < PLUMB_TRACE_IMPL_CHUNK_BYTES ? (size_t)n_bytes : (size_t)PLUMB_TRACE_IMPL_CHUNK_BYTES;
    done = fseek(trace->file, -(long)part, SEEK_CUR) == 0 && fread(chunk, 1, part, trace->file) == part &&
           fseek(trace->file, (long)distance - (long)part, SEEK_CUR) == 0 && fwrite(chunk, 1, part, trace->file) == part &&
           fseek(trace->file, -(long)part - (long)distance, SEEK_CUR) == 0;
    n_bytes -= part;
  }
  free(chunk);
  return done || plumb_trace_impl_fail(trace, "%s: cannot make room for the header: %s", trace->temporary, strerror(errno));
}

static inline char* plumb_trace_impl_copy(const char* text, const char* suffix) {
  const size_t n = strlen(text) + strlen(suffix) + 1;
  char* const copy = (char*)malloc(n);
  if (copy != NULL) snprintf(copy, n, "%s%s", text, suffix);
  return copy;
}

static inline bool plumb_trace_create(plumb_trace* trace, const char* path, const char* engine, const char* model) {
  const uint16_t one = 1;
  memset(trace, 0, sizeof *trace);
  if (path == NULL || engine == NULL || model == NULL) {
    return plumb_trace_impl_fail(trace, "a trace needs a path, an engine and a model");
  }
  if (*(const unsigned char*)&one != 1) {
    return plumb_trace_impl_fail(trace, "traces are little-endian, and this machine is not");
  }
  errno = 0;
  FILE* existing = fopen(path, "r+b");
  if (existing != NULL) fclose(existing);
#ifdef EISDIR
  if (existing == NULL && errno == EISDIR) return plumb_trace_impl_fail(trace, "%s: is a folder; name a file", path);
#endif
  trace->path = plumb_trace_impl_copy(path, "");
  if (trace->path == NULL) return plumb_trace_impl_fail(trace, "%s: no memory for a trace", path);
  // C99 cannot create a file exclusively, so the name is made from things that differ between processes and traces.
  for (int attempt = 0; attempt < 100 && trace->temporary == NULL; ++attempt) {
    char suffix[64];
    snprintf(suffix, sizeof suffix, ".%08" PRIx32 "%08" PRIx32 "-%d.tmp", (uint32_t)time(NULL) ^ ((uint32_t)clock() << 8),
             (uint32_t)((uintptr_t)trace >> 4), attempt);
    trace->temporary = plumb_trace_impl_copy(path, suffix);
    if (trace->temporary == NULL) return plumb_trace_impl_fail(trace, "%s: no memory for a trace", path);
    existing = fopen(trace->temporary, "rb");
    if (existing != NULL) {
      fclose(existing);
      free(trace->temporary);
      trace->temporary = NULL;
    }
  }
  errno = 0;
  if (trace->temporary != NULL) trace->file = fopen(trace->temporary, "w+b");
  if (trace->file == NULL) {
    free(trace->temporary);
    trace->temporary = NULL;
    return plumb_trace_impl_fail(trace, "%s: cannot create a file beside it: %s", path, strerror(errno));
  }
  return plumb_trace_impl_write_spaces(trace, 8 + (size_t)PLUMB_TRACE_IMPL_ROOM_BYTES) &&
         plumb_trace_impl_append_text(trace, &trace->metadata, "\"format\":\"plumb-trace\"") &&
         plumb_trace_set(trace, "version", "1") && plumb_trace_set(trace, "engine", engine) &&
         plumb_trace_set(trace, "model", model);
}

static inline bool plumb_trace_prompt(plumb_trace* trace, const void* bytes, size_t n_bytes) {
  return plumb_trace_impl_is_open(trace) && plumb_trace_impl_set(trace, "prompt", (const char*)bytes, n_bytes);
}

static inline bool plumb_trace_set(plumb_trace* trace, const char* key, const char* text) {
  if (!plumb_trace_impl_is_open(trace)) return false;
  if (key == NULL || text == NULL) return plumb_trace_impl_fail(trace, "%s: metadata without key or text", trace->path);
  return plumb_trace_impl_set(trace, key, text, strlen(text));
}

static inline bool plumb_trace_model_sha256(plumb_trace* trace, const char* digits) {
  if (!plumb_trace_impl_is_open(trace)) return false;
  if (digits == NULL || strlen(digits) != 64 || strspn(digits, "0123456789abcdefABCDEF") != 64) {
    return plumb_trace_impl_fail(trace, "%s: a SHA-256 has 64 hexadecimal digits", trace->path);
  }
  return plumb_trace_set(trace, "model_sha256", digits);
}

static inline bool plumb_trace_tokens(plumb_trace* trace, const int32_t* tokens, size_t n_tokens) {
  if (!plumb_trace_impl_is_open(trace)) return false;
  for (size_t i = 0; i < n_tokens; ++i) {
    char number[16];
    if (tokens[i] < 0) {
      return plumb_trace_impl_fail(trace, "%s: token %" PRIu64 " has the id %" PRId32, trace->path, trace->n_tokens,
                                   tokens[i]);
    }
    snprintf(number, sizeof number, "%s%" PRId32, trace->n_tokens == 0 ? "" : ",", tokens[i]);
    if (!plumb_trace_impl_append_text(trace, &trace->tokens, number)) return false;
    ++trace->n_tokens;
  }
  return true;
}

static inline bool plumb_trace_positions(plumb_trace* trace, const uint32_t* positions, size_t n_positions) {
  if (!plumb_trace_impl_is_open(trace)) return false;
  for (size_t i = 0; i < n_positions; ++i) {
    char number[16];
    snprintf(number, sizeof number, "%s%" PRIu32, trace->n_positions == 0 ? "" : ",", positions[i]);
    if (!plumb_trace_impl_append_text(trace, &trace->positions, number)) return false;
    ++trace->n_positions;
  }
  return true;
}

static inline bool plumb_trace_impl_add(plumb_trace* trace, uint32_t step, const char* prefix, const char* name,
                                        plumb_trace_dtype dtype, uint64_t rows, uint64_t width, const void* data) {
  static const char* const names[] = {"F32", "F16", "BF16"};
  char text[160];
  if (!plumb_trace_impl_is_open(trace)) return false;
  if (name == NULL || name[0] == '\0') return plumb_trace_impl_fail(trace, "%s: a value without a name", trace->path);
  if (step >= PLUMB_TRACE_IMPL_MOST_STEPS) {
    return plumb_trace_impl_fail(trace, "%s: '%s%.100s' is of step %" PRIu32 "; a trace has fewer than %d", trace->path,
                                 prefix, name, step, (int)PLUMB_TRACE_IMPL_MOST_STEPS);
  }
  if (dtype != PLUMB_TRACE_F32 && dtype != PLUMB_TRACE_F16 && dtype != PLUMB_TRACE_BF16) {
    return plumb_trace_impl_fail(trace, "%s: '%s%.100s' is of type %d, which is none of plumb_trace_dtype", trace->path,
                                 prefix, name, (int)dtype);
  }
  const uint64_t element = dtype == PLUMB_TRACE_F32 ? 4 : 2;
  // No file is larger than 2^62 bytes; below that, no sum of sizes overflows.
  if (data == NULL || rows == 0 || width == 0 || rows > (((uint64_t)1 << 62) - trace->n_bytes) / element / width ||
      rows * width > SIZE_MAX / element) {
    return plumb_trace_impl_fail(trace, "%s: '%s%.100s' cannot have %" PRIu64 " x %" PRIu64 " numbers at %p", trace->path,
                                 prefix, name, rows, width, (const void*)data);
  }
  const uint64_t size = rows * width * element;
  snprintf(text, sizeof text, ",\"%" PRIu32 "/", step);
  if (!plumb_trace_impl_append_text(trace, &trace->entries, text)) return false;
  const size_t begin = trace->entries.size - strlen(text) + 2;
  if (!plumb_trace_impl_append_escaped(trace, &trace->entries, prefix, strlen(prefix)) ||
      !plumb_trace_impl_append_escaped(trace, &trace->entries, name, strlen(name))) {
    return false;
  }
  snprintf(text, sizeof text,
           "\":{\"dtype\":\"%s\",\"shape\":[%" PRIu64 ",%" PRIu64 "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
           names[dtype], rows, width, trace->n_bytes, trace->n_bytes + size);
  if (!plumb_trace_impl_append_text(trace, &trace->entries, text)) return false;
  const int inserted = plumb_trace_impl_insert(trace, begin);
  if (inserted < 0) return plumb_trace_impl_fail(trace, "%s: no memory for the header", trace->path);
  if (inserted == 0) {
    return plumb_trace_impl_fail(trace, "%s: '%s%.100s' of step %" PRIu32 " is added a second time", trace->path, prefix,
                                 name, step);
  }
  ++trace->n_values;
  trace->n_bytes += size;
  return plumb_trace_impl_write(trace, data, (size_t)size);
}

static inline bool plumb_trace_add(plumb_trace* trace, uint32_t step, const char* name, plumb_trace_dtype dtype,
                                   uint64_t rows, uint64_t width, const void* data) {
  return plumb_trace_impl_add(trace, step, "", name, dtype, rows, width, data);
}

static inline bool plumb_trace_add_block(plumb_trace* trace, uint32_t step, uint32_t layer, const char* name,
                                         plumb_trace_dtype dtype, uint64_t rows, uint64_t width, const void* data) {
  char prefix[24];
  snprintf(prefix, sizeof prefix, "blk.%" PRIu32 ".", layer);
  return plumb_trace_impl_add(trace, step, prefix, name, dtype, rows, width, data);
}

static inline bool plumb_trace_finish(plumb_trace* trace) {
  if (!plumb_trace_impl_is_open(trace)) return false;
  if (trace->n_tokens == 0) return plumb_trace_impl_fail(trace, "%s: a trace needs tokens", trace->path);
  if (trace->n_values == 0) return plumb_trace_impl_fail(trace, "%s: a trace needs values", trace->path);
  if (trace->n_positions != 0 && trace->n_positions != trace->n_tokens) {
    return plumb_trace_impl_fail(trace, "%s: %" PRIu64 " positions for %" PRIu64 " tokens", trace->path, trace->n_positions,
                                 trace->n_tokens);
  }
  const char* const parts[] = {"{\"__metadata__\":{",
                               trace->metadata.data,
                               ",\"tokens\":\"[",
                               trace->tokens.data,
                               trace->n_positions == 0 ? "" : "]\",\"positions\":\"[",
                               trace->n_positions == 0 ? "" : trace->positions.data,
                               "]\"}",
                               trace->entries.data,
                               "}"};
  const size_t n_parts = sizeof parts / sizeof *parts;
  size_t size = 0, room = PLUMB_TRACE_IMPL_ROOM_BYTES;
  for (size_t i = 0; i < n_parts; ++i) size += strlen(parts[i]);
  if (size > room) {
    room = (size + 8 + 63) / 64 * 64 - 8;  // so that values begin at a multiple of 64 bytes
    if (!plumb_trace_impl_shift(trace, trace->n_bytes, room - PLUMB_TRACE_IMPL_ROOM_BYTES)) return false;
  }
  unsigned char length[8];
  for (size_t i = 0; i < sizeof length; ++i) length[i] = (unsigned char)((uint64_t)room >> (8 * i) & 0xff);
  if (fseek(trace->file, 0, SEEK_SET) != 0) {
    return plumb_trace_impl_fail(trace, "%s: cannot seek: %s", trace->temporary, strerror(errno));
  }
  if (!plumb_trace_impl_write(trace, length, sizeof length)) return false;
  for (size_t i = 0; i < n_parts; ++i) {
    if (!plumb_trace_impl_write(trace, parts[i], strlen(parts[i]))) return false;
  }
  if (!plumb_trace_impl_write_spaces(trace, room - size)) return false;
  const bool closed = fclose(trace->file) == 0;
  trace->file = NULL;
  if (!closed) return plumb_trace_impl_fail(trace, "%s: cannot write: %s", trace->temporary, strerror(errno));
#ifdef _WIN32
  remove(trace->path);  // on other systems rename() replaces the file
#endif
  if (rename(trace->temporary, trace->path) != 0) {
    return plumb_trace_impl_fail(trace, "%s: cannot rename the finished file: %s", trace->path, strerror(errno));
  }
  free(trace->temporary);
  trace->temporary = NULL;
  plumb_trace_impl_release(trace);
  return true;
}

static inline void plumb_trace_abandon(plumb_trace* trace) {
  if (trace->file != NULL) plumb_trace_impl_release(trace);
}

static inline const char* plumb_trace_error(const plumb_trace* trace) { return trace->error; }

#endif
