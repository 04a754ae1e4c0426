/* Puts the canary and its questions in the read-only data of the program, page-aligned as a mapping would be. */
#if defined(__APPLE__)
#define SYMBOL(name) _##name
  .const
#else
#define SYMBOL(name) name
  .section .rodata
#endif
  .globl SYMBOL(plumb_canary_begin)
  .globl SYMBOL(plumb_canary_end)
  .globl SYMBOL(plumb_canary_answers_begin)
  .globl SYMBOL(plumb_canary_answers_end)
  .balign 4096
SYMBOL(plumb_canary_begin):
  .incbin PLUMB_CANARY_FILE
SYMBOL(plumb_canary_end):
  .byte 0
  .balign 64
SYMBOL(plumb_canary_answers_begin):
  .incbin PLUMB_CANARY_ANSWERS
SYMBOL(plumb_canary_answers_end):
  .byte 0
#if defined(__linux__)
  .section .note.GNU-stack,"",%progbits
#endif
