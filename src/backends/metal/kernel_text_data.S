/* Puts the kernels' Metal text in the read-only data of the program, and a zero byte after it. */
#if defined(__APPLE__)
#define SYMBOL(name) _##name
  .const
#else
#define SYMBOL(name) name
  .section .rodata
#endif
  .globl SYMBOL(plumb_metal_text_begin)
  .globl SYMBOL(plumb_metal_text_end)
SYMBOL(plumb_metal_text_begin):
  .incbin PLUMB_METAL_TEXT
SYMBOL(plumb_metal_text_end):
  .byte 0
#if defined(__linux__)
  .section .note.GNU-stack,"",%progbits
#endif
