/* Plumb as a C library: plumb/plumb.h for C99, C++, and every language that calls C. Link with -lplumb_c.
 *
 *   plumb_model* model = plumb_model_open("canary", NULL);
 *   if (model == NULL) { fprintf(stderr, "%s\n", plumb_error()); return 1; }
 *   plumb_conversation* talk = plumb_conversation_new(model, "Answer in one sentence.");
 *   const plumb_answer* answer = plumb_say(talk, "Name a river.", NULL, NULL, NULL);
 *   if (answer != NULL) puts(answer->text);
 *   plumb_answer_free(answer);
 *   plumb_conversation_free(talk);
 *   plumb_model_free(model);
 *
 * Failures. A function that returns a pointer returns NULL, and one that returns a bool returns false; plumb_error() then
 * has a sentence that says what is wrong and what to do. The object that failed stays as it was and can still be used. No
 * C++ exception leaves the library.
 *
 * Texts are UTF-8 and end with a zero byte. Where a text that is returned may hold other zero bytes, its size comes with
 * it. Arguments of a call are needed only until it returns. The _free functions take NULL.
 *
 * Structs that begin with `size` are filled in by their _init function; their size tells the library which members the
 * caller knows.
 *
 * Threads. Any threads may use one model and different conversations of it at the same time. The model computes for one of
 * them at a time, an answer at a time; the others wait. One conversation must not be used by two threads at once. A
 * callback runs on the thread of the call that it was given to; it must not call the same model or its conversations. */
#ifndef PLUMB_PLUMB_C_H
#define PLUMB_PLUMB_C_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define PLUMB_API __attribute__((visibility("default")))
#else
#define PLUMB_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct plumb_model plumb_model;
typedef struct plumb_conversation plumb_conversation;

typedef int32_t plumb_token;

/* "0.1.0" */
PLUMB_API const char* plumb_version(void);
/* The last failure of this thread; valid until its next one. "" before the first. */
PLUMB_API const char* plumb_error(void);
/* Frees an array or a text that says so. */
PLUMB_API void plumb_free(void* memory);

/* Models */

typedef struct plumb_model_options {
  size_t size;
  const char* backend;     /* "auto", "reference", "cpu", "cuda", "metal" or "checker" */
  uint32_t threads;        /* 0: the cores that this process may use */
  uint32_t ctx;            /* the most tokens of a conversation; 0: as the command line chooses */
  const char* kv_type;     /* "f16" or "f32": how keys and values are kept */
  const char* activations; /* "int16" or "int8": what the cpu backend rounds the inputs of quantized products to */
  /* Called while the model loads, with bytes; false stops the loading. May be NULL. */
  bool (*on_progress)(void* user, uint64_t done, uint64_t total);
  void* user;                     /* given to on_progress */
  const char* template_variables; /* of the chat template: a JSON object, such as {"enable_thinking":false} */
} plumb_model_options;

/* The command line's defaults; a text that is NULL means its default. `size` is sizeof(plumb_model_options). */
PLUMB_API void plumb_model_options_init(plumb_model_options* options, size_t size);
/* `model`: a .gguf file (or the first of a split set); the name of a model that `plumb pull` has fetched, or what it was
 * fetched by, hf:OWNER/REPO:QUANT or NAME:TAG; or "canary", the model that is part of the library. Nothing is fetched.
 * `options` may be NULL. */
PLUMB_API plumb_model* plumb_model_open(const char* model, const plumb_model_options* options);
/* Conversations of the model keep it loaded. */
PLUMB_API void plumb_model_free(plumb_model* model);

PLUMB_API uint32_t plumb_vocabulary(const plumb_model* model); /* tokens, and logits of a step */
PLUMB_API uint32_t plumb_ctx(const plumb_model* model);        /* the most tokens of a conversation */
PLUMB_API bool plumb_has_template(const plumb_model* model);
/* The backend that runs, "cpu", and a line about it, "AVX-512 VNNI, 2 threads". They live as long as the model. */
PLUMB_API const char* plumb_backend(const plumb_model* model);
PLUMB_API const char* plumb_description(const plumb_model* model);

/* Text and tokens */

/* The tokens of a text as `plumb tokenize` has them: with the special tokens that the file asks for at the ends, unless
 * no_bos is set; the text of special tokens in it is read as these tokens. Free them with plumb_free. */
PLUMB_API plumb_token* plumb_tokenize(const plumb_model* model, const char* text, bool no_bos, size_t* n_tokens);
/* The text of tokens, to be freed with plumb_free. `size` receives its bytes, and may be NULL. */
PLUMB_API char* plumb_detokenize(const plumb_model* model, const plumb_token* tokens, size_t n_tokens, size_t* size);

typedef struct plumb_message {
  const char* role; /* "system", "user", "assistant", or another that the model's template knows */
  const char* content;
} plumb_message;

/* The text that the chat template makes of messages, and its tokens. Free them with plumb_free. */
PLUMB_API char* plumb_render(const plumb_model* model, const plumb_message* messages, size_t n_messages);
PLUMB_API plumb_token* plumb_chat_tokens(const plumb_model* model, const plumb_message* messages, size_t n_messages,
                                         size_t* n_tokens);

/* Answers */

typedef struct plumb_bias {
  plumb_token token;
  float bias; /* added to the token's logit; -INFINITY bans it */
} plumb_bias;

