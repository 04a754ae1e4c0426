// Shared by the files of planted faults. Each family of the catalogue has a file.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "diagnose/faulty_engine.h"

namespace plumb::diagnose::planted {

using Names = std::vector<std::string>;
using Causes = std::set<std::string>;
using Make = std::function<Floats(const Engine&, Op)>;
// Adds a fault to the corpus: its name, the ops in which it can be planted, how to make it, and the causes that are right.
using Add = std::function<void(std::string name, Names roles, Make make, Causes causes)>;

extern const Names products, any;

// The right op, after which each element, or the whole, is changed.
Make each(float (*change)(float));
Make then(std::function<void(Floats& y, std::size_t width, const Op& op)> change);
// The op with changed parameters or inputs.
Make with(std::function<void(const Engine&, Op&)> change);
// The op with other numbers as its weight. If there are none, the fault cannot be made in this op.
Make weights(std::function<Floats(const Op&)> read);

// "blk.3.attn_q"
std::string blk(std::size_t layer, std::string_view rest);

void add_embedding_faults(const Add& add);
void add_norm_faults(const Add& add);
void add_logits_faults(const Add& add);
void add_product_faults(const Add& add);
void add_quantization_faults(const Add& add);
void add_rope_faults(const Add& add);
void add_attention_faults(const Add& add);
void add_feed_forward_faults(const Add& add);
void add_precision_faults(const Add& add);
void add_buffer_faults(const Add& add);
void add_unknown_faults(const Add& add);

}  // namespace plumb::diagnose::planted
