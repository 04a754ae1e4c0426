// An architecture: reads the hyper-parameters of files that name it, and gives its forward pass as a recipe of shared
// blocks. Each file of architectures/ defines one Architecture, whose name is the file's.
#pragma once

#include <string_view>

#include "model/blocks.h"
#include "model/keys.h"
#include "model/model.h"

namespace plumb::model {

struct Architecture {
  std::string_view name;  // general.architecture
  // The result counts where the keys have no complaints.
  HyperParameters (*read)(Keys& keys);
  // Emits the ops of a step and returns the logits.
  plan::ValueId (*forward)(Assembler& a);
};

}  // namespace plumb::model
