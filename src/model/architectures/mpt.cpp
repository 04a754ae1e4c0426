// MPT: ALiBi in place of positions, layer norms, and a feed-forward without a gate.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture mpt{
    .name = "mpt",
    .read =
        [](Keys& keys) {
          constexpr std::string_view alibi_key = "attention.max_alibi_bias";
          HyperParameters p = read_decoder(keys, {.norm_kind = plan::NormKind::layer, .heeds = {alibi_key}});
          p.alibi_max_bias = keys.number(alibi_key, 0, 1e6);
          return p;
        },
    .forward =
        [](Assembler& a) {
          return pre_norm_decoder(a, {.fused_qkv = true}, {.activation = plan::Activation::gelu_erf, .has_gate = false});
        },
};

}  // namespace plumb::model::architectures
