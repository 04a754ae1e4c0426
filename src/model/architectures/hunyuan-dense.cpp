// Hunyuan: norms of each head after it has rotated, in halves.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture hunyuan_dense{
    .name = "hunyuan-dense",
    .read = [](Keys& keys) { return read_decoder(keys, {.rope = whole_heads_in_halves}); },
    .forward = [](Assembler& a) { return pre_norm_decoder(a, {.qk_norm = QkNorm::heads_after_rope}); },
};

}  // namespace plumb::model::architectures
