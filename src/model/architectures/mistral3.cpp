// Mistral Small 3 and Ministral 3: llama with YaRN, and with a temperature of queries that grows with the position.
#include <cmath>

#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture mistral3{
    .name = "mistral3",
    .read =
        [](Keys& keys) {
          constexpr std::string_view multiplier_key = "rope.scaling.yarn_log_multiplier";
          constexpr std::string_view temperature_key = "attention.temperature_scale";
          HyperParameters p = read_decoder(keys, {.rope = RopeConventions{}, .heeds = {multiplier_key, temperature_key}});
          // The checkpoint's mscale_all_dim: YaRN's magnitude 0.1 ln(factor) + 1 is divided by the same with this
          // multiplier.
          const std::optional<double> multiplier = keys.optional_number(multiplier_key, 0, 100);
          if (multiplier) p.rope.magnitude /= 0.1 * *multiplier * std::log(p.rope.factor) + 1;
          const std::optional<double> beta = keys.optional_number(temperature_key, 0, 100);
          if (beta && *beta > 0) {
            if (!p.rope.yarn) {
              keys.odd(temperature_key, "is set, but the original context length is unknown without YaRN");
              return p;
            }
            for (LayerParameters& layer : p.layers) {
              layer.temperature =
                  plan::Temperature{.beta = static_cast<float>(*beta), .length = p.rope.yarn->original_context};
            }
          }
          return p;
        },
    .forward = [](Assembler& a) { return pre_norm_decoder(a); },
};

}  // namespace plumb::model::architectures
