// Asks the canary, the model that is part of the library. Build: see docs/library.md.
#include <iostream>
#include <plumb/plumb.h>

int main() {
  plumb::Model model = plumb::Model::open("canary");
  std::cout << model.ask("1") << '\n';
}
