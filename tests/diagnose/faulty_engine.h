// A second engine, in which faults are planted. It is written from the architectures' definitions, and uses only Plumb's
// file reader and decoders, so that diagnosis is tested with mistakes that its own catalogue did not make.
//
// It runs llama, qwen2, qwen3 and gpt2 files in float32: the prompt in one pass, then token by token. A form changes what
// these files ask for. A Plant replaces one op of a layer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gguf/file.h"
#include "quants/format.h"

namespace plumb::diagnose::planted {

using Floats = std::vector<float>;

struct Matrix {
  Floats data;  // [rows, width]
  std::size_t rows = 0, width = 0;
  quants::Format format{};
  std::span<const std::byte> raw;
};

struct Config {
  std::size_t n_layers = 0, d = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0, n_rot = 0;
  double eps = 0, theta = 0;
  bool halves = false;  // components (i, i + n_rot/2) turn together
  bool gpt2 = false;
  // Forms that the files do not ask for; Engine's `form` sets them.
  std::vector<std::size_t> windows;  // by layer; 0: none. Empty: none in any layer
  bool chunked = false;              // windows are parts of the sequence
  bool causal = true;                // else a window lies on both sides
  double alibi_max_bias = 0;
  std::vector<std::size_t> caches;  // by layer: the layer whose cache it reads. Empty: its own
  Floats factors;                   // divide the rotary frequencies; may be empty

  // Whether the token at position t attends to position s.
  [[nodiscard]] bool sees(std::size_t layer, std::size_t t, std::size_t s) const;
  // Added to the score of a head, of numbers from 0.
  [[nodiscard]] double bias(std::size_t head, std::size_t t, std::size_t s) const;
};

// An op that is about to be computed. A fault may change any of these members and compute the op, or make its own result.
struct Op {
  std::string role;  // "attn_q" of blk.3.attn_q
  std::size_t layer = 0;
  std::uint32_t step = 0;
  std::size_t position = 0;  // of the first row
  std::size_t rows = 0;
  Floats x;      // [rows, width]
  Floats other;  // ffn_act: up, if there is a gate; attn_resid and output: the branch; embd: the positions' rows
  Matrix w, bias;
  Config config;
  // attn_ctx: positions so far, this step's among them; a fault may put other numbers in
  Floats keys, values;
};

class Engine;

struct Plant {
  std::string name;
  std::vector<std::string> roles;  // ops in which it can be planted
  std::function<Floats(const Engine&, Op)> make;
  std::set<std::string> causes;  // names that are right; empty: no name is
};

struct Planted {
  const Plant* fault = nullptr;
  std::string role;
  std::size_t layer = 0;
  bool prompt = true, decode = true;
  mutable double effect = 0;  // largest relative root mean square difference from the right output
};

class Engine {
 public:
  using Form = std::function<void(Config&)>;
  explicit Engine(const gguf::File& file, const Form& form = {});
  // An engine for the same file that makes mistakes. `healthy` must have run the same tokens, and must outlive this engine:
  // values before the first mistake are taken from it.
  Engine(const Engine& healthy, std::vector<Planted> planted);

  // Runs tokens, the first n_prompt of them in one pass, and writes all values as a trace. context: what the trace
  // states; 0: nothing.
  void run(const std::vector<std::int32_t>& tokens, std::size_t n_prompt, const std::filesystem::path& path,
           std::uint32_t context = 0);

  // The right op's output.
  [[nodiscard]] Floats plain(const Op& op) const;
  [[nodiscard]] bool has_weight(const std::string& name) const { return weights_->contains(name); }
  [[nodiscard]] const Matrix& weight(const std::string& name) const { return weights_->at(name); }
  // A value of this step or of an earlier one; empty if there is none.
  [[nodiscard]] Floats value(const std::string& name, std::uint32_t step) const;
  [[nodiscard]] const std::pair<Floats, Floats>& cache(std::size_t layer) const { return cache_.at(layer); }
  [[nodiscard]] const std::vector<std::int32_t>& tokens() const { return tokens_; }
  [[nodiscard]] const Config& config() const { return config_; }
  [[nodiscard]] const std::vector<Planted>& planted() const { return planted_; }

 private:
  Floats op(Op op, const std::string& name);

  Config config_;
  std::shared_ptr<const std::map<std::string, Matrix>> weights_;
  const Engine* healthy_ = nullptr;
  std::vector<Planted> planted_;
  bool is_wrong_ = false;  // a mistake has been made
  std::vector<std::int32_t> tokens_;
  std::map<std::pair<std::uint32_t, std::string>, Floats> seen_;
  std::vector<std::pair<std::string, std::pair<std::uint32_t, std::size_t>>> order_;  // name, step, rows
  std::map<std::size_t, std::pair<Floats, Floats>> cache_;
};

// The parts of ops, from which faults are built.
Floats multiply(const Floats& x, const Floats& w, std::size_t rows, std::size_t width);

const std::vector<Plant>& faults();
// Faults in the parts that only GPT-2 has.
const std::vector<Plant>& gpt2_faults();
// Faults in forms of attention and rotation that only some architectures have, each with its form.
struct FormFaults {
  std::string form;
  std::vector<Plant> faults;
};
const std::vector<FormFaults>& form_faults();
// Faults in ternary weights, TQ2_0.
const std::vector<Plant>& ternary_faults();

}  // namespace plumb::diagnose::planted
