/* Puts report.html in the read-only data of the program. */
#if defined(__APPLE__)
#define SYMBOL(name) _##name
  .const
#else
#define SYMBOL(name) name
  .section .rodata
#endif
  .globl SYMBOL(plumb_report_page_begin)
  .globl SYMBOL(plumb_report_page_end)
SYMBOL(plumb_report_page_begin):
  .incbin PLUMB_REPORT_PAGE
SYMBOL(plumb_report_page_end):
  .byte 0
#if defined(__linux__)
  .section .note.GNU-stack,"",%progbits
#endif
