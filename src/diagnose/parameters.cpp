#include "diagnose/parameters.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <variant>

#include "diagnose/hypothesis.h"

namespace plumb::diagnose {

namespace {

using Json = nlohmann::json;

constexpr Hypothesis parameters_table[] = {
    {"parameter-differs", Kind::parameter, R"(the engine runs with another hyper-parameter than the file's
It says so itself. Usually it is a default that the file should have overridden, or a key of another name.
read it from the file's metadata)"},
};

template <class Op>
const Op* first(const plan::Plan& plan) {
  for (const plan::Op& op : plan.ops) {
    if (const auto* found = std::get_if<Op>(&op)) return found;
  }
  return nullptr;
}

// By the names that docs/trace.md lists.
std::map<std::string, Json, std::less<>> of_file(const model::Model& model) {
  const model::HyperParameters& h = model.parameters();
  const plan::Plan& plan = *model.plan();
  std::map<std::string, Json, std::less<>> result = {{"architecture", h.architecture},
                                                     {"n_layers", h.n_layers},
                                                     {"d_model", h.d_model},
                                                     {"n_heads", h.n_heads},
                                                     {"n_kv_heads", h.n_kv_heads},
                                                     {"head_dim", h.head_dim},
                                                     {"d_ff", h.d_ff},
                                                     {"vocab_size", h.vocab},
                                                     {"rms_eps", h.norm_eps},
                                                     {"sliding_window", h.window},
                                                     {"attn_scale", h.attention_scale},
                                                     {"tied_embeddings", h.tied_embeddings}};
  if (const auto* rope = first<plan::Rope>(plan)) {
    result["rope_theta"] = rope->theta;
    result["rope_dim"] = rope->n_rot;
    result["rope_pairing"] = rope->pairing == plan::RopePairing::adjacent ? "adjacent" : "halves";
    result["rope_scaling"] = name(h.rope.scaling);
    result["rope_factor"] = h.rope.factor;
  }
  if (const auto* embed = first<plan::Embed>(plan)) result["embedding_scale"] = embed->scale;
  if (const auto* attention = first<plan::Attention>(plan)) result["attn_softcap"] = attention->soft_cap;
  const auto* cap = first<plan::SoftCap>(plan);
  result["logit_softcap"] = cap == nullptr ? 0.0f : cap->cap;
  if (const auto* top = first<plan::TopK>(plan)) result["n_experts_used"] = top->k;
  if (const auto* experts = first<plan::ExpertLinear>(plan))
    result["n_experts"] = plan.weights[experts->weight.index].n_experts();
  const auto integer = [&](const char* name, const char* key) {
    if (const auto value = model.file().get_uint(key)) result[name] = *value;
  };
  integer("bos_id", "tokenizer.ggml.bos_token_id");
  integer("eos_id", "tokenizer.ggml.eos_token_id");
  if (const auto value = model.file().get_bool("tokenizer.ggml.add_bos_token")) result["add_bos"] = *value;
  return result;
}

// An engine's configuration may have numbers as text, such as "1"; they count as numbers.
Json number_in(const Json& value) {
  if (!value.is_string()) return value;
  const Json number = Json::parse(value.get_ref<const std::string&>(), nullptr, false);
  return number.is_number() ? number : value;
}

bool same(const Json& a, const Json& b) {
  if (!a.is_number() || !b.is_number()) return a == b;
  return static_cast<float>(a.get<double>()) == static_cast<float>(b.get<double>());
}

std::string shown(const Json& value) {
  return value.is_number_float() ? fmt::format("{:.7g}", value.get<double>())
         : value.is_string()     ? value.get<std::string>().substr(0, 40)
                                 : value.dump().substr(0, 40);
}

}  // namespace

std::span<const Hypothesis> families::parameters() { return parameters_table; }

DeclaredParameters compare(const std::vector<trace::Parameter>& declared, const model::Model& model) {
  const auto file = of_file(model);
  DeclaredParameters result;
  for (const trace::Parameter& parameter : declared) {
    const auto found = file.find(parameter.name);
    const Json value = number_in(Json::parse(parameter.value, nullptr, false));
    if (found == file.end() || value.is_discarded() || value.is_null()) {
      result.unknown.push_back(parameter.name);
    } else if (same(value, found->second)) {
      result.agree.push_back(parameter.name);
    } else {
      result.differ.push_back(
          fmt::format("{} is {} where the file has {}", parameter.name, shown(value), shown(found->second)));
    }
  }
  return result;
}

}  // namespace plumb::diagnose
