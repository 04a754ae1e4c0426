#include "plan/parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>

namespace plumb::plan {
namespace {

std::string_view name_of(Activation activation) {
  switch (activation) {
    case Activation::silu:
      return "SiLU";
    case Activation::gelu_tanh:
      return "GELU (tanh)";
    case Activation::gelu_erf:
      return "GELU";
    case Activation::relu:
      return "ReLU";
    case Activation::relu_squared:
      return "squared ReLU";
    case Activation::sigmoid:
      return "sigmoid";
    case Activation::tanh:
      return "tanh";
    case Activation::identity:
      return "the identity";
    case Activation::xielu:
      return "xIELU";
  }
  return "";
}

std::string_view name_of(Gating gating) {
  switch (gating) {
    case Gating::softmax:
      return "softmax";
    case Gating::softmax_of_chosen:
      return "softmax of the chosen";
    case Gating::sigmoid:
      return "sigmoid";
    case Gating::sigmoid_normalized:
      return "normalized sigmoid";
  }
  return "";
}

class Parts {
 public:
  explicit Parts(const Plan& plan) : plan_(plan) {}

  std::vector<std::string> take() {
    for (const Op& op : plan_.ops) {
      std::visit([this](const auto& o) { see(o); }, op);
    }
    const auto attentions = of<Attention>();
    const auto some_or_all = [&](auto has) {
      return std::ranges::all_of(attentions, has) ? "in all layers" : "in some layers";
    };
    if (std::ranges::any_of(attentions, has_window)) {
      const bool chunks = attentions.front()->window_kind != WindowKind::sliding;
      add(fmt::format("{} {}", chunks ? "windows in chunks" : "sliding windows", some_or_all(has_window)));
    }
    const std::size_t n_turning = of<Rope>().size();
    if (n_turning > 0 && n_turning < 2 * attentions.size()) add("layers without rotary");
    if (thetas_.size() > 1) add("two rotary bases");
    if (is_parallel()) add("attention and feed-forward side by side");
    return std::move(parts_);
  }

 private:
  // Whether nothing but the sum of a block reads what attention has been added to.
  [[nodiscard]] bool is_parallel() const {
    const auto sum = plan_.find("blk.0.attn_resid");
    return sum && std::ranges::none_of(plan_.ops, [&](const Op& op) {
             return !std::holds_alternative<Add>(op) && std::ranges::count(inputs(op), *sum) > 0;
           });
  }

  static bool has_window(const Attention* op) { return op->window > 0; }

  void add(std::string part) {
    if (std::ranges::find(parts_, part) == parts_.end()) parts_.push_back(std::move(part));
  }
  template <class T>
  [[nodiscard]] std::vector<const T*> of() const {
    std::vector<const T*> found;
    for (const Op& op : plan_.ops) {
      if (const T* one = std::get_if<T>(&op)) found.push_back(one);
    }
    return found;
  }
  // "attn_q" of "blk.3.attn_q".
  [[nodiscard]] std::string_view role(ValueId id) const {
    const std::string_view name = plan_.value(id).name;
    return name.substr(name.rfind('.') + 1);
  }

  void see(const Embed& op) {
    if (op.by == EmbedBy::position) add("learned positions");
    if (op.by == EmbedBy::segment) add("segments");
    if (op.scale != 1) add("scaled embeddings");
  }
  void see(const Norm& op) {
    const std::string_view kind = op.kind == NormKind::rms ? "RMS norms" : "layer norms";
    const std::string_view what = role(op.out);
    if (what == "attn_k_norm") return;
    if (what == "attn_q_norm") {
      const bool whole = op.group == plan_.value(op.out).width;
      return add(fmt::format("{} of {}q and k{}", kind, whole ? "all heads of " : "each head of ",
                             op.weight ? "" : ", without weight"));
    }
    if (what.ends_with("post_norm")) return add(fmt::format("{} after attention and feed-forward", kind));
    add(fmt::format("{}{}", kind, op.bias ? " with bias" : ""));
  }
  void see(const Linear& op) {
    if (!op.bias) return;
    const std::string_view what = role(op.out);
    add(what == "attn_q" || what == "attn_k" || what == "attn_v" || what == "attn_qkv" ? "biases of q, k and v"
        : what == "attn_out"                                                           ? "a bias of attention's output"
        : what.starts_with("ffn")                                                      ? "biases of the feed-forward"
                                                                                       : "a bias of the logits");
  }
  void see(const Rope& op) {
    thetas_.insert(op.theta);
    add(fmt::format("rotary of {}{}", op.pairing == RopePairing::adjacent ? "adjacent pairs" : "halves",
                    op.n_rot < op.head_dim ? " of a part of each head" : ""));
    if (op.position_scale != 1 && !op.yarn) add("linear scaling of positions");
    if (op.yarn) add("YaRN");
    if (op.long_factors) {
      add("LongRoPE");
    } else if (op.factors) {
      add("divisors of the rotary frequencies");
    }
  }
  void see(const KvWrite&) {}
  void see(const Attention& op) {
    add(op.n_kv_heads < op.n_heads ? "grouped-query attention" : "attention with K and V for each head");
    if (op.soft_cap > 0) add("soft-capped attention");
    if (op.sinks) add("sinks");
    if (op.alibi_max_bias > 0) add("ALiBi");
    if (!op.causal) add("attention to both sides");
  }
  void see(const Activate& op) {
    if (role(op.out).find("ffn_act") == std::string_view::npos) return;
    add(fmt::format("feed-forward {} by {}{}", op.up ? "with a gate" : "without a gate", name_of(op.activation),
                    op.limit > 0 ? ", clamped" : ""));
  }
  void see(const Add&) {}
  void see(const Scale& op) {
    if (op.temperature) add("queries sharpened by position");
    const std::string_view what = role(op.out);
    if (op.factor == 1) return;
    if (what == "logits") add("scaled logits");
    if (what == "embd") add("scaled embeddings");
    if (what.ends_with("_branch")) add("scaled branches");
  }
  void see(const SoftCap&) { add("soft-capped logits"); }
  void see(const TopK& op) {
    if (op.bias) add("a bias in the choice of experts");
    if (op.n_groups > 1) add("groups of experts");
  }
  void see(const ExpertWeights& op) {
    add(fmt::format("experts weighed by {}", name_of(op.gating)));
    if (op.scale != 1) add("scaled weights of experts");
  }
  void see(const ExpertLinear& op) {
    if (op.bias) add("biases of experts");
  }
  void see(const ExpertSum& op) {
    const std::string_view name = plan_.value(op.out).name;
    const auto shared = plan_.find(std::string(name.substr(0, name.rfind('.') + 1)) + "ffn_down_shexp");
    if (shared) add("shared experts");
  }

  const Plan& plan_;
  std::vector<std::string> parts_;
  std::set<float> thetas_;
};

}  // namespace

std::vector<std::string> parts(const Plan& plan) { return Parts(plan).take(); }

}  // namespace plumb::plan