/* How an answer is made; docs/cli.md, `plumb run`, has the ranges. */
typedef struct plumb_settings {
  size_t size;
  double temperature; /* 0: always the most likely token */
  double top_p;
  double min_p;
  double repeat_penalty;
  double presence_penalty;
  double frequency_penalty;
  int32_t top_k;
  int32_t repeat_last_n;
  bool random_seed; /* another seed for each answer, which plumb_answer names; else `seed` */
  uint64_t seed;
  const plumb_bias* logit_bias;
  size_t n_logit_bias;
  const char* const* stop; /* the answer ends before any of these texts */
  size_t n_stop;
  uint32_t max_tokens; /* 0: until the model ends or the context is full */
  uint32_t logprobs;   /* how many alternatives plumb_answer_token::top has */
} plumb_settings;

/* The command line's defaults for this model. `size` is sizeof(plumb_settings). */
PLUMB_API void plumb_settings_init(plumb_settings* settings, size_t size, const plumb_model* model);

typedef struct plumb_alternative {
  plumb_token id;
  double logprob; /* natural logarithm of the probability; sampling settings do not change it */
} plumb_alternative;

typedef struct plumb_answer_token {
  plumb_token id;
  const char* text; /* may be a part of a UTF-8 character; empty for a control token */
  size_t text_size;
  double logprob;               /* of this token; only where plumb_settings::logprobs is not 0 */
  const plumb_alternative* top; /* the most likely, most likely first */
  size_t n_top;
} plumb_answer_token;

/* Why an answer ended. */
typedef enum plumb_reason {
  PLUMB_END_OF_GENERATION,
  PLUMB_STOP_TEXT,
  PLUMB_MAX_TOKENS,
  PLUMB_CONTEXT_FULL,
  PLUMB_INTERRUPTED
} plumb_reason;
/* As `plumb run --json` prints it: "end of generation", ... */
PLUMB_API const char* plumb_reason_name(plumb_reason reason);

typedef struct plumb_answer {
  const char* text; /* without the stop text */
  size_t text_size;
  const plumb_answer_token* tokens;
  size_t n_tokens;
  plumb_reason reason;
  uint64_t prompt_tokens; /* all that the answer follows, from the start of the conversation */
  uint64_t read_tokens;   /* those of them that were read for this answer; the rest was known */
  double prompt_seconds;  /* for reading */
  double answer_seconds;
  uint64_t seed;
} plumb_answer;

PLUMB_API void plumb_answer_free(const plumb_answer* answer);

/* Receives an answer's text piece by piece, each as soon as it is final; false ends the answer. */
typedef bool (*plumb_on_text)(void* user, const char* text, size_t size);

/* Conversations: what a model has read and answered so far. What it has read once is not read again, as far as the tokens
 * stay the same. */

/* `system` may be NULL. */
PLUMB_API plumb_conversation* plumb_conversation_new(const plumb_model* model, const char* system);
PLUMB_API void plumb_conversation_free(plumb_conversation* conversation);

/* The three below answer. `settings` and `on_text` may be NULL; `user` is given to on_text. Free the answer with
 * plumb_answer_free. */

/* Adds a user's message and the model's answer to the conversation's messages. */
PLUMB_API const plumb_answer* plumb_say(plumb_conversation* conversation, const char* text, const plumb_settings* settings,
                                        plumb_on_text on_text, void* user);
/* Puts messages in place of the conversation's, and adds the model's answer to them. */
PLUMB_API const plumb_answer* plumb_answer_messages(plumb_conversation* conversation, const plumb_message* messages,
                                                    size_t n_messages, const plumb_settings* settings,
                                                    plumb_on_text on_text, void* user);
/* Without a template: adds tokens to the conversation's, and what the model goes on with. There are no messages afterwards.
 */
PLUMB_API const plumb_answer* plumb_complete(plumb_conversation* conversation, const plumb_token* more, size_t n_more,
                                             const plumb_settings* settings, plumb_on_text on_text, void* user);

/* Adds tokens to the conversation's, and writes the logits of what follows, plumb_vocabulary() of them. */
PLUMB_API bool plumb_logits(plumb_conversation* conversation, const plumb_token* more, size_t n_more, float* logits);
/* All tokens so far, prompts and answers; valid until the conversation changes. NULL where there are none. */
PLUMB_API const plumb_token* plumb_tokens(const plumb_conversation* conversation, size_t* n_tokens);
/* The messages so far; valid until the conversation changes. NULL where there are none. */
PLUMB_API const plumb_message* plumb_messages(plumb_conversation* conversation, size_t* n_messages);
/* Forgets the tokens from number n on, and the messages. */
PLUMB_API bool plumb_rewind(plumb_conversation* conversation, size_t n);

/* A second conversation that begins with all of this one. */
PLUMB_API plumb_conversation* plumb_fork(const plumb_conversation* conversation);
/* Writes messages, tokens and the model's state to a file, for plumb_restore(). An existing file is replaced when the new
 * one is complete. */
PLUMB_API bool plumb_save(const plumb_conversation* conversation, const char* path);
/* Failures: another model's conversation, a damaged file, one longer than plumb_ctx(). */
PLUMB_API plumb_conversation* plumb_restore(const plumb_model* model, const char* path);

#ifdef __cplusplus
}
#endif

#endif
