// Asks the canary, the model that is part of the library. Build: see docs/library.md.
#include <plumb/plumb.h>
#include <iostream>

int main() {
  const plumb::Model model = plumb::Model::open("canary");
  std::cout << model.ask("1", {.temperature = 0}).text << '\n';
}
