// What may be written beside plain text.
#pragma once

namespace plumb {

// Whether text on this file descriptor may move the cursor and erase lines: it is a terminal, and TERM names one that can.
bool can_redraw(int fd);
// Whether it may have colours and other styles: it may be redrawn, and the variable NO_COLOR is not set
// (https://no-color.org).
bool can_color(int fd);

}  // namespace plumb
