/* Talks to a model in C. Without an argument it asks the canary, the model that is part of the library. Build: see
 * docs/library.md. */
#include <plumb/plumb_c.h>

#include <stdio.h>

static bool print_piece(void* user, const char* text, size_t size) { return fwrite(text, 1, size, user) == size; }

static bool say(plumb_conversation* talk, const char* text, const plumb_settings* settings) {
  const plumb_answer* answer = plumb_say(talk, text, settings, print_piece, stdout);
  if (answer == NULL) return false;
  printf("\n");
  fprintf(stderr, "(%zu tokens; %s)\n", answer->n_tokens, plumb_reason_name(answer->reason));
  plumb_answer_free(answer);
  return true;
}

int main(int argc, char** argv) {
  plumb_model* model = plumb_model_open(argc > 1 ? argv[1] : "canary", NULL);
  plumb_conversation* talk = model == NULL ? NULL : plumb_conversation_new(model, NULL);
  bool good = talk != NULL;
  if (good) {
    plumb_settings settings;
    plumb_settings_init(&settings, sizeof(settings), model);
    settings.temperature = 0;
    settings.max_tokens = 100;
    good = say(talk, "hello world", &settings) && say(talk, "upper cat", &settings);
  }
  if (!good) fprintf(stderr, "%s\n", plumb_error());
  plumb_conversation_free(talk);
  plumb_model_free(model);
  return good ? 0 : 1;
}
