#include "base/terminal.h"

#include <unistd.h>

#include <cstdlib>
#include <string_view>

namespace plumb {

bool can_redraw(int fd) {
  const char* terminal = std::getenv("TERM");
  return terminal != nullptr && *terminal != '\0' && std::string_view(terminal) != "dumb" && ::isatty(fd) == 1;
}

bool can_color(int fd) {
  const char* no_color = std::getenv("NO_COLOR");
  return (no_color == nullptr || *no_color == '\0') && can_redraw(fd);
}

}  // namespace plumb
